"""The persons of a split: their joints and boxes, and the image files that they are in.

``N`` persons, ``U`` joints, ``I`` image files.
"""

import hashlib
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from classroomkd.data.draws import permutation
from classroomkd.errors import ClassroomError
from classroomkd.tasks.pose.data.joints import JointSet

_FLOATS = ("points", "box", "area", "head", "score")
_PER_PERSON = (*_FLOATS, "index", "visible", "image_id", "annotation_id", "image")


@dataclass(frozen=True, eq=False)
class PersonSet:
    """Persons in photographs, one a row; on the host, never changed in place.

    Coordinates are in pixels of the image, and ``x = 0`` is the centre of its leftmost pixel.

    Args:
        name: What the set is called.
        joints: The joints that are labelled.
        index: ``[N]`` int64, each person's number in the original file, which keys the views.
        points: ``[N, U, 2]`` float32, x and y of each joint; 0 where it is not labelled.
        visible: ``[N, U]`` int64: 0 not labelled, 1 labelled but occluded, 2 visible.
        box: ``[N, 4]`` float32: left, top, width, height.
        area: ``[N]`` float32, in square pixels, as OKS takes it.
        head: ``[N]`` float32, size of the head in pixels, as PCKh takes it; NaN where unknown.
        score: ``[N]`` float32, of a detected box; 1 of an annotated one.
        image_id: ``[N]`` int64, as the annotations number the images.
        annotation_id: ``[N]`` int64; -1 where there is none, as for a detected box.
        image: ``[N]`` int64, places in `files` and `sizes`.
        root: Folder that the files are in.
        files: ``I`` paths in `root`.
        sizes: ``[I, 2]`` int64, width and height of each image.
        box_source: Where the boxes come from, in words.
        notes: What was left out or mended when the set was read, counted, in sentences.
        annotations: The file that the set was read from, if any.
        category: Number of the category in that file.

    Raises:
        ValueError: If a tensor has the wrong type or shape.
    """

    name: str
    joints: JointSet
    index: Tensor = field(repr=False)
    points: Tensor = field(repr=False)
    visible: Tensor = field(repr=False)
    box: Tensor = field(repr=False)
    area: Tensor = field(repr=False)
    head: Tensor = field(repr=False)
    score: Tensor = field(repr=False)
    image_id: Tensor = field(repr=False)
    annotation_id: Tensor = field(repr=False)
    image: Tensor = field(repr=False)
    root: Path
    files: tuple[str, ...] = field(repr=False)
    sizes: Tensor = field(repr=False)
    box_source: str = "annotated"
    notes: tuple[str, ...] = ()
    annotations: Path | None = None
    category: int = 1

    def __post_init__(self) -> None:
        count, units = len(self.index), len(self.joints)
        shapes = {"points": (units, 2), "visible": (units,), "box": (4,)}
        for name in _PER_PERSON:
            tensor, shape = getattr(self, name), (count, *shapes.get(name, ()))
            dtype = torch.float32 if name in _FLOATS else torch.int64
            if tensor.dtype != dtype or tensor.shape != shape:
                raise ValueError(
                    f"{name} must be {dtype} {list(shape)}, not {tensor.dtype} {list(tensor.shape)}"
                )
        if self.sizes.shape != (len(self.files), 2) or self.sizes.dtype != torch.int64:
            raise ValueError(f"sizes must be int64 [{len(self.files)}, 2]")

    def __len__(self) -> int:
        return len(self.index)

    def subset(self, rows: Tensor) -> "PersonSet":
        """The persons at ``rows`` (``[n]`` int64: places in this set), in that order.

        Images that nobody is left in are forgotten.
        """
        rows = rows.cpu()
        kept = {name: getattr(self, name)[rows] for name in _PER_PERSON}
        used, kept["image"] = torch.unique(kept["image"], return_inverse=True)
        files = tuple(self.files[place] for place in used.tolist())
        return replace(self, **kept, files=files, sizes=self.sizes[used])

    @cached_property
    def fingerprint(self) -> str:
        """64 hexadecimal digits of the persons, their joints and boxes, and their files' names.

        Images are not read: another of the same name and size is taken for the same.
        """
        digest = hashlib.sha256(repr((self.joints.names, self.files)).encode())
        for tensor in (self.sizes, *(getattr(self, name) for name in _PER_PERSON)):
            digest.update(np.ascontiguousarray(tensor.numpy()).data)
        return digest.hexdigest()


def development_persons(
    persons: PersonSet, size: int | float, seed: int
) -> tuple[PersonSet, PersonSet]:
    """Split a training set in two, such that an image's persons stay together: a pure function.

    Args:
        persons: The training set.
        size: Persons in the development split: about how many (int), or which share (float).
        seed: Seed of the choice.

    Returns:
        The training persons and the development persons, each in their order. The latter are at
        least as many as wanted, and no more than by the other persons of the last image.

    Raises:
        ClassroomError: If one of the two would be empty.
    """
    total = len(persons)
    wanted = round(size * total) if isinstance(size, float) else size
    images, place, count = torch.unique(persons.image_id, return_inverse=True, return_counts=True)
    order = permutation(len(images), seed, 0, stream="pose split")
    before = count[order].cumsum(0) - count[order]
    chosen = torch.zeros(len(images), dtype=torch.bool)
    chosen[order[before < wanted]] = True
    held_out = chosen[place]
    if wanted < 1 or bool(held_out.all()):
        raise ClassroomError(
            f"cannot take a development split of size {size} from {total} persons in "
            f"{len(images)} images: choose a whole number from 1 on, or a share above 0.0, that "
            "leaves images to train on"
        )
    return tuple(persons.subset(rows.nonzero()[:, 0]) for rows in (~held_out, held_out))  # pyright: ignore[reportReturnType]
