"""Judging a run's student again, from its folder alone."""

from pathlib import Path
from typing import NamedTuple

from classroomkd.data import ViewLoader
from classroomkd.engine.runs import RunFolder
from classroomkd.engine.views import EVALUATION_BATCH, choose_device, test_loader, training_sets
from classroomkd.errors import ClassroomError
from classroomkd.models import load_student
from classroomkd.tasks.classification import evaluate


class Judged(NamedTuple):
    """A run's student: its model, what it was trained on, and the epoch (from 0) that it is of."""

    model: str
    dataset: str
    epoch: int


def evaluate_run(
    folder: Path, split: str = "test", *, last: bool = False
) -> tuple[Judged, dict[str, float]]:
    """Evaluate the student of a run on plain images, or persons, of a split of its data.

    Args:
        folder: of the run.
        split: ``"test"``, ``"dev"`` or ``"train"``.
        last: the last epoch's student instead of the chosen one.

    Returns:
        Who was judged, and its results (see `evaluate`, and `evaluate_pose`).

    Raises:
        ClassroomError: if the folder is no run, or its data are not there.
    """
    run = RunFolder(folder)
    if run.raw().get("task") == "pose":
        from classroomkd.engine.pose.evaluate_run import (
            judge_pose_run,  # its libraries are an extra
        )

        network, info, results, _ = judge_pose_run(run, split, last=last)
        return Judged(network.name, info.dataset, info.epoch), results
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
    results = evaluate(student.to(device), loader, len(info.classes))
    return Judged(info.model, info.dataset, info.epoch), results
