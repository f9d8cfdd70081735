"""Photographs: a set of image files of any size, decoded in worker processes as they are needed.

``B`` samples in a batch, ``S`` pixels along each side of what is shown.
"""

import hashlib
import math
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from classroomkd.data.crops import ResizedCrop, central_boxes
from classroomkd.data.decode import BadImage, Photo
from classroomkd.data.draws import Draws
from classroomkd.data.encoded import EncodedImages
from classroomkd.data.images import ImageSet
from classroomkd.data.waits import Waits
from classroomkd.errors import ClassroomError

_CHUNK = 32  # images that a worker decodes at a time, so that all work at one batch
_OPEN = 2**26  # pixels of those that it has open at a time: opening a PNG decodes it

# Rows of a set, the random numbers of these samples, and their random crop or None: all that the
# pixels of some samples depend on.
Job = tuple[list[int], Draws, ResizedCrop | None]


@dataclass(frozen=True, eq=False)
class PhotoSet(ImageSet):
    """An image set whose pixels stay in files until they are asked for.

    ``images``, ``[N, 3, S, S]`` uint8, are the plain images: the centres, decoded anew at each
    access, in this process. Ask for those of a small subset.

    Args:
        encoded: the images' bytes.
        places: ``[N]`` int64, where each image is among them.
        side: ``S``.
        centre: share of the shorter side that plain images show.
        workers: processes that decode; 0 for none but this one.
        development: of a training set, images that came apart from it for development, in a
            folder of their own for instance; None if a share of the training set is to be taken.
    """

    images: Tensor = field(init=False, repr=False)
    encoded: EncodedImages = field(kw_only=True, repr=False)
    places: np.ndarray = field(kw_only=True, repr=False)
    side: int = field(kw_only=True, default=224)
    centre: float = field(kw_only=True, default=0.875)
    workers: int = field(kw_only=True, default=0)
    development: "PhotoSet | None" = field(kw_only=True, default=None, repr=False)

    def __post_init__(self) -> None:
        if not len(self.index):
            object.__setattr__(self, "index", torch.arange(len(self.places)))

    def __getattr__(self, name: str) -> Any:
        if name != "images":
            raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")
        pixels = _decode(self, (list(range(len(self))), Draws(0, 0, self.index.cpu()), None))
        return torch.from_numpy(pixels).permute(0, 3, 1, 2)

    def __len__(self) -> int:
        return len(self.places)

    def subset(self, rows: Tensor) -> "PhotoSet":
        """The images at ``rows`` (``[n]`` int64: places in this set), in that order."""
        rows = rows.to(self.index.device)
        return replace(
            self,
            target=self.target[rows],
            index=self.index[rows],
            places=self.places[rows.cpu().numpy()],
            development=None,
        )

    def to(self, device: torch.device | str) -> "PhotoSet":
        """The same set, its targets and numbers on ``device``."""
        return replace(self, target=self.target.to(device), index=self.index.to(device))

    @cached_property
    def fingerprint(self) -> str:
        """64 hexadecimal digits of the images' names and sizes, and of how they are shown.

        They are not read: another of the same name and size is taken for the same.
        """
        shown = (self.side, self.centre, self.classes)
        digest = hashlib.sha256(repr(shown).encode())
        digest.update(self.encoded.identity(self.places))
        sizes = self.encoded.sizes[self.places]
        for numbers in (sizes, self.target.cpu().numpy(), self.index.cpu().numpy()):
            digest.update(np.ascontiguousarray(numbers).data)
        return digest.hexdigest()


class PhotoReader:
    """Decodes batches of a set in worker processes, which stay for the next epoch.

    Args:
        photos: the set.
        device: where the pixels go.

    Batches are decoded ahead of their use; what a sample looks like depends neither on the workers
    nor on the batch.

    Attributes:
        waits: how long the latest epoch has waited for its batches.
    """

    def __init__(self, photos: PhotoSet, device: torch.device) -> None:
        self._device = device
        self.waits = Waits(device)
        self._jobs = _Jobs()
        several = {"persistent_workers": True, "prefetch_factor": 4} if photos.workers else {}
        self._loader = DataLoader(
            _Decoding(replace(photos.to("cpu"), workers=0, development=None)),
            batch_size=None,
            sampler=self._jobs,
            num_workers=photos.workers,
            pin_memory=device.type == "cuda",
            **several,
        )

    def __call__(
        self,
        batches: Sequence[tuple[Tensor, Tensor]],
        epoch: int,
        crops: Sequence[tuple[int, ResizedCrop | None]],
    ) -> Iterator[list[Tensor]]:
        """Pixels ``[B, 3, S, S]`` uint8 of each batch, one for each of the crops.

        Of each batch there are places in the set and the numbers that key the views, ``[B]`` int64
        both, on the host; of each crop its view's seed, and the random part or None for the centre.
        A file that cannot be decoded is a ClassroomError that names it.
        """
        counts = []
        self._jobs.clear()
        for rows, keys in batches:
            chunks = list(zip(rows.split(_CHUNK), keys.split(_CHUNK), strict=True))
            counts.append(len(chunks))
            self._jobs += [
                (chunk.tolist(), Draws(seed, epoch, key), crop)
                for seed, crop in crops
                for chunk, key in chunks
            ]
        self.waits = Waits(self._device)
        pieces = iter(self._loader)
        for count in counts:
            with self.waits:
                batch = [self._join(next(pieces) for _ in range(count)) for _ in crops]
            yield batch

    def _join(self, pieces: Iterator[Tensor | str]) -> Tensor:
        arrived = []
        for piece in pieces:
            if isinstance(piece, str):
                raise ClassroomError(piece)
            arrived.append(piece.to(self._device, non_blocking=True))
        return torch.cat(arrived).permute(0, 3, 1, 2)


class _Jobs(list[Job]):
    """What is to be decoded next, filled anew for each epoch; one under way keeps its own."""

    def __iter__(self) -> Iterator[Job]:
        return iter(self[:])


class _Decoding(Dataset):
    """What a worker does with a job: pixels, or what is wrong with a file.

    An error is given back, not raised: torch would wrap it in the worker's traceback.
    """

    def __init__(self, photos: PhotoSet) -> None:
        self._photos = photos

    def __getitem__(self, job: Job) -> Tensor | str:
        try:
            return torch.from_numpy(_decode(self._photos, job))
        except ClassroomError as error:
            return str(error)


def _decode(photos: PhotoSet, job: Job) -> np.ndarray:
    """Pixels ``[B, S, S, 3]`` uint8 of a job's images; a ClassroomError names a bad one."""
    rows, draws, crop = job
    pixels = np.empty((len(rows), photos.side, photos.side, 3), np.uint8)
    row = 0
    try:
        with closing(_open(photos.encoded, photos.places[rows].tolist())) as groups:
            for opened in groups:
                widths, heights = torch.tensor([photo.size for photo in opened]).unbind(1)
                if crop is None:
                    boxes = central_boxes(widths, heights, photos.centre)
                else:
                    own = replace(draws, index=draws.index[row : row + len(opened)])
                    boxes = crop.boxes(own, widths, heights)
                for box, photo in zip(boxes.tolist(), opened, strict=True):
                    pixels[row] = photo.square(box, photos.side)
                    row += 1
    except BadImage as error:
        raise ClassroomError(
            f"{error.name}: cannot be used as an image ({error}). Replace or remove it, or leave "
            "out every such one with data.bad_images: skip"
        ) from error
    return pixels


def _open(encoded: EncodedImages, places: Sequence[int]) -> Generator[list[Photo], None, None]:
    """The images at some places, some at a time, which are closed when the next come."""
    left = list(reversed(places))
    while left:
        opened: list[Photo] = []
        try:
            while left and len(opened) < _CHUNK and sum(math.prod(p.size) for p in opened) < _OPEN:
                opened.append(encoded.photo(left.pop()))
            yield opened
        finally:
            for photo in opened:
                photo.close()
