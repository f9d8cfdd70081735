"""A folder of photographs: which of its folders are for training and which for the test."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from classroomkd.data.encoded import FileImages
from classroomkd.data.files import Listing, class_names, list_classes, named, own_classes
from classroomkd.data.labelled import LabelledImages, PhotoOptions, photo_dataset
from classroomkd.data.photos import PhotoSet
from classroomkd.data.splits import split_of
from classroomkd.errors import ClassroomError


def read_folder(split: str, path: Path, **options: Any) -> PhotoSet:
    """Read ``path/train/<class>/*`` and ``path/test/<class>/*`` or ``path/val/<class>/*``.

    Names are those of `split_of`: ``Training`` and ``validation`` will do as well. Beside a test
    folder, one for validation is for development. Without either, a share of each class of
    ``path/train`` is for the test; without that, of the classes in ``path`` itself.

    Args:
        split: ``train`` or ``test``.
        path: the folder.
        options: those of `PhotoOptions`.

    Raises:
        ClassroomError: if there are no folders of classes, a class has no images, or the test
            folder has a class that the training folder has not.
    """
    folders, others = split_folders(path)
    notes = ()
    if others and folders:
        notes = (f"{path}: left out {len(others)} folders that are of no split: {named(others)}",)
    train = folders.pop("train", path)
    readers = {"train": partial(read_classes, train, path, notes=notes)}
    for role, folder in folders.items():
        readers[role] = partial(read_classes, folder, path, own_classes(train, path))
    return photo_dataset(path.absolute().name, split, readers, PhotoOptions(**options))


def split_folders(path: Path) -> tuple[dict[str, Path], list[str]]:
    """The folders of classes in a folder by their splits, and the names of its other folders.

    Of two for the same split, it is that of the shorter name.

    Raises:
        ClassroomError: if some are for other splits and none is for training.
    """
    found: dict[str, Path] = {}
    names = class_names(path)
    for name in sorted(names, key=len):
        # ILSVRC's test images have no labels: they lie in no folder of a class.
        if (split := split_of(name)) and split not in found and class_names(path / name):
            found[split] = path / name
    taken = [folder.name for folder in found.values()]
    if found and "train" not in found:
        raise ClassroomError(
            f"{path}: has folders of classes in {named(taken)}, and none for training by its name,"
            " such as train: give data.path the folder that has both. If these are classes"
            " themselves, rename them"
        )
    return found, [name for name in names if name not in taken]


def read_classes(
    folder: Path, root: Path, classes: Sequence[str] | None = None, notes: tuple[str, ...] = ()
) -> LabelledImages:
    """The images of ``folder/<class>/*``, numbered as ``classes`` if they are given."""
    images = from_listing(list_classes(folder, root), folder, notes)
    if classes is None:
        return images
    return images.numbered_as(classes, "rename or remove their folders")


def from_listing(listing: Listing, folder: Path, notes: tuple[str, ...] = ()) -> LabelledImages:
    """The images of a listing; ``folder`` is what was listed, for notes."""
    left_out = (
        f"{folder}: left out {len(names)} {reason}: {named(names)}"
        for reason, names in listing.skipped.items()
    )
    encoded = FileImages(
        str(listing.root),
        np.array(listing.sizes),
        np.array(listing.mtimes),
        np.array(listing.files),
    )
    target = torch.tensor(listing.targets)
    return LabelledImages(encoded, target, listing.classes, (*notes, *left_out))
