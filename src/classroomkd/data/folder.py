"""A folder of photographs: which of its folders are for training and which for the test."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from classroomkd.data.album import Part, Showing, photo_set
from classroomkd.data.files import Listing, class_names, list_classes, named, own_classes
from classroomkd.data.photos import PhotoSet
from classroomkd.data.stores import FileStore

TEST_FOLDERS = ("test", "val", "valid")


def read_folder(split: str, path: Path, **options: Any) -> PhotoSet:
    """Read ``path/train/<class>/*`` and ``path/test|val|valid/<class>/*``.

    The first of the three that has folders of classes is the test set. Of ``val`` and ``valid``,
    one beside ``test`` is for the development split. Without a test folder, a share of each class
    of ``path/train`` is for the test; without that either, of the classes in ``path`` itself.

    Args:
        split: ``train`` or ``test``.
        path: the folder.
        options: those of `Showing`.

    Raises:
        ClassroomError: if there are no folders of classes, a class has no images, or the test
            folder has a class that the training folder has not.
    """
    # ILSVRC's test images have no labels: they lie in no folder of a class.
    train = path / "train" if class_names(path / "train") else path
    held_out = [path / name for name in TEST_FOLDERS if train != path and class_names(path / name)]
    parts = {"train": partial(list_part, train, path)}
    for role, folder in zip(("test", "dev"), held_out, strict=False):
        parts[role] = partial(list_part, folder, path, own_classes(train, path))
    return photo_set(path.absolute().name, split, parts, Showing(**options))


def list_part(folder: Path, root: Path, classes: Sequence[str] | None = None) -> Part:
    """The images of ``folder/<class>/*``, numbered as ``classes`` if they are given."""
    part = listed_part(list_classes(folder, root), folder)
    if classes is None:
        return part
    return part.numbered_as(classes, "rename or remove their folders")


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
