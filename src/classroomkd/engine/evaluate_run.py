"""Evaluating a run's student again, from its folder alone."""

import sys
from pathlib import Path
from typing import NamedTuple

from classroomkd.engine.places import choose_device, task_of
from classroomkd.engine.runs import RunFolder
from classroomkd.errors import ClassroomError


class Evaluated(NamedTuple):
    """A run's student: its model, what it was trained on, and the epoch (from 0) that it is of."""

    model: str
    dataset: str
    epoch: int


def evaluate_run(
    folder: Path, split: str = "test", *, last: bool = False
) -> tuple[Evaluated, dict[str, float]]:
    """Evaluate the student of a run on plain views of a split of its data.

    Args:
        folder: of the run.
        split: ``"test"``, ``"dev"`` or ``"train"``.
        last: the last epoch's student instead of the chosen one.

    Returns:
        Who was evaluated, and the results of its task's `evaluate`.

    Raises:
        ClassroomError: if the folder is no run, or its data are not there.
    """
    run = RunFolder(folder)
    recipe, device = run.evaluation_recipe(), choose_device("auto")
    task = task_of(recipe, device)
    student, epoch, _, outputs = task.load(run.last if last else run.path)
    if split == "test":
        dataset = task.test_set()
    else:
        train, dev = task.training_sets()
        dataset = train if split == "train" else dev
    if dataset is None:
        raise ClassroomError(f"{folder} was trained without a development split")
    for note in dataset.notes if split == "test" else ():
        print(note, file=sys.stderr)
    data = recipe.data.name
    if task.output_names(dataset) != outputs:
        raise ClassroomError(f"{folder}: the student's {task.outputs} are not those of {data} here")
    results = task.evaluate(student.to(device), task.plain_loader(dataset))
    return Evaluated(student.name, data, epoch), results
