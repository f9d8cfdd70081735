"""A classroom of poses: a student, its mentors, the method, and the persons that they look at."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from classroomkd.config.pose import PoseRecipe
from classroomkd.core import Lesson
from classroomkd.data.pose import PersonSet, PoseBatch, PoseLoader
from classroomkd.engine.balance import FirstLesson
from classroomkd.engine.devices import SINGLE_PROCESS, DistContext
from classroomkd.engine.pose.lesson import PoseLoss, pose_training_step
from classroomkd.engine.pose.pictures import keep_pictures
from classroomkd.engine.pose.views import plain_loader, read_persons
from classroomkd.mentors.pose import PoseMentor
from classroomkd.methods import Method
from classroomkd.models.pose import (
    PoseNetwork,
    PoseStudentFile,
    load_pose_student,
    save_pose_student,
)
from classroomkd.tasks.pose import evaluate_pose, headline


@dataclass
class PoseClassroom:
    """A student, its mentors, the method, and the persons that they look at.

    It is what the engine asks for: see `classroomkd.engine.protocol.AnyClassroom`.

    Attributes:
        pose_loss: what scores, units and the task are.
        team: the processes that train the student together.
        first: looks at the first lesson, if anybody does.
    """

    recipe: PoseRecipe
    student: PoseNetwork
    mentors: list[PoseMentor]
    method: Method
    train: PoseLoader
    dev: PoseLoader | None
    device: torch.device
    pose_loss: PoseLoss
    team: DistContext = SINGLE_PROCESS
    first: FirstLesson | None = None

    mentor_outputs: None = None

    @property
    def persons(self) -> PersonSet:
        """The training set."""
        return self.train.persons

    @property
    def headline(self) -> str:
        """The result that a student is chosen by; more is better, in percent."""
        return headline(self.persons)

    def begin_epoch(self, epoch: int) -> None:
        """Order, views and every other chance of an epoch are functions of seed and epoch alone."""
        self.train.set_epoch(epoch)
        self.method.begin_epoch(epoch - self.method.extra_epochs, self.recipe.train.epochs)
        torch.manual_seed(self.recipe.seed * 1_000_003 + epoch)

    def training_step(self, batch: PoseBatch) -> Lesson:
        """The lesson of a batch; see `pose_training_step`."""
        precision = self.recipe.train.precision
        return pose_training_step(
            self.student,
            self.mentors,
            self.method,
            batch,
            self.pose_loss,
            precision,
            team=self.team,
            made=self.first and self.first.made(),
        )

    def end_epoch(self) -> None:
        """Nothing is kept from an epoch."""

    def data_facts(self) -> dict[str, Any]:
        """How many persons there are, and what the training set's content is known by."""
        return {
            "training_samples": len(self.persons),
            "development_samples": len(self.dev.persons) if self.dev else 0,
            "fingerprint": self.persons.fingerprint,
        }

    def evaluate(self, student: PoseNetwork, loader: PoseLoader) -> dict[str, float]:
        """How well a student finds joints in plain crops; see `tasks.pose.evaluate_pose`."""
        flip = self.recipe.lessons.flip_test
        return evaluate_pose(student, loader, loader.persons, flip=flip)[0]

    def test_views(self) -> PoseLoader:
        """The test set's plain crops."""
        return plain_loader(self.recipe, read_persons(self.recipe, "test"), self.device, self.team)

    def illustrate(self, student: PoseNetwork, folder: Path) -> None:
        """Keep in the run folder what its report draws; see `keep_pictures`."""
        keep_pictures(self, student, self.dev or self.test_views(), folder)

    def save(self, student: PoseNetwork, folder: Path, epoch: int, result: float | None) -> None:
        """Write a student's files; ``result`` is its headline on the development split."""
        info = PoseStudentFile(
            self.persons.joints.name, self.recipe.data.name, epoch, self.headline, result
        )
        save_pose_student(student, info, folder)

    def load(self, folder: Path) -> tuple[PoseNetwork, int, float | None]:
        """A student from its files, on the device, with the epoch and result it was saved with."""
        student, info = load_pose_student(folder)
        return student.to(self.device), info.epoch, info.score
