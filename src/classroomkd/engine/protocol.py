"""What the engine asks of a classroom, whatever its task is."""

from pathlib import Path
from typing import Any, Protocol

import torch

from classroomkd.core import Lesson
from classroomkd.methods import Method


class AnyClassroom(Protocol):
    """A student, its mentors, the method, and the data that they meet on.

    Attributes:
        recipe: what it was built from.
        student: in training mode, on the device.
        mentors: those that the method learns from.
        method: on the device.
        train: batches of augmented views, in an order of their own for each epoch.
        dev: batches of plain views of the development split, or None without one.
        device: where everything lies.
        mentor_outputs: who of the mentors is asked, and what a bank knows; None if all are, always.
        first: a `FirstLesson`, or None: nobody looks at it.
    """

    recipe: Any
    student: Any
    mentors: Any
    method: Method
    train: Any
    dev: Any
    device: torch.device
    mentor_outputs: Any
    first: Any

    @property
    def headline(self) -> str:
        """The result that a student is chosen by; more is better, in percent."""
        ...

    def begin_epoch(self, epoch: int) -> None:
        """Order, views and every other chance of an epoch are functions of seed and epoch alone.

        Epochs are counted from the first of those that the method adds before the schedule.
        """

    def training_step(self, batch: Any) -> Lesson:
        """The lesson of a batch."""
        ...

    def end_epoch(self) -> None:
        """Let a bank keep what mentors have said in the epoch."""

    def data_facts(self) -> dict[str, Any]:
        """How many samples there are, and what the training set's content is known by."""
        ...

    def evaluate(self, student: Any, loader: Any) -> dict[str, float]:
        """How well a student does on plain views."""
        ...

    def test_views(self) -> Any:
        """Batches of plain views of the test set."""

    def illustrate(self, student: Any, folder: Path) -> None:
        """Keep in the run folder what its report draws beside numbers."""

    def save(self, student: Any, folder: Path, epoch: int, result: float | None) -> None:
        """Write a student's files; ``result`` is its headline on the development split."""

    def load(self, folder: Path) -> tuple[Any, int, float | None]:
        """A student from its files, on the device, with the epoch and result it was saved with."""
        ...
