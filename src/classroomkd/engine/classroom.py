"""A classroom of classification: a student, its mentors, the method, and their images."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from classroomkd.config import Recipe
from classroomkd.core import Lesson
from classroomkd.data import Batch, ViewLoader
from classroomkd.engine.balance import FirstLesson
from classroomkd.engine.devices import SINGLE_PROCESS, DistContext
from classroomkd.engine.mentor_outputs import MentorOutputs
from classroomkd.engine.step import training_step
from classroomkd.engine.views import test_loader
from classroomkd.mentors import Mentor
from classroomkd.methods import Method
from classroomkd.models import Network, StudentFile, load_student, save_student
from classroomkd.tasks.classification import evaluate


@dataclass
class Classroom:
    """A student, its mentors, the method, and the data that they meet on.

    Attributes:
        recipe: what it was built from.
        student: in training mode, on the device.
        mentors: those that the method learns from.
        method: on the device.
        train: augmented views, in an order of their own for each epoch.
        dev: plain images of the development split, or None without one.
        device: where everything lies.
        mentor_outputs: what the mentors say about a batch, live or from the recipe's bank.
        team: the processes that train the student together.
        first: looks at the first lesson, if anybody does.
    """

    recipe: Recipe
    student: Network
    mentors: list[Mentor]
    method: Method
    train: ViewLoader
    dev: ViewLoader | None
    device: torch.device
    mentor_outputs: MentorOutputs
    team: DistContext = SINGLE_PROCESS
    first: FirstLesson | None = None

    @property
    def headline(self) -> str:
        """The result that a student is chosen by; more is better, in percent."""
        return "top1"

    @property
    def classes(self) -> tuple[str, ...]:
        """The data's classes."""
        return self.train.image_set.classes

    def data_facts(self) -> dict[str, Any]:
        """How many samples there are, and what the training set's content is known by."""
        return {
            "training_samples": len(self.train.image_set),
            "development_samples": len(self.dev.image_set) if self.dev else 0,
            "fingerprint": self.train.image_set.fingerprint,
            "notes": list(self.train.image_set.notes),
        }

    def evaluate(self, student: nn.Module, loader: ViewLoader) -> dict[str, float]:
        """How well a student does on plain images; see `tasks.evaluate`."""
        return evaluate(student, loader, len(self.classes))

    def test_views(self) -> ViewLoader:
        """The test set's plain images."""
        return test_loader(self.recipe.data, self.device)

    def illustrate(self, student: Network, folder: Path) -> None:
        """Nothing but numbers is kept for the report."""

    def save(self, student: Network, folder: Path, epoch: int, result: float | None) -> None:
        """Write a student's files; ``result`` is its headline on the development split."""
        data = self.recipe.data.name
        save_student(student, StudentFile(student.name, self.classes, data, epoch, result), folder)

    def load(self, folder: Path) -> tuple[Network, int, float | None]:
        """A student from its files, on the device, with the epoch and result it was saved with."""
        student, info = load_student(folder)
        return student.to(self.device), info.epoch, info.top1

    def begin_epoch(self, epoch: int) -> None:
        """Order, views and every other chance of an epoch are functions of seed and epoch alone."""
        self.train.set_epoch(epoch)
        self.method.begin_epoch(epoch - self.method.extra_epochs, self.recipe.train.epochs)
        self.mentor_outputs.begin(self.train.view, self.train.samples())
        torch.manual_seed(self.recipe.seed * 1_000_003 + epoch)

    def training_step(self, batch: Batch) -> Lesson:
        """The lesson of a batch; see `training_step`."""
        precision = self.recipe.train.precision
        lesson = training_step(
            self.student,
            self.mentors,
            self.method,
            batch,
            precision,
            hear=self.mentor_outputs,
            team=self.team,
            made=self.first and self.first.made(),
        )
        self.mentor_outputs.note(lesson)
        return lesson

    def end_epoch(self) -> None:
        """Let the bank keep what mentors have said in the epoch."""
        self.mentor_outputs.end()
