"""The demonstration: a small classroom on scikit-learn's handwritten digits."""

from collections.abc import Callable
from pathlib import Path

from classroomkd.config import load_recipe
from classroomkd.engine.run import train
from classroomkd.errors import ClassroomError
from classroomkd.report import student_table, write_report

MENTORS = {"teacher": "resnet20", "peer-resnet14": "resnet14", "peer-vgg8": "vgg8"}
STUDENTS = {"alone": "none", "kd": "kd", "classroom": "classroom"}


def run_demo(folder: Path, *, say: Callable[[object], None] = print) -> None:
    """Train the mentors, then a student alone, by KD and by ClassroomKD; print and report.

    Args:
        folder: for the runs and ``report.html``; an earlier demonstration in it is replaced.
        say: told about the progress: lines of text, and the table of students.

    Raises:
        ClassroomError: if the folder holds anything but a demonstration.
    """
    known = {*MENTORS, *STUDENTS, "report.html"}
    if strange := [p.name for p in folder.glob("*") if p.name not in known]:
        raise ClassroomError(f"{folder} holds {strange[0]}: choose another folder with --out")
    for name, model in MENTORS.items():
        say(f"\n{name}: a {model} learns the digits")
        recipe = load_recipe("digits-mentor", [f"name={name}", f"student.model={model}"])
        train(recipe, folder / name, overwrite=True, say=say)
    runs = []
    for name, method in STUDENTS.items():
        say(f"\n{name}: a resnet8 student, method {method}")
        overrides = [f"name={name}", f"method.name={method}"]
        overrides += [f"mentors.{i}.run={folder / mentor}" for i, mentor in enumerate(MENTORS)]
        runs.append(folder / name)
        train(load_recipe("digits-classroom", overrides), runs[-1], overwrite=True, say=say)
    say(student_table(runs))
    say(f"report: {write_report(runs, folder / 'report.html')}")
