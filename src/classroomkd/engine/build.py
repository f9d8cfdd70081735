"""From a recipe to the things that a run needs: data, student, mentors, method."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from classroomkd.config import Recipe
from classroomkd.config.schema import Data, MentorRecipe, View
from classroomkd.core import Lesson
from classroomkd.data import (
    Batch,
    ImageSet,
    PhotoSet,
    ViewFunction,
    ViewLoader,
    create_view,
    development_split,
    load_image_set,
)
from classroomkd.engine.attendance import Attendance
from classroomkd.engine.devices import ALONE, Team
from classroomkd.engine.hearing import Hearing, outputs
from classroomkd.engine.shelves import open_shelves
from classroomkd.engine.step import hold_lesson
from classroomkd.errors import ClassroomError
from classroomkd.mentors import AwayMentor, Mentor, mentor_names, open_mentor
from classroomkd.methods import Method, Outputs, create_method, method_class
from classroomkd.models import (
    Network,
    StudentFile,
    build_model,
    load_student,
    load_weights,
    save_student,
)
from classroomkd.tasks.classification import evaluate

EVALUATION_BATCH = 512


@dataclass
class Classroom:
    """A student, its mentors, the method, and the data that they meet on.

    Attributes:
        recipe: what it was built from.
        student: in training mode, on the device.
        mentors: those that the method listens to.
        method: on the device.
        train: augmented views, in an order of their own for each epoch.
        dev: plain images of the development split, or None without one.
        device: where everything lies.
        hearing: what the mentors say about a batch, live or from the recipe's bank.
        team: the processes that train the student together.
    """

    recipe: Recipe
    student: Network
    mentors: list[Mentor]
    method: Method
    train: ViewLoader
    dev: ViewLoader | None
    device: torch.device
    hearing: Hearing
    team: Team = ALONE

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
        self.method.begin_epoch(epoch, self.recipe.train.epochs)
        self.hearing.begin(self.train.view, self.train.samples())
        torch.manual_seed(self.recipe.seed * 1_000_003 + epoch)

    def hold(self, batch: Batch) -> Lesson:
        """The lesson of a batch; see `hold_lesson`."""
        precision = self.recipe.train.precision
        lesson = hold_lesson(
            self.student,
            self.mentors,
            self.method,
            batch,
            precision,
            hear=self.hearing,
            team=self.team,
        )
        self.hearing.note(lesson)
        return lesson

    def end_epoch(self) -> None:
        """Let the bank keep what mentors have said in the epoch."""
        self.hearing.end()


def build_classroom(
    recipe: Recipe, say: Callable[[str], object] = print, team: Team = ALONE
) -> Classroom:
    """Build everything that a recipe names.

    The student's first weights depend on the seed alone, not on the mentors.

    Args:
        recipe: checked.
        say: told about damage in the recipe's bank.
        team: the processes that train it together; each shows its part of every batch.

    Raises:
        ClassroomError: if data or weights cannot be had or do not fit each other, or if the bank
            holds other views or mentors.
    """
    device = choose_device(recipe.train.device, team)
    memory_format = torch.channels_last if recipe.train.channels_last else torch.contiguous_format
    train_set, dev_set = training_sets(recipe.data)
    for note in train_set.notes:
        say(note)
    classes = train_set.classes

    torch.manual_seed(recipe.seed)
    student = build_model(
        recipe.student.model,
        len(classes),
        mean=None if recipe.student.pretrained else train_set.mean,
        std=None if recipe.student.pretrained else train_set.std,
        pretrained=recipe.student.pretrained,
    )
    if recipe.student.checkpoint is not None:
        load_weights(student, recipe.student.checkpoint)
    student.to(device=device, memory_format=memory_format)  # type: ignore[call-overload]
    mentors = open_mentors(recipe, train_set, device, team)
    torch.manual_seed(recipe.seed)
    method = create_method(recipe.method.name, **recipe.method.options)
    _check_bank(recipe, method)
    _show_shapes(method, student, mentors, train_set, device)
    plain = partial(ViewLoader, device=device, channels_last=recipe.train.channels_last)
    return Classroom(
        recipe=recipe,
        student=student,
        mentors=mentors,
        method=method.to(device),
        train=training_views(recipe, train_set, device, views=method.views, team=team),
        dev=plain(dev_set, EVALUATION_BATCH) if dev_set is not None else None,
        device=device,
        hearing=Hearing(
            mentors,
            method,
            device,
            len(classes),
            open_shelves(recipe, train_set, mentors, say),
            recipe.bank.top if recipe.bank else None,
            _attendance(recipe, method, mentors),
            team,
        ),
        team=team,
    )


def _attendance(recipe: Recipe, method: Method, mentors: list[Mentor]) -> Attendance | None:
    skip = recipe.train.skip
    if skip is None or not mentors:
        return None
    if method.needs_features or recipe.bank is not None:
        raise ClassroomError(
            "train.skip leaves out mentors that would be run and whose logits hardly teach: it goes"
            " neither with methods that read features nor with a bank; leave it out"
        )
    always = {place for place, mentor in enumerate(mentors) if mentor.learns}
    return Attendance(len(mentors), skip.below, skip.every, always)


def open_mentors(
    recipe: Recipe, train_set: ImageSet, device: torch.device, team: Team = ALONE
) -> list[Mentor]:
    """The mentors that a recipe's method listens to, where the recipe places them."""
    memory_format = torch.channels_last if recipe.train.channels_last else torch.contiguous_format
    mentors = []
    for place, (entry, name) in enumerate(heard_mentors(recipe), start=1):
        torch.manual_seed(recipe.seed + 7919 * place)  # for those that start from nothing
        if recipe.train.mentor_placement == "shard" and (place - 1) % team.size != team.rank:
            mentors.append(AwayMentor(name, entry.role))
            continue
        mentor = open_mentor(_normalised(entry, train_set), name, train_set.classes)
        offload = recipe.train.mentor_placement == "offload" and mentor.here and not mentor.learns
        mentors.append((mentor.offload if offload else mentor.to)(device, memory_format))
    return mentors


def training_views(
    recipe: Recipe,
    train_set: ImageSet,
    device: torch.device,
    *,
    views: int = 1,
    batch_size: int | None = None,
    team: Team = ALONE,
) -> ViewLoader:
    """The training set in the recipe's views: in batches of a step, each epoch in its own order.

    Args:
        recipe: which views, and their seed.
        train_set: what is shown.
        device: where batches are made.
        views: how many of a sample are in a batch, 1 or 2.
        batch_size: for all samples in their own order, as the bank wants them, in such batches.
        team: of which this process sees its part of each batch.

    Raises:
        ClassroomError: if the set is smaller than a batch, and cannot be divided.
    """
    if len(train_set) < recipe.train.batch_size and len(train_set) % team.size:
        raise ClassroomError(
            f"the {len(train_set)} training samples are one batch, which {team.size} processes"
            " cannot share equally: train in one process, or with a smaller train.batch_size"
        )

    def functions(views: tuple[View, ...]) -> list[ViewFunction]:
        return [create_view(view.name, **view.options) for view in views]

    return ViewLoader(
        train_set,
        batch_size or recipe.train.batch_size,
        seed=recipe.seed,
        view_seed=recipe.data.view_seed,
        repeat=recipe.data.repeat,
        augment=functions(recipe.data.augment),
        second=functions(recipe.data.second) if views == 2 else None,
        mixing=recipe.data.mixing,
        smoothing=recipe.data.smoothing,
        copies=recipe.data.copies,
        shuffle=batch_size is None,
        drop_last=batch_size is None and len(train_set) >= recipe.train.batch_size,
        device=device,
        channels_last=recipe.train.channels_last,
        part=(team.rank, team.size),
    )


def _check_bank(recipe: Recipe, method: Method) -> None:
    stored = recipe.bank is not None or any(mentor.outputs for mentor in recipe.mentors)
    if stored and (method.needs_features or method.views > 1):
        wants = "reads features" if method.needs_features else "wants two views of a sample"
        raise ClassroomError(
            f"method '{recipe.method.name}' {wants}, and a bank holds the logits of one view:"
            " leave bank out, or use another method"
        )


def _normalised(entry: MentorRecipe, image_set: ImageSet) -> MentorRecipe:
    """A mentor that starts from nothing normalises by the data's pixels, as the student does."""
    if entry.run is not None or entry.checkpoint is not None:
        return entry
    own = {"mean": entry.mean or image_set.mean, "std": entry.std or image_set.std}
    return entry.model_copy(update=own)


@torch.no_grad()
def _show_shapes(
    method: Method,
    student: Network,
    mentors: list[Mentor],
    image_set: ImageSet,
    device: torch.device,
) -> None:
    """Let a method see the training set, and what the networks say about two images of it.

    From the shapes it builds its adapters and memories.
    """
    images = image_set.subset(torch.arange(2)).images.to(device).float().div(255)
    learning = [student, *(mentor.network for mentor in mentors if mentor.learns)]
    for network in learning:
        network.eval()  # two images are not to be in anybody's running statistics
    try:
        method.enroll(image_set.index, image_set.target)
        shown = outputs(student, images, method)
        unseen = Outputs(torch.zeros_like(shown.logits))  # of mentors that cannot run here
        said = [outputs(mentor, images, method) if mentor.here else unseen for mentor in mentors]
        method.setup(shown, said)
    except ValueError as error:
        raise _misfit(method, student, mentors, error) from error
    for network in learning:
        network.train()


def _misfit(
    method: Method, student: Network, mentors: list[Mentor], error: ValueError
) -> ClassroomError:
    """What to do where the networks do not show what a method reads."""
    taught = ", ".join(f"{m.name} ({getattr(m.network, 'name', '?')})" for m in mentors)
    cure = (
        "Take networks that show it (all of `classroomkd list models` do), or a method that reads"
        " less: every network has logits (classroom, kd, dist), nearly every one a pooled feature"
        " (rkd, pkt, crd) and stages (at, fitnets)"
    )
    return ClassroomError(
        f"method '{method.name}' does not go with the student {student.name} and the mentors"
        f" {taught or 'none'}: {error}. {cure if method.needs_features else ''}".removesuffix(" ")
    )


def training_sets(data: Data) -> tuple[ImageSet, ImageSet | None]:
    """The training set less its development split, and the latter (None if its size is 0).

    Photographs may come with a development split of their own.
    """
    whole = load_image_set(data.name, "train", path=data.path, hub=data.hub, **data.reading)
    if not data.dev:
        return whole, None
    own = whole.development if isinstance(whole, PhotoSet) else None
    if own is not None:
        return whole, own
    train_rows, dev_rows = development_split(whole.target, data.dev, data.dev_seed)
    return whole.subset(train_rows), whole.subset(dev_rows)


def test_loader(data: Data, device: torch.device) -> ViewLoader:
    """The test set's plain images."""
    test = load_image_set(data.name, "test", path=data.path, hub=data.hub, **data.reading)
    for note in test.notes:
        print(note, file=sys.stderr)
    return ViewLoader(test, EVALUATION_BATCH, device=device)


def heard_mentors(recipe: Recipe) -> list[tuple[MentorRecipe, str]]:
    """The mentors that the recipe's method listens to, each with its name."""
    everybody = list(zip(recipe.mentors, mentor_names(recipe.mentors), strict=True))
    listens = method_class(recipe.method.name).listens
    if listens == "nobody":
        return []
    if listens == "one" and len(everybody) > 1:
        return [(entry, name) for entry, name in everybody if entry.role == "teacher"]
    return everybody


def choose_device(name: str, team: Team = ALONE) -> torch.device:
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
