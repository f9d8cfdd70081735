"""From a pose recipe to the things that a run needs: persons, student, mentors, method."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from classroomkd.config.pose import PoseRecipe
from classroomkd.core import Lesson
from classroomkd.data.pose import (
    PersonSet,
    PoseBatch,
    PoseLoader,
    PoseViews,
    development_persons,
    load_persons,
)
from classroomkd.engine.build import heard_mentors
from classroomkd.engine.pose.lesson import Rules, hold_pose_lesson
from classroomkd.engine.pose.pictures import keep_pictures
from classroomkd.engine.views import choose_device
from classroomkd.errors import ClassroomError
from classroomkd.mentors.pose import PoseMentor, check_scores, open_pose_mentor
from classroomkd.methods import Method, create_method
from classroomkd.models.pose import (
    PoseNetwork,
    PoseStudentFile,
    build_pose_model,
    load_pose_student,
    save_pose_student,
)
from classroomkd.models.pose.files import load_pose_weights
from classroomkd.tasks.pose import evaluate_pose, headline

EVALUATION_BATCH = 128


@dataclass
class PoseClassroom:
    """A student, its mentors, the method, and the persons that they look at.

    It is what the engine asks for: see `classroomkd.engine.protocol.AnyClassroom`.
    """

    recipe: PoseRecipe
    student: PoseNetwork
    mentors: list[PoseMentor]
    method: Method
    train: PoseLoader
    dev: PoseLoader | None
    device: torch.device
    rules: Rules

    hearing: None = None

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
        self.method.begin_epoch(epoch, self.recipe.train.epochs)
        torch.manual_seed(self.recipe.seed * 1_000_003 + epoch)

    def hold(self, batch: PoseBatch) -> Lesson:
        """The lesson of a batch."""
        precision = self.recipe.train.precision
        return hold_pose_lesson(
            self.student, self.mentors, self.method, batch, self.rules, precision
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
        return plain_loader(self.recipe, read_persons(self.recipe, "test"), self.device)

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


def build_pose_classroom(recipe: PoseRecipe, say: Callable[[str], object] = print) -> PoseClassroom:
    """Build everything that a pose recipe names.

    The student's first weights depend on the seed alone, not on the mentors.

    Args:
        recipe: checked.
        say: told what was left out of the data, and how mentors are ranked.

    Raises:
        ClassroomError: if data or weights cannot be had or do not fit each other.
    """
    device = choose_device(recipe.train.device)
    memory_format = torch.channels_last if recipe.train.channels_last else torch.contiguous_format
    persons, dev = training_persons(recipe)
    for note in persons.notes:
        say(note)

    torch.manual_seed(recipe.seed)
    student = build_student(recipe, persons)
    student.to(device=device, memory_format=memory_format)  # type: ignore[call-overload]
    mentors = [
        open_pose_mentor(entry, name, student).to(device, memory_format)
        for entry, name in heard_mentors(recipe)
    ]
    torch.manual_seed(recipe.seed)
    method = create_method(recipe.method.name, **recipe.method.options).to(device)
    rules = choose_rules(recipe, mentors, persons, device)
    if mentors:
        say(f"mentors are ranked by {'OKS' if rules.score == 'oks' else 'likelihood'}")
    return PoseClassroom(
        recipe=recipe,
        student=student.train(),
        mentors=mentors,
        method=method,
        train=training_loader(recipe, persons, device),
        dev=None if dev is None else plain_loader(recipe, dev, device),
        device=device,
        rules=rules,
    )


def build_student(recipe: PoseRecipe, persons: PersonSet) -> PoseNetwork:
    """The recipe's student for the persons' joints, with its first weights."""
    entry, joints = recipe.student, persons.joints
    try:
        student = build_pose_model(
            entry.model,
            joints.names,
            joints.pairs,
            entry.input,
            pretrained=entry.pretrained,
            **entry.options,
        )
    except (ValueError, TypeError) as error:
        raise ClassroomError(f"student: {error}") from error
    if entry.checkpoint is not None:
        load_pose_weights(student, entry.checkpoint)
    return student


def choose_rules(
    recipe: PoseRecipe, mentors: list[PoseMentor], persons: PersonSet, device: torch.device
) -> Rules:
    """What scores, units and the task are, where the recipe leaves it open."""
    lessons = recipe.lessons
    return Rules(
        score=check_scores(mentors, lessons.score),
        task=lessons.task,
        unlabelled=lessons.unlabelled,
        sigmas=torch.tensor(persons.joints.sigmas, device=device),
    )


def read_persons(recipe: PoseRecipe, split: str) -> PersonSet:
    """A split of the recipe's data."""
    data = recipe.data
    options = {name: getattr(data, name) for name in ("category", "joints", "heads")}
    if split == "test":
        options["boxes"] = data.boxes
    given = {key: value for key, value in options.items() if value is not None}
    return load_persons(data.name, split, data.path, bad=data.bad, **given)


def training_persons(recipe: PoseRecipe) -> tuple[PersonSet, PersonSet | None]:
    """The training set less its development split, and the latter (None if its size is 0)."""
    whole = read_persons(recipe, "train")
    if not recipe.data.dev:
        return whole, None
    return development_persons(whole, recipe.data.dev, recipe.data.dev_seed)


def training_loader(recipe: PoseRecipe, persons: PersonSet, device: torch.device) -> PoseLoader:
    """The training persons in the recipe's views, each epoch in its own order."""
    return PoseLoader(
        persons,
        recipe.train.batch_size,
        size=recipe.student.input,
        seed=recipe.seed,
        view_seed=recipe.data.view_seed,
        augment=PoseViews(**recipe.data.views),
        padding=recipe.data.padding,
        shuffle=True,
        drop_last=len(persons) >= recipe.train.batch_size,
        device=device,
        workers=_workers(recipe),
    )


def plain_loader(recipe: PoseRecipe, persons: PersonSet, device: torch.device) -> PoseLoader:
    """Plain crops, in the persons' own order."""
    return PoseLoader(
        persons,
        EVALUATION_BATCH,
        size=recipe.student.input,
        padding=recipe.data.padding,
        device=device,
        workers=_workers(recipe),
    )


def _workers(recipe: PoseRecipe) -> int:
    own = recipe.data.workers
    return min(8, os.cpu_count() or 1) if own is None else own
