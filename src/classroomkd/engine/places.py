"""Where a run takes place: its device, and its task on it."""

import torch

from classroomkd.config.schema import RunRecipe
from classroomkd.engine.devices import SINGLE_PROCESS, DistContext
from classroomkd.errors import ClassroomError
from classroomkd.tasks.base import Place, Task
from classroomkd.tasks.registry import task_class


def task_of(recipe: RunRecipe, device: torch.device, team: DistContext = SINGLE_PROCESS) -> Task:
    """The task of a recipe, in this process."""
    place = Place(device, (team.rank, team.size), team.local_size)
    return task_class(recipe.task)(recipe, place)


def choose_device(name: str, team: DistContext = SINGLE_PROCESS) -> torch.device:
    """The device that a recipe names; ``auto`` is a GPU where there is one.

    In a team, each process has the GPU of its place on its machine.

    Raises:
        ClassroomError: if the device is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and team.size > 1:
        device = torch.device("cuda", team.local_rank)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ClassroomError(f"train.device={name}: torch finds no CUDA device; use cpu or auto")
    return device
