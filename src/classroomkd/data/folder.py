"""A folder of photographs: which of its folders are for training and which for the test."""

import os
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from classroomkd.data.checkup import find_bad
from classroomkd.data.files import Listing, class_names, list_classes, named
from classroomkd.data.images import development_split
from classroomkd.data.photos import PhotoSet
from classroomkd.errors import ClassroomError

TEST_FOLDERS = ("test", "val", "valid")
Triple = tuple[float, float, float]
IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)


def read_folder(
    split: str,
    path: Path,
    *,
    size: int = 224,
    centre: float = 0.875,
    test: float | int = 0.2,
    seed: int = 0,
    bad_images: Literal["error", "skip"] = "error",
    workers: int | None = None,
    mean: Triple = IMAGENET_MEAN,
    std: Triple = IMAGENET_STD,
) -> PhotoSet:
    """Read ``path/train/<class>/*`` and ``path/test|val|valid/<class>/*``, as ImageNet lies.

    The first of the three that has folders of classes is the test set. Without any, it is a share
    of each class of ``path/train``; without that either, of the classes in ``path`` itself.

    Args:
        split: ``train`` or ``test``.
        path: the folder.
        size: pixels along each side of what is shown.
        centre: share of the shorter side that the plain images of an evaluation show.
        test: how many (int) or which share (float) of the samples are for the test, where no
            folder is.
        seed: of that split.
        bad_images: ``"error"`` to stop when one is met; ``"skip"`` to find and leave out all of
            them now. Bad are those that are damaged, or too small.
        workers: processes that decode; up to 8 if None.
        mean: of the channels of the training images, on the scale [0, 1].
        std: likewise.

    Raises:
        ClassroomError: if there are no folders of classes, a class has no images, or the test
            folder has a class that the training folder has not.
    """
    workers = _usual_workers() if workers is None else workers
    train_folder = path / "train" if class_names(path / "train") else path
    classes = None
    test_folder = _test_folder(path) if train_folder != path else None
    chosen = train_folder
    if test_folder is not None and split == "test":
        chosen, classes = test_folder, class_names(train_folder)
    listing = list_classes(chosen, path)
    bad = _leave_out_bad(listing, workers) if bad_images == "skip" else []
    apart = test_folder is not None
    photos = PhotoSet(
        target=_targets(listing, classes),
        classes=tuple(classes or listing.classes),
        mean=mean,
        std=std,
        name=path.name,
        notes=tuple(_notes(listing, chosen, bad)) if apart or split == "train" else (),
        root=path,
        files=np.array(listing.files),
        sizes=np.array(listing.sizes),
        side=size,
        centre=centre,
        workers=workers,
    )
    if apart:
        return photos
    return photos.subset(development_split(photos.target, test, seed)[split == "test"])


def _test_folder(path: Path) -> Path | None:
    """The first with folders in it: ILSVRC's test images, which have no labels, lie in none."""
    return next((path / name for name in TEST_FOLDERS if class_names(path / name)), None)


def _targets(listing: Listing, classes: list[str] | None) -> torch.Tensor:
    """Each file's class, as a place in the training set's classes."""
    if classes is None:
        return torch.tensor(listing.targets)
    if foreign := [name for name in listing.classes if name not in set(classes)]:
        raise ClassroomError(
            f"{listing.root}: {named(foreign)} among the classes of the test are not among those "
            "of the training: rename or remove their folders"
        )
    places = torch.tensor([classes.index(name) for name in listing.classes])
    return places[torch.tensor(listing.targets)]


def _leave_out_bad(listing: Listing, workers: int) -> list[str]:
    """Take the bad files out of a listing; their names, each with the reason."""
    bad = find_bad(listing, workers)
    named_bad = [f"{os.fsdecode(listing.files[row])} ({why})" for row, why in bad.items()]
    listing.keep([row for row in range(len(listing)) if row not in bad])
    listing.check_classes()
    return named_bad


def _notes(listing: Listing, folder: Path, bad: list[str]) -> list[str]:
    left_out = {**listing.skipped, **({"bad images": bad} if bad else {})}
    return [
        f"{folder}: left out {len(names)} {reason}: {named(names)}"
        for reason, names in left_out.items()
    ]


def _usual_workers() -> int:
    return min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4)
