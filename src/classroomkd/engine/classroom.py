"""A classroom: a student, its mentors, the method, and the data that they meet on."""

from dataclasses import dataclass
from typing import Any

import torch

from classroomkd.data.epochs import Epochs
from classroomkd.engine.balance import FirstLesson
from classroomkd.engine.devices import SINGLE_PROCESS, DistContext
from classroomkd.engine.mentor_outputs import MentorOutputs
from classroomkd.mentors import Mentor
from classroomkd.methods import Method
from classroomkd.tasks.base import Task


@dataclass
class Classroom:
    """A student, its mentors, the method, and the data that they meet on.

    Attributes:
        recipe: what it was built from.
        task: what is learnt.
        student: in training mode, on the device.
        mentors: those that the method learns from.
        method: on the device.
        train: batches of augmented views, in an order of their own for each epoch.
        dev: plain views of the development split, or None without one.
        device: where everything lies.
        mentor_outputs: what the mentors say about a batch, live or from the recipe's bank.
        team: the processes that train the student together.
        first: looks at the first lesson, if anybody does.
    """

    recipe: Any
    task: Task
    student: Any
    mentors: list[Mentor]
    method: Method
    train: Epochs
    dev: Epochs | None
    device: torch.device
    mentor_outputs: MentorOutputs
    team: DistContext = SINGLE_PROCESS
    first: FirstLesson | None = None

    @property
    def precision(self) -> str:
        """In which networks run."""
        return self.recipe.train.precision

    @property
    def headline(self) -> str:
        """The result that a student is chosen by; more is better, in percent."""
        return self.task.headline

    @property
    def epochs(self) -> int:
        """How many are trained: those of the recipe, and those that the method adds before."""
        return self.recipe.train.epochs + self.method.extra_epochs

    def data_facts(self) -> dict[str, Any]:
        """How many samples there are, and what the training set's content is known by."""
        return {
            "training_samples": len(self.train.dataset),
            "development_samples": len(self.dev.dataset) if self.dev else 0,
            "fingerprint": self.train.dataset.fingerprint,
            "notes": list(self.train.dataset.notes),
        }

    def begin_epoch(self, epoch: int, *, store: bool = True) -> None:
        """Order, views and every other chance of an epoch are functions of seed and epoch alone.

        Args:
            epoch: from the first of those that the method adds before the schedule.
            store: whether a bank is to keep what mentors say.
        """
        self.train.set_epoch(epoch)
        self.method.begin_epoch(epoch - self.method.extra_epochs, self.recipe.train.epochs)
        self.mentor_outputs.begin(self.train.view, self.train.samples(), store=store)
        torch.manual_seed(self.recipe.seed * 1_000_003 + epoch)

    def end_epoch(self) -> None:
        """Let the bank keep what mentors have said in the epoch."""
        self.mentor_outputs.end()
