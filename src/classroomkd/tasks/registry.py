"""Which tasks there are, by name. Neither the engine nor the configuration imports one."""

import importlib
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from classroomkd.errors import unknown_name

if TYPE_CHECKING:
    from classroomkd.config.schema import RunRecipe
    from classroomkd.tasks.base import Task

ENTRY_POINTS = "classroomkd.tasks"
"""Group of entry points of other packages: each a module that calls `register_task`."""


@dataclass(frozen=True)
class _Entry:
    recipe: Any
    task: Any


_TASKS = {
    "classification": _Entry(
        "classroomkd.tasks.classification.recipe:Recipe",
        "classroomkd.tasks.classification.task:Classification",
    ),
    "pose": _Entry("classroomkd.tasks.pose.recipe:PoseRecipe", "classroomkd.tasks.pose.task:Pose"),
}
USUAL = "classification"
"""The task of a recipe that names none."""


def register_task(name: str, *, recipe: "type[RunRecipe] | str", task: "type[Task] | str") -> None:
    """Let recipes name a task.

    Args:
        name: as in ``task: name`` of a recipe.
        recipe: the class of its recipes, or where it is, ``"package.module:Class"``, to be imported
            when a recipe names the task.
        task: its `Task`, in either form.

    Raises:
        ValueError: if another task has the name.
    """
    entry = _Entry(recipe, task)
    if _TASKS.setdefault(name, entry) != entry:
        raise ValueError(f"there is a task '{name}' already")


def list_tasks() -> list[str]:
    """The names of all tasks, those of other packages among them."""
    for found in entry_points(group=ENTRY_POINTS):
        if found.name not in _TASKS:
            found.load()
    return sorted(_TASKS)


def recipe_class(name: str) -> "type[RunRecipe]":
    """The class of a task's recipes.

    Raises:
        ValueError: if there is no such task, with the nearest name.
    """
    return _resolved(_entry(name).recipe)


def task_class(name: str) -> "type[Task]":
    """A task's class.

    Raises:
        ValueError: if there is no such task, with the nearest name.
    """
    return _resolved(_entry(name).task)


def _entry(name: str) -> _Entry:
    if name not in _TASKS and name not in list_tasks():
        raise ValueError(unknown_name("task", name, list_tasks()))
    return _TASKS[name]


def _resolved(found: Any) -> Any:
    if not isinstance(found, str):
        return found
    module, _, name = found.partition(":")
    return getattr(importlib.import_module(module), name)
