"""WebDataset's shards: tar files in which images lie beside their labels.

``N`` samples. A tar file is read once for an index of what lies where, which the user's cache
keeps; then every image is read when it is asked for, in any order.
"""

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from classroomkd.data.album import Part, Showing, photo_set
from classroomkd.data.files import named
from classroomkd.data.labels import ClassNames, class_list, number_labels, without_images
from classroomkd.data.photos import PhotoSet
from classroomkd.data.splits import group_files, roles
from classroomkd.data.stores import Store
from classroomkd.data.tar import Index, index_shards
from classroomkd.errors import ClassroomError


def read_shards(
    split: str,
    path: Path,
    *,
    image: str | None = None,
    label: str = "cls",
    classes: ClassNames | None = None,
    **options: Any,
) -> PhotoSet:
    """Read photographs from tar files: ``key.jpg`` with ``key.cls``, or with ``key.json``.

    Splits go by the names of the files or of their folders, such as ``train-000.tar`` and
    ``val-000.tar``; without such names, a share is for the test. Validation shards are for
    development where there are test shards, and else for the test.

    Args:
        split: ``train`` or ``test``.
        path: a folder of tar files, or a pattern such as ``shards/{000..127}.tar``.
        image: which member of a sample is its image, by its extension; if left out, the only one
            that is an image.
        label: which member is its label, a number or a name; or ``json.<field>``, a field of the
            member ``json``, where that is more than a number or a name.
        classes: names of the classes, where labels are numbers; see `class_list`.
        options: those of `Showing`. ``bad_images: skip`` also leaves out samples without an image
            or a label, and what cannot be read of a damaged tar file.

    Raises:
        ClassroomError: if a tar file is damaged, or samples are incomplete.
    """
    showing = Showing(**options)
    names = class_list(classes)
    groups, others = group_files(path, ".tar")
    notes = (f"{path}: of no split: {named([str(file) for file in others])}",) if others else ()

    def part(role: str) -> Part:
        return _part(groups[role], f"{path} ({role})", image, label, names, showing.skip)

    train = part("train")
    train = Part(train.store, train.target, train.classes, (*train.notes, *notes))
    parts = {"train": lambda: train}
    for role, source in roles({role: role for role in groups}).items():
        if role != "train":
            parts[role] = lambda source=source: part(source).numbered_as(
                train.classes, "mend the labels"
            )
    name = path.name if path.is_dir() else path.parent.name
    return photo_set(name, split, parts, showing)


def _part(
    files: Sequence[Path],
    origin: str,
    image: str | None,
    label: str,
    classes: tuple[str, ...] | None,
    skip: bool,
) -> Part:
    index = index_shards(files, image, label)
    left_out = [
        f"{origin}: left out {len(names)} {why}: {named(names)}"
        for why, names in index.problems.items()
    ]
    if left_out and not (skip and index.labels):
        said = "; ".join(line.replace("left out ", "", 1) for line in left_out)
        skipping = ", or leave them out with data.bad_images: skip"
        raise ClassroomError(f"{said}. Mend them{': there are no others' if skip else skipping}")
    target, known = number_labels(index.labels, classes, origin)
    notes = (*left_out, *without_images(target, known, origin))
    return Part(ShardStore.of(index, files, origin), target, known, notes)


@dataclass(frozen=True, eq=False)
class ShardStore(Store):
    """Members of tar files.

    Attributes:
        shards: the tar files.
        shard: ``[N]`` int64, which of them holds each image.
        starts: ``[N]`` int64, where in it the image begins.
        members: ``[N]`` bytes, the images' names in the tar files.
    """

    shards: tuple[str, ...]
    shard: np.ndarray
    starts: np.ndarray
    members: np.ndarray

    @classmethod
    def of(cls, index: Index, files: Sequence[Path], origin: str) -> "ShardStore":
        """The images of an index."""
        times = np.array([file.stat().st_mtime_ns for file in files])
        shard = np.array(index.shard, np.int64)
        return cls(
            origin,
            np.array(index.sizes, np.int64),
            times[shard],
            tuple(str(file) for file in files),
            shard,
            np.array(index.starts, np.int64),
            np.array([os.fsencode(member) for member in index.members]),
        )

    def key(self, place: int) -> str:
        """The tar file and the member."""
        shard = os.path.basename(self.shards[self.shard[place]])
        return f"{shard}/{os.fsdecode(self.members[place])}"

    def name(self, place: int) -> str:
        """The tar file with its path, and the member."""
        return os.path.join(os.path.dirname(self.shards[self.shard[place]]), self.key(place))

    def open(self, place: int) -> io.BytesIO:
        """The member's bytes."""
        with open(self.shards[self.shard[place]], "rb") as file:
            file.seek(self.starts[place])
            return io.BytesIO(file.read(self.sizes[place]))
