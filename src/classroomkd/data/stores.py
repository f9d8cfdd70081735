"""Where the bytes of photographs lie: opened one at a time, in whichever process asks.

``N`` images, each at a place from 0 to ``N - 1``.
"""

import io
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from classroomkd.data.decode import BadImage, Photo, Source
from classroomkd.data.files import printable


@dataclass(frozen=True, eq=False)
class Store(ABC):
    """Encoded images; small to pickle, since it travels to worker processes.

    Attributes:
        origin: what holds them, for messages and for what is remembered about them.
        sizes: ``[N]`` int64, bytes of each.
        times: ``[N]`` int64, when each was changed, in nanoseconds; 0 where nobody knows.
    """

    origin: str
    sizes: np.ndarray
    times: np.ndarray

    def __len__(self) -> int:
        return len(self.sizes)

    @abstractmethod
    def key(self, place: int) -> str:
        """What an image is called in the store."""

    @abstractmethod
    def open(self, place: int) -> Source:
        """An image's encoded bytes: a path, or a file in memory.

        Raises:
            BadImage, OSError: if there are none.
        """

    def name(self, place: int) -> str:
        """What an image is called in messages."""
        return printable(os.path.join(self.origin, self.key(place)))

    def photo(self, place: int) -> Photo:
        """An image with its header read.

        Raises:
            BadImage: if it cannot be opened, or is no image.
        """
        name = self.name(place)
        try:
            return Photo(self.open(place), name)
        except OSError as error:
            raise BadImage(printable(error), name) from error

    def remembered_as(self) -> str:
        """What the user's cache knows the store by."""
        return os.path.realpath(self.origin)

    def identity(self, places: np.ndarray) -> bytes:
        """What images are recognised by beside their sizes: their names, unless told otherwise."""
        return b"\0".join(os.fsencode(self.key(place)) for place in places.tolist())

    def windows(self, places: np.ndarray, seed: int, epoch: int) -> Tensor:
        """Which of the images at some places are at hand together: ``[n]`` int64, from 0.

        All are, unless neighbours are fetched together and are given up for others.
        """
        return torch.zeros(len(places), dtype=torch.int64)


@dataclass(frozen=True, eq=False)
class FileStore(Store):
    """Files below the folder `origin`.

    Attributes:
        files: ``[N]`` bytes, paths in the folder as the file system spells them.
    """

    files: np.ndarray

    def key(self, place: int) -> str:
        """The path in the folder."""
        return os.fsdecode(self.files[place])

    def open(self, place: int) -> Path:
        """The path."""
        return Path(self.origin) / self.key(place)

    def identity(self, places: np.ndarray) -> bytes:
        """The paths in the folder."""
        return b"\0".join(self.files[places].tolist())


@dataclass(frozen=True, eq=False)
class RowStore(Store):
    """Rows of a table, each with the ``bytes`` of an encoded file, or the ``path`` of one.

    Attributes:
        folder: that relative paths start from; None where they lead nowhere.
    """

    folder: Path | None

    @abstractmethod
    def cell(self, place: int) -> dict[str, Any]:
        """A row's ``bytes`` and ``path``, of which any may be missing or None."""

    def key(self, place: int) -> str:
        """The row's number, from 0."""
        return f"row {place}"

    def name(self, place: int) -> str:
        """The table and the row."""
        return f"{self.origin}, {self.key(place)}"

    def open(self, place: int) -> io.BytesIO | Path:
        """The row's bytes."""
        content = self.cell(place)
        if content.get("bytes"):
            return io.BytesIO(content["bytes"])
        if content.get("path") and self.folder is not None:
            return self.folder / content["path"]
        raise BadImage("the row has no image", self.name(place))

    def remembered_as(self) -> str:
        """The table's name and content: no row says when it was changed."""
        content = self.identity(np.arange(len(self))).hex()
        return f"{self.origin} {content} {blake2b(self.sizes.tobytes()).hexdigest()}"
