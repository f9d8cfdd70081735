"""A folder of photographs: which of its folders are for training and which for the test."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from classroomkd.data.album import Part, Showing, photo_set
from classroomkd.data.files import Listing, class_names, list_classes, named, own_classes
from classroomkd.data.photos import PhotoSet
from classroomkd.data.splits import roles, split_of
from classroomkd.data.stores import FileStore
from classroomkd.errors import ClassroomError


def read_folder(split: str, path: Path, **options: Any) -> PhotoSet:
    """Read ``path/train/<class>/*`` and ``path/test/<class>/*`` or ``path/val/<class>/*``.

    Names are those of `split_of`: ``Training`` and ``validation`` will do as well. Beside a test
    folder, one for validation is for development. Without either, a share of each class of
    ``path/train`` is for the test; without that, of the classes in ``path`` itself.

    Args:
        split: ``train`` or ``test``.
        path: the folder.
        options: those of `Showing`.

    Raises:
        ClassroomError: if there are no folders of classes, a class has no images, or the test
            folder has a class that the training folder has not.
    """
    folders, others = split_folders(path)
    notes = ()
    if others and folders:
        notes = (f"{path}: left out {len(others)} folders that are of no split: {named(others)}",)
    train = folders.pop("train", path)
    parts = {"train": partial(_noted_part, train, path, notes)}
    for role, folder in roles(folders).items():
        parts[role] = partial(list_part, folder, path, own_classes(train, path))
    return photo_set(path.absolute().name, split, parts, Showing(**options))


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


def list_part(folder: Path, root: Path, classes: Sequence[str] | None = None) -> Part:
    """The images of ``folder/<class>/*``, numbered as ``classes`` if they are given."""
    part = listed_part(list_classes(folder, root), folder)
    if classes is None:
        return part
    return part.numbered_as(classes, "rename or remove their folders")


def _noted_part(folder: Path, root: Path, notes: tuple[str, ...]) -> Part:
    part = list_part(folder, root)
    return replace(part, notes=(*notes, *part.notes))


def listed_part(listing: Listing, folder: Path) -> Part:
    """The images of a listing; ``folder`` is what was listed, for notes."""
    notes = (
        f"{folder}: left out {len(names)} {reason}: {named(names)}"
        for reason, names in listing.skipped.items()
    )
    store = FileStore(
        str(listing.root),
        np.array(listing.sizes),
        np.array(listing.mtimes),
        np.array(listing.files),
    )
    return Part(store, torch.tensor(listing.targets), listing.classes, tuple(notes))
