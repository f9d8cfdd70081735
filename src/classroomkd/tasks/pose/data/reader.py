"""Where the pixels of batches come from: images decoded once and kept, or decoded each time.

``B`` persons in a batch; an input is ``H`` by ``W`` pixels. Both ways give the same pixels.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from classroomkd.data.decode import to_rgb
from classroomkd.errors import ClassroomError
from classroomkd.tasks.pose.data.crop import Size
from classroomkd.tasks.pose.data.persons import PersonSet
from classroomkd.tasks.pose.data.pixels import Pixels

_CHUNK = 16  # persons that a worker crops at a time, so that all work at one batch


class Look(NamedTuple):
    """Which part of which image is shown for each person of a batch; see `Pixels.crop`."""

    image: Tensor
    level: Tensor
    centre: Tensor
    matrix: Tensor

    def split(self, count: int) -> "list[Look]":
        """Looks of that many persons each, the last maybe of fewer."""
        parts = (tensor.split(count) for tensor in self)
        return [Look._make(part) for part in zip(*parts, strict=True)]


class Reader(Protocol):
    """Gives ``[B, 3, H, W]`` uint8, on the device, for each of some looks (on the host)."""

    def __call__(self, looks: Sequence[Look]) -> Iterator[Tensor]:
        """The pixels of each look, in order."""
        ...


def open_reader(
    persons: PersonSet,
    size: Size,
    levels: int,
    *,
    device: torch.device,
    workers: int,
    memory_limit: float,
) -> Reader:
    """The reader for a set: in memory if its images fit.

    Args:
        persons: The set.
        size: Height and width of the input.
        levels: How many levels the looks can ask for.
        device: Where the pixels go; images in memory lie there.
        workers: Threads that fill the memory, or else processes that decode each time.
        memory_limit: Most bytes that images in memory may take.
    """
    reduced = sum(0.25**level for level in range(levels))
    needed = 4 * float(persons.sizes.add(2).prod(1).sum()) * reduced
    if needed <= memory_limit:
        return _InMemory(persons, size, levels, device, workers)
    return _FromFiles(persons, size, device, workers)


def read_image(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Decode a file to ``[height, width, 3]`` uint8.

    Annotations of poses count the pixels as they are stored. An image is turned as the camera says
    (EXIF) only where that is what makes it the stated size.

    Args:
        path: Of the file.
        size: Width and height that the annotations state.

    Raises:
        ClassroomError: If it cannot be decoded, or is of another size.
    """
    try:
        with Image.open(path) as image:
            image.load()
            found = image.size
            fits = image if found == size else ImageOps.exif_transpose(image)
            pixels = np.asarray(to_rgb(fits)) if fits.size == size else None
    except Exception as error:  # a damaged file can raise nearly anything
        raise ClassroomError(
            f"{path}: cannot be used as an image ({error}). Replace it; or remove it, and leave "
            "out its annotations with bad: skip"
        ) from error
    if pixels is None:
        raise ClassroomError(
            f"{path}: is {found[0]} x {found[1]} pixels, its annotations are of an image of "
            f"{size[0]} x {size[1]}: they belong to another version of the images"
        )
    return pixels


class _InMemory:
    def __init__(
        self, persons: PersonSet, size: Size, levels: int, device: torch.device, workers: int
    ) -> None:
        self._size, self._device = size, device
        pixels = Pixels.empty(persons.sizes, levels)
        sizes = persons.sizes.tolist()

        def load(place: int) -> None:
            file = persons.root / persons.files[place]
            pixels.put(place, read_image(file, tuple(sizes[place])))

        with ThreadPoolExecutor(max(1, workers)) as pool:
            done = pool.map(load, range(len(sizes)))
            for _ in tqdm(done, "decoding images", len(sizes), leave=False, disable=None):
                pass
        self._pixels = pixels.to(device)

    def __call__(self, looks: Sequence[Look]) -> Iterator[Tensor]:
        for look in looks:
            moved = Look._make(tensor.to(self._device, non_blocking=True) for tensor in look)
            yield self._pixels.crop(*moved, size=self._size)


class _FromFiles:
    def __init__(self, persons: PersonSet, size: Size, device: torch.device, workers: int) -> None:
        self._device = device
        self._jobs: list[Look] = []
        several = {"persistent_workers": True, "prefetch_factor": 4} if workers else {}
        self._loader = DataLoader(
            _Cropping(persons, size),
            batch_size=None,
            sampler=_Queue(self._jobs),
            num_workers=workers,
            pin_memory=device.type == "cuda",
            **several,
        )

    def __call__(self, looks: Sequence[Look]) -> Iterator[Tensor]:
        chunks = [look.split(_CHUNK) for look in looks]
        self._jobs[:] = [chunk for several in chunks for chunk in several]
        pieces = iter(self._loader)
        for several in chunks:
            yield torch.cat([self._arrived(next(pieces)) for _ in several])

    def _arrived(self, piece: Tensor | str) -> Tensor:
        if isinstance(piece, str):
            raise ClassroomError(piece)
        return piece.to(self._device, non_blocking=True)


class _Queue:
    """What is to be made next; filled anew for each epoch."""

    def __init__(self, jobs: list[Look]) -> None:
        self._jobs = jobs

    def __iter__(self) -> Iterator[Look]:
        return iter(list(self._jobs))

    def __len__(self) -> int:
        return len(self._jobs)


class _Cropping(Dataset):
    """What a worker does with a look: pixels, or what is wrong with a file.

    An error is given back, not raised: torch would wrap it in the worker's traceback.
    """

    def __init__(self, persons: PersonSet, size: Size) -> None:
        self._root, self._files = persons.root, persons.files
        self._sizes, self._size = persons.sizes.tolist(), size

    def __getitem__(self, look: Look) -> Tensor | str:
        try:
            used, place = torch.unique(look.image, return_inverse=True)
            images = [
                read_image(self._root / self._files[image], tuple(self._sizes[image]))
                for image in used.tolist()
            ]
        except ClassroomError as error:
            return str(error)
        pixels = Pixels.of(images, int(look.level.max()) + 1)
        return pixels.crop(place, look.level, look.centre, look.matrix, self._size)
