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
from classroomkd.data.encoded import EncodedImages
from classroomkd.data.files import named
from classroomkd.data.images import development_split
from classroomkd.data.photos import PhotoSet
from classroomkd.errors import ClassroomError

Triple = tuple[float, float, float]
IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)


def usual_workers() -> int:
    """As many processes as this one has cores, but no more than 8."""
    return min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4)


@dataclass(frozen=True)
class PhotoOptions:
    """How photographs are split and shown: what all sets of photographs have in common.

    Attributes:
        size: pixels along each side of what is shown.
        centre: share of the shorter side that the plain images of an evaluation show.
        test: how many (int) or which share (float) of the samples are for the test, where the set
            has no images for it.
        seed: of that split.
        bad_images: ``"error"`` to stop when one is met; ``"skip"`` to leave out all that are
            damaged or too small, which are looked for now.
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


@dataclass(frozen=True)
class LabelledImages:
    """Images with their classes: all that came for training, for the test or for development.

    Attributes:
        encoded: ``N`` images.
        target: ``[N]`` int64, each one's class.
        classes: names of the ``C`` classes.
        notes: what a user should know, in sentences.
    """

    encoded: EncodedImages
    target: Tensor
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def numbered_as(self, classes: Sequence[str], what: str) -> "LabelledImages":
        """The same images, their classes numbered as in the training set.

        A class that is none of the training set's is a ClassroomError; ``what`` says what to mend.
        """
        places = {name: place for place, name in enumerate(classes)}
        if foreign := [name for name in self.classes if name not in places]:
            raise ClassroomError(
                f"{self.encoded.origin}: {named(foreign)} among the classes of the test are not"
                f" among those of the training: {what}"
            )
        numbers = torch.tensor([places[name] for name in self.classes])
        return replace(self, target=numbers[self.target], classes=tuple(classes))


def photo_dataset(
    name: str,
    split: str,
    readers: Mapping[str, Callable[[], LabelledImages]],
    options: PhotoOptions,
) -> PhotoSet:
    """The photographs for ``split``.

    ``readers`` read what came for ``train`` and, where something did, for ``test`` and ``dev``.
    Without ``test``, what came for ``dev`` is it; without either, a share of each class of
    ``train``. Mistakes in what came for the test are told before a training, not after it.
    """
    readers = dict(readers)
    if "test" not in readers and "dev" in readers:
        readers["test"] = readers.pop("dev")
    if split == "test" and "test" in readers:
        return _photos(name, readers["test"](), options)
    train = readers["train"]()
    if len(train.classes) < 2:
        raise ClassroomError(
            f"{train.encoded.origin}: all images are of one class, {named(train.classes)}, so that"
            " nothing can be told apart: mend data.path (of folders: the one that has"
            " train/<class>/ or <class>/, not one above it), or data.label"
        )
    photos = _photos(name, train, options)
    if split == "train" and "dev" in readers:
        own = _photos(name, readers["dev"](), options)
        note = f"{name}: the development split is the {len(own)} images that came for validation"
        photos = replace(photos, development=own, notes=(*photos.notes, *own.notes, note))
    if "test" in readers:
        readers["test"]()  # so that mistakes in it are told now, not at the end of the training
        return photos
    rows = development_split(photos.target, options.test, options.seed)[split == "test"]
    # Both splits come from the same images, of which a user wants to hear once.
    notes = photos.notes if split == "train" else ()
    return replace(photos.subset(rows), development=photos.development, notes=notes)


def _photos(name: str, images: LabelledImages, options: PhotoOptions) -> PhotoSet:
    """All images, or the good ones."""
    encoded, target, notes = images.encoded, images.target, images.notes
    places = np.arange(len(encoded))
    workers = usual_workers() if options.workers is None else options.workers
    if options.bad_images == "skip" and (bad := find_bad(encoded, workers)):
        places = np.delete(places, list(bad))
        target = target[torch.from_numpy(places)]
        names = [f"{encoded.key(place)} ({why})" for place, why in bad.items()]
        notes = (*notes, f"{encoded.origin}: left out {len(bad)} bad images: {named(names)}")
        before, after = (t.bincount(minlength=len(images.classes)) for t in (images.target, target))
        if lost := ((before > 0) & (after == 0)).nonzero().flatten().tolist():
            gone = named([images.classes[place] for place in lost])
            raise ClassroomError(
                f"{encoded.origin}: no images of class {gone} are left, all are bad: remove the"
                " class, or put good images into it"
            )
    return PhotoSet(
        target=target,
        classes=images.classes,
        mean=options.mean,
        std=options.std,
        name=name,
        notes=notes,
        encoded=encoded,
        places=places,
        side=options.size,
        centre=options.centre,
        workers=workers,
    )
