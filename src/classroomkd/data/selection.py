"""What of a training set is learnt from: some classes, a share of the samples, with wrong labels.

Networks that know different things, as teachers of one student, are made with it. Every choice is
a function of (seed, sample number) and of the set alone: neither of an order nor of an epoch.

``N`` samples, ``C`` classes.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from classroomkd.data.draws import Draws
from classroomkd.data.images import ImageSet
from classroomkd.data.photos import PhotoSet
from classroomkd.errors import ClassroomError, nearest

AnySet = TypeVar("AnySet", bound=ImageSet)
ClassChoice = Sequence[int | str]
CLASS_RANGE = re.compile(r"(\d+)-(\d+)")


@dataclass(frozen=True)
class LabelNoise:
    """Symmetric label noise: with probability ``rate`` a label is replaced.

    Attributes:
        rate: the probability.
        classes: whose samples may be mislabelled, as in `class_places`; None for all.
        seed: of the choice.
    """

    rate: float
    classes: ClassChoice | None = None
    seed: int = 0


def training_selection(
    image_set: AnySet,
    *,
    classes: ClassChoice | None = None,
    fraction: float = 1.0,
    seed: int = 0,
    noise: LabelNoise | None = None,
) -> AnySet:
    """The part of a training set that is learnt from; its ``notes`` say what was chosen.

    First the classes are chosen, then the share of their samples, then labels are replaced. The
    set keeps all its classes, and its samples their numbers.

    Args:
        image_set: without its development split.
        classes: to train on, as in `class_places`; None for all.
        fraction: share of the samples, of each class alike: see `stratified_rows`.
        seed: of the share.
        noise: which labels are replaced; see `noisy_labels`.

    Raises:
        ClassroomError: If a class is unknown, no sample is left, or one class is all there is to
            draw a wrong label from.
    """
    notes, whole = [], len(image_set)
    if classes is not None:
        places = class_places(classes, image_set.classes, "data.train_classes")
        image_set = _subset(image_set, _is_one_of(image_set.target, places).nonzero()[:, 0])
        if not len(image_set):
            raise ClassroomError(
                f"data.train_classes: no training image of {image_set.name} is of these"
                f" {len(places)} classes: choose others"
            )
        count = f"{len(places)} of {len(image_set.classes)} classes"
        notes.append(f"trained on {count}: {len(image_set)} of {whole} samples")
    if fraction < 1:
        whole = len(image_set)
        rows = stratified_rows(image_set.target, image_set.index, fraction, seed)
        image_set = _subset(image_set, rows)
        notes.append(f"trained on {len(image_set)} of {whole} samples")
    if noise is not None and noise.rate > 0:
        target = _mislabelled(image_set, noise)
        wrong = int((target != image_set.target).sum())
        notes.append(f"{wrong} of {len(image_set)} training labels are wrong (data.noise)")
        image_set = replace(image_set, target=target)
    if notes:
        said = tuple(f"{image_set.name}: {note}" for note in notes)
        image_set = replace(image_set, notes=(*image_set.notes, *said))
    return image_set


def noisy_labels(
    target: Tensor, index: Tensor, num_classes: int, *, rate: float, seed: int
) -> Tensor:
    """Labels under symmetric noise: with probability ``rate`` one of the other ``C - 1``.

    Each of these is equally probable, so that ``rate`` is the expected share of wrong labels. Those
    of a lower rate are among those of a higher one of the same seed.

    Args:
        target: ``[N]`` int64, the true classes.
        index: ``[N]`` int64, the samples' numbers.
        num_classes: ``C``, 2 or more.
        rate: from 0 to 1.
        seed: of the choice.

    >>> target = torch.zeros(8, dtype=torch.int64)
    >>> noisy_labels(target, torch.arange(8), 3, rate=1.0, seed=0).bincount(minlength=3)[0]
    tensor(0)
    """
    draws = Draws(seed, 0, index)
    other = draws.integers("noisy label", 0, num_classes - 1)[:, 0]
    other = other + (other >= target)  # past the true class
    return torch.where(draws.uniform("label noise")[:, 0] < rate, other, target)


def stratified_rows(target: Tensor, index: Tensor, fraction: float, seed: int) -> Tensor:
    """The places, sorted, of a share of the samples of each class, but one at least of each.

    ``target`` and ``index`` are the samples' classes and numbers, ``[N]`` int64. A smaller share of
    the same seed is a part of a larger one.

    >>> target = torch.tensor([0, 1, 0, 1, 0, 1, 0])
    >>> rows = stratified_rows(target, torch.arange(7), 0.5, seed=0)
    >>> target[rows].bincount()
    tensor([2, 2])
    """
    counts = torch.bincount(target)
    quota = (counts.double() * fraction).round().long().clamp(min=1)
    order = Draws(seed, 0, index).uniform("fraction")[:, 0].argsort(stable=True)
    order = order[target[order].argsort(stable=True)]
    own = target[order]
    rank_in_class = torch.arange(len(target)) - (counts.cumsum(0) - counts)[own]
    return order[rank_in_class < quota[own]].sort().values


def class_places(chosen: ClassChoice, classes: Sequence[str], key: str) -> list[int]:
    """The places of classes that a user names, sorted; a ClassroomError if one is unknown.

    Args:
        chosen: names, places from 0, or ranges of places such as ``"0-49"``, both ends included;
            a text that is a class's name means that class.
        classes: all names, in the order of the labels.
        key: of the option, for messages.

    >>> class_places(["cow", "2-3"], ["ant", "cow", "dog", "emu"], "data.train_classes")
    [1, 2, 3]
    """
    names = {name: place for place, name in enumerate(classes)}
    places: set[int] = set()
    for item in chosen:
        ends = CLASS_RANGE.fullmatch(str(item))
        if item in names:
            places.add(names[str(item)])
        elif ends is not None:
            places.update(range(int(ends[1]), int(ends[2]) + 1))
        elif isinstance(item, int):
            places.add(item)
        else:
            raise ClassroomError(
                f"{key}: unknown class '{item}'{nearest(item, names)}: give names of the data's"
                f" {len(classes)} classes, numbers from 0 to {len(classes) - 1}, or a range such"
                " as 0-4"
            )
    if beyond := sorted(place for place in places if not 0 <= place < len(classes)):
        raise ClassroomError(
            f"{key}: there is no class {beyond[0]}: the data's {len(classes)} classes go from 0 to"
            f" {len(classes) - 1}"
        )
    return sorted(places)


def _subset(image_set: AnySet, rows: Tensor) -> AnySet:
    """Some samples, of a set that still knows which came apart from it for development."""
    subset: Any = image_set.subset(rows)
    if isinstance(image_set, PhotoSet):
        subset = replace(subset, development=image_set.development)
    return subset


def _mislabelled(image_set: ImageSet, noise: LabelNoise) -> Tensor:
    target, count = image_set.target, len(image_set.classes)
    if count < 2:
        raise ClassroomError("data.noise: the data has one class, which leaves no wrong label")
    noisy = noisy_labels(target, image_set.index, count, rate=noise.rate, seed=noise.seed)
    if noise.classes is None:
        return noisy
    places = class_places(noise.classes, image_set.classes, "data.noise.classes")
    return torch.where(_is_one_of(target, places), noisy, target)


def _is_one_of(target: Tensor, places: Sequence[int]) -> Tensor:
    return torch.isin(target, torch.tensor(places, dtype=torch.int64, device=target.device))
