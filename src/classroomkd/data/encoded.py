"""Encoded images, opened one at a time in whichever process asks.

``N`` images, each at a place from 0 to ``N - 1``.
"""

import io
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from classroomkd.data.decode import BadImage, Photo, Source
from classroomkd.data.files import printable


@dataclass(frozen=True, eq=False)
class EncodedImages(ABC):
    """Where the bytes of images lie; small to pickle, since it travels to worker processes.

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
        """What an image is called within the origin."""

    @abstractmethod
    def open(self, place: int) -> Source:
        """An image's path, or its bytes as a file in memory; an error if there are none."""

    def name(self, place: int) -> str:
        """What an image is called in messages."""
        return printable(os.path.join(self.origin, self.key(place)))

    def photo(self, place: int) -> Photo:
        """An image with its header read; BadImage if it is none, or cannot be opened."""
        name = self.name(place)
        try:
            return Photo(self.open(place), name)
        except OSError as error:
            raise BadImage(printable(error), name) from error

    def remembered_as(self) -> str:
        """What the user's cache knows the images by."""
        return os.path.realpath(self.origin)

    def identity(self, places: np.ndarray) -> bytes:
        """What images are recognised by beside their sizes: their names, unless told otherwise."""
        return b"\0".join(os.fsencode(self.key(place)) for place in places.tolist())


@dataclass(frozen=True, eq=False)
class FileImages(EncodedImages):
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
class TarImages(EncodedImages):
    """Members of tar files, read where they lie.

    Attributes:
        tars: paths of the tar files.
        tar: ``[N]`` int64, which of them holds each image.
        starts: ``[N]`` int64, where in it the image begins.
        members: ``[N]`` bytes, the images' names in the tar files.
    """

    tars: tuple[str, ...]
    tar: np.ndarray
    starts: np.ndarray
    members: np.ndarray

    def key(self, place: int) -> str:
        """The tar file and the member."""
        tar = os.path.basename(self.tars[self.tar[place]])
        return f"{tar}/{os.fsdecode(self.members[place])}"

    def name(self, place: int) -> str:
        """The tar file with its path, and the member."""
        return os.path.join(os.path.dirname(self.tars[self.tar[place]]), self.key(place))

    def open(self, place: int) -> io.BytesIO:
        """The member's bytes."""
        with open(self.tars[self.tar[place]], "rb") as file:
            file.seek(self.starts[place])
            return io.BytesIO(file.read(self.sizes[place]))
