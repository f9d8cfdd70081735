"""Whether a mentor is right as often as it should be.

Shapes: ``N`` images, ``C`` classes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from classroomkd.engine.classroom import Classroom
from classroomkd.engine.runs import RunFolder
from classroomkd.errors import ClassroomError
from classroomkd.mentors import Mentor
from classroomkd.tasks.base import Finding
from classroomkd.tasks.classification.checks.sample import interval
from classroomkd.tasks.classification.images import Data
from classroomkd.tasks.classification.recipe import MentorRecipe

MARGIN = 3.0  # points below a claim that may have harmless reasons


@dataclass(frozen=True)
class MentorPredictions:
    """A mentor that was asked, and what it said.

    Attributes:
        mentor: frozen.
        entry: its part of the recipe.
        logits: ``[N, C]``, on the CPU.
        target: ``[N]``, on the CPU.
        images: what they are called: development, training.
    """

    mentor: Mentor
    entry: MentorRecipe
    logits: Tensor
    target: Tensor
    images: str

    @property
    def said(self) -> Tensor:
        """The class that it names for each image: ``[N]``."""
        return self.logits.argmax(-1)

    @property
    def right(self) -> Tensor:
        """``[N]`` bool."""
        return self.said == self.target

    @property
    def seen(self) -> str:
        """How well it does, in words."""
        share = 100 * self.right.float().mean().item()
        return f"{share:.1f} % of {len(self.target)} {self.images} images right"


def judge_accuracy(predictions: MentorPredictions, classroom: Classroom) -> Iterator[Finding]:
    """Whether it does worse than it should: than chance allows, or than its source says.

    Where it has learnt the images itself, that is said, too.
    """
    name, count = predictions.mentor.name, len(predictions.target)
    if len(predictions.target.unique()) < 2:
        return  # nothing can be told of it
    if says_nothing(predictions.logits):
        text = f"says the same whatever it is shown ({predictions.seen})"
        yield Finding("wrong", name, text, "accuracy", "get its weights again, or leave it out")
        return
    low, high = interval(int(predictions.right.sum()), count)
    if near_chance(predictions):
        yield _by_chance(predictions, high, classroom.train.dataset.classes)
    elif (claim := claimed(predictions, classroom)) and high + MARGIN < claim:
        text = (
            f"{predictions.seen} (95 % interval {low:.1f} to {high:.1f}), and its source claims"
            f" {claim:.1f} %"
        )
        cure = "see whether its weights, classes and pixels (mean, std) are those of its source"
        yield Finding("warning", name, text, "accuracy", cure)
    elif (split := learnt_them(predictions, classroom)) is not None:
        text = f"{predictions.seen}, which it has learnt itself: its run was trained with {split}"
        own = classroom.recipe.data
        cure = (
            f"train it with data.dev={own.dev} data.dev_seed={own.dev_seed} to know how good it is"
        )
        yield Finding("warning", name, text, "accuracy", cure)


def says_nothing(logits: Tensor) -> bool:
    """Whether logits ``[N, C]`` are the same for all of several images, but for rounding.

    >>> import torch
    >>> says_nothing(torch.tensor([[1.0, 2.0], [1.0, 2.0]]))
    True
    """
    apart = (logits - logits[:1]).abs().max()
    return len(logits) > 1 and bool(apart <= 1e-5 * logits.abs().max())


def chance_of(predictions: MentorPredictions) -> tuple[float, int]:
    """What naming always the same class gets, and that class; at least ``1 / C``, in percent."""
    most, best = predictions.target.bincount().max(0)
    return max(100 * most.item() / len(predictions.target), 100 / predictions.logits.shape[1]), int(
        best
    )


def near_chance(predictions: MentorPredictions) -> bool:
    """Whether it may be right by chance, or hardly more often.

    That is not to be told from ``1 / C`` (or below twice that, if that is below a half); or not
    more than one gets that always names the most frequent class.
    """
    right, count, even = (
        int(predictions.right.sum()),
        len(predictions.target),
        100 / predictions.logits.shape[1],
    )
    low, high = interval(right, count)
    blind = 100 * right <= chance_of(predictions)[0] * count
    return low < even or (low < 2 * even and high < 50) or blind


def _by_chance(predictions: MentorPredictions, high: float, classes: tuple[str, ...]) -> Finding:
    """Of one that is near chance: whether that is certain."""
    name, even = predictions.mentor.name, 100 / predictions.logits.shape[1]
    chance, commonest = chance_of(predictions)
    always = f"; to name {classes[commonest]} always would get {chance:.1f} %"
    always = always if chance > 1.2 * even else ""
    if high > chance + (100 - chance) / 3:
        text = f"gets {predictions.seen}: perhaps by chance ({even:.1f} %{always}): too few to tell"
        return Finding("warning", name, text, "accuracy", "judge it on more images: data.dev")
    text = (
        f"gets {predictions.seen}, near chance ({even:.1f} %{always}): its classes are in another"
        " order, it expects other pixels (mean, std, size), or it was never trained"
    )
    return Finding("wrong", name, text, "accuracy", "train it, or find out what it was made for")


def as_claimed(predictions: MentorPredictions, classroom: Classroom) -> str:
    """What its source claims, in brackets; empty where that is nothing."""
    claim = claimed(predictions, classroom)
    return "" if claim is None else f" (its source claims {claim:.1f} %)"


def claimed(predictions: MentorPredictions, classroom: Classroom) -> float | None:
    """What the source of a mentor says about its accuracy on such data, in percent.

    Of a run, it is that on the development split of the same data; of a pretrained network, that on
    ImageNet, if the data has all its classes.
    """
    if predictions.entry.run is not None:
        return _claimed_by_run(predictions.entry, classroom)
    network = predictions.mentor.network
    offered = getattr(network, "top1", None)
    whole = len(classroom.train.dataset.classes) == getattr(network, "num_classes", None)
    return offered if whole else None


def learnt_them(predictions: MentorPredictions, classroom: Classroom) -> str | None:
    """The other split that a run was trained with, if it was on the same data; None if not.

    It has then learnt some or all of the images that are kept apart here. Photographs that come
    with a development split are no matter.
    """
    if predictions.entry.run is None or predictions.images != "development":
        return None
    own, data = classroom.recipe.data, _data_of_run(predictions.entry.run)
    if data is None or not _same_data(data, own):
        return None
    if getattr(classroom.train.dataset, "development", None) is not None:
        return None
    if (data.dev, data.dev_seed) == (own.dev, own.dev_seed):
        return None
    return f"data.dev={data.dev}" + (f" data.dev_seed={data.dev_seed}" if data.dev else "")


def _claimed_by_run(entry: MentorRecipe, classroom: Classroom) -> float | None:
    data = _data_of_run(entry.run)
    if data is None or not _same_data(data, classroom.recipe.data):
        return None
    try:
        said = RunFolder(str(entry.student_folder)).read_json("student.json").get("top1")
    except ClassroomError:
        return None
    return float(said) if isinstance(said, int | float) else None


def _data_of_run(folder: object) -> Data | None:
    try:
        return RunFolder(str(folder)).evaluation_recipe().data
    except ClassroomError:
        return None


def _same_data(one: Data, other: Data) -> bool:
    return all(
        getattr(one, key) == getattr(other, key) for key in ("name", "path", "hub", "subset")
    )
