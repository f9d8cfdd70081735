"""From labelled images, wherever they lie, to the photographs for training or for the test.

``N`` images of ``C`` classes.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from classroomkd.data.checkup import find_bad
from classroomkd.data.files import named
from classroomkd.data.images import development_split
from classroomkd.data.photos import PhotoSet
from classroomkd.data.stores import Store
from classroomkd.errors import ClassroomError

Triple = tuple[float, float, float]
IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Showing:
    """How photographs are split and shown: what all sets of photographs have in common.

    Attributes:
        size: pixels along each side of what is shown.
        centre: share of the shorter side that the plain images of an evaluation show.
        test: how many (int) or which share (float) of the samples are for the test, where the set
            has no images for it.
        seed: of that split.
        bad_images: ``"error"`` to stop when one is met; ``"skip"`` to find and leave out all of
            them now. Bad are those that are damaged, or too small.
        workers: processes that decode; up to 8 if None.
        mean: of the channels of the training images, on the scale [0, 1].
        std: likewise.
    """

    size: int = 224
    centre: float = 0.875
    test: float | int = 0.2
    seed: int = 0
    bad_images: Literal["error", "skip"] = "error"
    workers: int | None = None
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD

    @property
    def skip(self) -> bool:
        """Whether bad images are left out."""
        return self.bad_images == "skip"

    @property
    def processes(self) -> int:
        """Processes that decode."""
        return _usual_workers() if self.workers is None else self.workers


@dataclass(frozen=True)
class Part:
    """Images with their classes: all that came for training, for the test or for development.

    Attributes:
        store: of ``N`` images.
        target: ``[N]`` int64, each one's class.
        classes: names of the ``C`` classes.
        notes: what a user should know, in sentences.
    """

    store: Store
    target: Tensor
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def numbered_as(self, classes: Sequence[str], what: str) -> "Part":
        """The same images, their classes numbered as in the training set.

        Raises:
            ClassroomError: if one is none of the training set's; ``what`` says what to mend.
        """
        classes = tuple(classes)
        if self.classes == classes:
            return self
        places = {name: place for place, name in enumerate(classes)}
        if foreign := [name for name in self.classes if name not in places]:
            raise ClassroomError(
                f"{self.store.origin}: {named(foreign)} among the classes of the test are not among"
                f" those of the training: {what}"
            )
        numbers = torch.tensor([places[name] for name in self.classes])
        return replace(self, target=numbers[self.target], classes=classes)


def photo_set(
    name: str, split: str, parts: Mapping[str, Callable[[], Part]], showing: Showing
) -> PhotoSet:
    """The photographs for ``split``.

    Args:
        name: of the set.
        split: ``train`` or ``test``.
        parts: readers of what came for ``train`` and, where something did, for ``test`` and
            ``dev``. Without ``test``, a share of each class of ``train`` is for the test.
        showing: how to show them.

    Raises:
        ClassroomError: if there is one class only, or no good image of one is left; also if it is
            the images for the test that are at fault, and others are asked for.
    """
    if split == "test" and "test" in parts:
        return _photos(name, parts["test"](), showing)
    photos = _photos(name, _several_classes(parts["train"]()), showing)
    if split == "train" and "dev" in parts:
        own = _photos(name, parts["dev"](), showing)
        note = f"{name}: the development split is the {len(own)} images that came for validation"
        photos = replace(photos, development=own, notes=(*photos.notes, *own.notes, note))
    if "test" in parts:
        parts["test"]()  # so that mistakes in it are told now, not at the end of the training
        return photos
    rows = development_split(photos.target, showing.test, showing.seed)[split == "test"]
    # Both splits come from the same images, of which a user wants to hear once.
    notes = photos.notes if split == "train" else ()
    return replace(photos.subset(rows), development=photos.development, notes=notes)


def _several_classes(part: Part) -> Part:
    """The same; a ClassroomError if all images are of one class."""
    if len(part.classes) < 2:
        raise ClassroomError(
            f"{part.store.origin}: all images are of one class, {named(part.classes)}, so that"
            " nothing can be told apart: mend data.path (of folders: the one that has"
            " train/<class>/ or <class>/, not one above it), or data.label"
        )
    return part


def _photos(name: str, part: Part, showing: Showing) -> PhotoSet:
    """All images of a part, or the good ones."""
    places, notes = np.arange(len(part.store)), part.notes
    if showing.skip and (bad := find_bad(part.store, showing.processes)):
        places = np.delete(places, list(bad))
        names = [f"{part.store.key(place)} ({why})" for place, why in bad.items()]
        notes = (*notes, f"{part.store.origin}: left out {len(bad)} bad images: {named(names)}")
        _check_still_there(part, places)
    return PhotoSet(
        target=part.target[torch.from_numpy(places)],
        classes=part.classes,
        mean=showing.mean,
        std=showing.std,
        name=name,
        notes=notes,
        store=part.store,
        places=places,
        side=showing.size,
        centre=showing.centre,
        workers=showing.processes,
    )


def _check_still_there(part: Part, places: np.ndarray) -> None:
    """A ClassroomError that names classes of which only bad images came."""
    count = len(part.classes)
    before = part.target.bincount(minlength=count)
    after = part.target[torch.from_numpy(places)].bincount(minlength=count)
    lost = ((before > 0) & (after == 0)).nonzero().flatten().tolist()
    if gone := [part.classes[place] for place in lost]:
        raise ClassroomError(
            f"{part.store.origin}: no images of class {named(gone)} are left, all are bad: remove "
            "the class, or put good images into it"
        )


def _usual_workers() -> int:
    return min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4)
