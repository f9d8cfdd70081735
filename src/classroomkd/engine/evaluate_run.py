"""Evaluating a student: in all processes of a team, or again from its run folder alone."""

import sys
from pathlib import Path
from typing import Any, NamedTuple

from classroomkd.data.epochs import Epochs
from classroomkd.engine.devices import DistContext
from classroomkd.engine.places import choose_device, task_of
from classroomkd.engine.runs import RunFolder
from classroomkd.errors import ClassroomError
from classroomkd.tasks.base import Task


class Evaluated(NamedTuple):
    """A run's student: its model, what it was trained on, and the epoch (from 0) that it is of."""

    model: str
    dataset: str
    epoch: int


def evaluate_together(
    task: Task, network: Any, loader: Epochs, team: DistContext
) -> dict[str, float]:
    """Evaluate a network in all processes of a team, each on whole batches in turn.

    Results are those of one process: a batch is the same batch, whoever sees it.

    Args:
        task: whose `evaluate` it is.
        network: the same in each process, but for its buffers: those of the first process count.
        loader: of all batches, in each process.
        team: all of which call this.
    """
    with team.first_buffers(network):
        return task.evaluate(network, loader.every(team.rank, team.size), team.all_gather)


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
