"""Judging a run's student again, from its folder alone."""

from pathlib import Path

from classroomkd.data import ViewLoader
from classroomkd.engine.build import EVALUATION_BATCH, choose_device, test_loader, training_sets
from classroomkd.engine.runs import RunFolder
from classroomkd.errors import ClassroomError
from classroomkd.models import StudentFile, load_student
from classroomkd.tasks import evaluate


def judge(
    folder: Path, split: str = "test", *, last: bool = False
) -> tuple[StudentFile, dict[str, float]]:
    """Evaluate the student of a run on plain images of a split of its data.

    Args:
        folder: of the run.
        split: ``"test"``, ``"dev"`` or ``"train"``.
        last: the last epoch's student instead of the chosen one.

    Returns:
        What the student's file says, and its scores (see `evaluate`).

    Raises:
        ClassroomError: if the folder is no run, or its data are not there.
    """
    run = RunFolder(folder)
    data = run.data()
    student, info = load_student(run.last if last else run.path)
    device = choose_device("auto")
    if split == "test":
        loader = test_loader(data, device)
    else:
        train, dev = training_sets(data)
        image_set = train if split == "train" else dev
        if image_set is None:
            raise ClassroomError(f"{folder} was trained without a development split")
        loader = ViewLoader(image_set, EVALUATION_BATCH, device=device)
    if loader.image_set.classes != info.classes:
        raise ClassroomError(f"{folder}: the student's classes are not those of {data.name} here")
    return info, evaluate(student.to(device), loader, len(info.classes))
