"""Judging the student of a pose run again, from its folder alone."""

from typing import Any

from classroomkd.config import PoseRecipe, parse_recipe
from classroomkd.engine.pose.views import plain_loader, read_persons, training_persons
from classroomkd.engine.runs import RunFolder
from classroomkd.engine.views import choose_device
from classroomkd.errors import ClassroomError
from classroomkd.models.pose import PoseNetwork, PoseStudentFile, load_pose_student
from classroomkd.tasks.pose import evaluate_pose


def judge_pose_run(
    run: RunFolder, split: str, *, last: bool = False
) -> tuple[PoseNetwork, PoseStudentFile, dict[str, float], dict[str, Any]]:
    """Evaluate the student of a run on plain crops of a split of its data.

    Args:
        run: its folder.
        split: ``"test"``, ``"dev"`` or ``"train"``.
        last: the last epoch's student instead of the chosen one.

    Returns:
        The student, what its file says, its results, and what to know of them (see
        `evaluate_pose`).

    Raises:
        ClassroomError: if its data are not there.
    """
    recipe = without_mentors(run)
    student, info = load_pose_student(run.last if last else run.path)
    device = choose_device("auto")
    if split == "test":
        persons = read_persons(recipe, "test")
    else:
        train, dev = training_persons(recipe)
        persons = train if split == "train" else dev
    if persons is None:
        raise ClassroomError(f"{run.path} was trained without a development split")
    loader = plain_loader(recipe, persons, device)
    results, details = evaluate_pose(
        student.to(device), loader, persons, flip=recipe.lessons.flip_test
    )
    return student, info, results, details


def without_mentors(run: RunFolder) -> PoseRecipe:
    """A run's recipe as evaluation needs it: its mentors may be gone."""
    recipe = parse_recipe(
        {**run.raw(), "mentors": [], "method": {"name": "none"}}, str(run.path / "recipe.yaml")
    )
    assert isinstance(recipe, PoseRecipe)
    return recipe
