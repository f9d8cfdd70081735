"""What can be wrong with mentors: seen from what they say about plain images.

Shapes: ``N`` images, ``C`` classes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from classroomkd.config import MentorRecipe
from classroomkd.data import Batch
from classroomkd.doctor.finding import Finding
from classroomkd.doctor.order import best_order, right_in_best_order
from classroomkd.doctor.pixels import Scale, better_pixels
from classroomkd.doctor.sample import gain, interval
from classroomkd.engine.classroom import Classroom
from classroomkd.engine.runs import RunFolder
from classroomkd.errors import ClassroomError
from classroomkd.mentors import Mentor

MARGIN = 3.0  # points below a claim that may have harmless reasons


@dataclass(frozen=True)
class Heard:
    """A mentor that was asked, and what it said.

    Attributes:
        mentor: frozen.
        entry: its part of the recipe.
        logits: ``[n, C]``, on the CPU.
        target: ``[n]``, on the CPU.
        images: what they are called: development, training.
    """

    mentor: Mentor
    entry: MentorRecipe
    logits: Tensor
    target: Tensor
    images: str

    @property
    def said(self) -> Tensor:
        """The class that it names for each image: ``[n]``."""
        return self.logits.argmax(-1)

    @property
    def right(self) -> Tensor:
        """``[n]`` bool."""
        return self.said == self.target

    @property
    def seen(self) -> str:
        """How well it does, in words."""
        share = 100 * self.right.float().mean().item()
        return f"{share:.1f} % of {len(self.target)} {self.images} images right"


def judge_mentor(heard: Heard, classroom: Classroom, batch: Batch) -> list[Finding]:
    """All that is to be said about one frozen mentor.

    Args:
        heard: what it said.
        classroom: where it teaches.
        batch: the images that it was shown, or more.
    """
    mentor, name = heard.mentor, heard.mentor.name
    findings = list(_frozen(mentor))
    if not torch.isfinite(heard.logits).all():
        text = "gives logits that are not finite: damaged weights?"
        return [*findings, Finding("wrong", name, text, "finite", "get its weights again")]
    doubts = list(_order(heard, classroom.classes))
    if not doubts and mentor.here:
        image_set = classroom.train.image_set
        doubts = list(_pixels(heard, batch, (image_set.mean, image_set.std)))
    doubts += _accuracy(heard, classroom, explained=bool(doubts))
    if doubts:
        return [*findings, *doubts]
    order = "order mapped by name" if mentor.class_map is not None else "same order"
    text = f"{mentor.role}, frozen, {order}; {heard.seen}{_as_claimed(heard, classroom)}"
    return [*findings, Finding("ok", name, text, "accuracy")]


def _frozen(mentor: Mentor) -> Iterator[Finding]:
    if mentor.network.training or any(p.requires_grad for p in mentor.network.parameters()):
        text = "is in training mode or has gradients: it would change"
        cure = "call network.eval().requires_grad_(False)"
        yield Finding("wrong", mentor.name, text, "frozen", cure)


def _order(heard: Heard, classes: tuple[str, ...]) -> Iterator[Finding]:
    """Whether more were right if its classes stood in another order."""
    count = len(classes)
    if len(heard.target) < 2 * count:
        return  # too few to tell orders apart
    ordered = right_in_best_order(heard.said, heard.target, count)
    share = 100 * ordered.float().mean().item()
    if not gain(ordered, heard.right) or share < min(50 * (1 + 1 / count), 1000 / count):
        return  # even one that was never trained gains something
    order = best_order(heard.said, heard.target, count)
    moved = heard.said.bincount(minlength=count).argsort(descending=True).tolist()
    shown = [f"{classes[k]} for {classes[order[k]]}" for k in moved if order[k] != k][:3]
    text = (
        f"{heard.seen}, and {share:.0f} % if its classes stood in another order: it says"
        f" {', '.join(shown)}"
    )
    cure = "its class order is wrong: give its classes (names in the order of its logits) or labels"
    yield Finding("wrong", heard.mentor.name, text, "order", cure)


def _pixels(heard: Heard, batch: Batch, data: Scale) -> Iterator[Finding]:
    """Whether more were right if it got other pixels."""
    images, target = batch.images[: len(heard.said)], heard.target
    found = better_pixels(heard.mentor, images, target, heard.said, data)
    if found is None:
        return
    what, points, scale = found
    text = f"{heard.seen}, and {points:.0f} points more with other pixels: {what}"
    yield Finding("wrong", heard.mentor.name, text, "pixels", _other_pixels(heard.entry, scale))


def _other_pixels(entry: MentorRecipe, scale: Scale | None) -> str:
    if scale is None:
        return "turn its first layer's input channels round, and save its weights again"
    if entry.checkpoint is None:
        return "its source tells of other pixels than it was trained on: see whether it is whole"
    mean, std = ([round(value, 4) for value in values] for values in scale)
    return f"give mean: {mean} and std: {std} with its checkpoint"


def _accuracy(heard: Heard, classroom: Classroom, *, explained: bool) -> Iterator[Finding]:
    """Whether it does worse than it should: than chance allows, or than its source says.

    Args:
        heard: what it said.
        classroom: where it teaches.
        explained: whether it is known why; then nothing more is said.
    """
    if explained:
        return
    name, count = heard.mentor.name, len(heard.target)
    right, chance = int(heard.right.sum()), 100 / heard.logits.shape[1]
    low, high = interval(right, count)
    if low < chance or (low < 2 * chance and high < 50):
        text = (
            f"gets {heard.seen}, near chance ({chance:.1f} %): its classes are in another order,"
            " it expects other pixels (mean, std), or it was never trained"
        )
        yield Finding("wrong", name, text, "accuracy", "train it, or find out what it was made for")
    elif (claim := claimed(heard, classroom)) and high + MARGIN < claim:
        text = (
            f"{heard.seen} (95 % interval {low:.1f} to {high:.1f}), and its source claims"
            f" {claim:.1f} %"
        )
        cure = "see whether its weights, classes and pixels (mean, std) are those of its source"
        yield Finding("warning", name, text, "accuracy", cure)


def _as_claimed(heard: Heard, classroom: Classroom) -> str:
    claim = claimed(heard, classroom)
    return "" if claim is None else f" (its source claims {claim:.1f} %)"


def claimed(heard: Heard, classroom: Classroom) -> float | None:
    """What the source of a mentor says about its accuracy on such data, in percent.

    Of a run, it is that on the development split of the same data; of a pretrained network, that on
    ImageNet, if the data has all its classes.
    """
    if heard.entry.run is not None:
        return _claimed_by_run(heard.entry.run, classroom)
    network = heard.mentor.network
    offered = getattr(network, "top1", None)
    whole = len(classroom.classes) == getattr(network, "num_classes", None)
    return offered if whole else None


def _claimed_by_run(folder: object, classroom: Classroom) -> float | None:
    run, own = RunFolder(str(folder)), classroom.recipe.data
    try:
        data, said = run.data(), run.read_json("student.json").get("top1")
    except ClassroomError:
        return None
    same = all(getattr(data, key) == getattr(own, key) for key in ("name", "path", "hub"))
    return float(said) if same and isinstance(said, int | float) else None


def find_twins(heard: Sequence[Heard]) -> Iterator[Finding]:
    """Mentors that say the same about all images that both were asked about."""
    for one, other in combinations(heard, 2):
        count = min(len(one.logits), len(other.logits))
        if torch.allclose(one.logits[:count], other.logits[:count], rtol=1e-4, atol=1e-4):
            names = f"{one.mentor.name}, {other.mentor.name}"
            text = "say the same: one network twice adds nothing"
            yield Finding("warning", names, text, "twins", "leave one of them out")


def weights(mentor: Mentor) -> Mapping[str, float]:
    """A number for each tensor of a mentor's network, which changes if the tensor does."""
    tensors = {k: v for k, v in mentor.network.state_dict().items() if isinstance(v, Tensor)}
    return {name: v.double().nan_to_num().abs().sum().item() for name, v in tensors.items()}
