"""One mentor's shards in a bank."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from classroomkd.errors import ClassroomError
from classroomkd.mentors.bank.keys import Key
from classroomkd.mentors.bank.shards import (
    PART,
    DamagedShardError,
    Shard,
    count_samples,
    merge,
    read_shard,
    serialise,
    write_bytes,
)

if TYPE_CHECKING:
    from classroomkd.mentors.bank.store import Bank


@dataclass(frozen=True)
class Stored:
    """What a bank has of one mentor; ``damaged`` counts the shards whose header is unreadable."""

    mentor: str
    views: int
    samples: int
    bytes: int
    damaged: int


class MentorStore:
    """One mentor's shards in a bank; made by `Bank.mentor`.

    Attributes:
        folder: where they lie.
        name: the mentor's name.
        key: the mentor key, as it is stored.
    """

    def __init__(self, bank: Bank, folder: Path, name: str, key: Key) -> None:
        self.folder = folder
        self.name = name
        self.key = key
        self._bank = bank
        self._remove_leftovers()

    def views(self) -> list[int]:
        """The numbers of the views that something is stored of, sorted."""
        names = (path.name for path in self.folder.glob("v*.safetensors"))
        found = (re.fullmatch(r"v(\d{5,})\.safetensors", name) for name in names)
        return sorted(int(match[1]) for match in found if match)

    def load(self, view: int) -> Shard | None:
        """What is stored of a view, memory-mapped; None if nothing is.

        A damaged shard is removed, which ``say`` is told, and counts as missing.

        Raises:
            ClassroomError: if the file cannot be read.
        """
        try:
            return read_shard(self._path(view))
        except FileNotFoundError:
            return None
        except DamagedShardError as error:
            self._bank.say(f"{error}. It is removed, and counts as missing")
            with suppress(ClassroomError), self.claim(view) as mine:  # suppressed: a read-only disk
                if mine and self._damage(view):  # nobody has replaced it meanwhile
                    self._path(view).unlink()
            return None

    def save(self, view: int, shard: Shard) -> None:
        """Add samples of a view to what is stored, atomically; where both have one, the new wins.

        The whole shard is written, so save many samples at once. Waits for whoever holds the view.

        Raises:
            ClassroomError: if the bank's limit would be passed, there is no room, or the folder
                cannot be written to; what is stored stays usable.
            ValueError: if the stored samples are encoded differently.
        """
        path = self._path(view)
        with self._bank.lock(path.with_suffix(".lock")):
            self._bank.mentor(self.name, self.key)  # somebody may have pruned it
            old = self.load(view)
            data = serialise(merge(old, shard) if old else shard)
            with self._bank.room(path, len(data)):
                write_bytes(path, data)

    def claim(self, view: int) -> AbstractContextManager[bool]:
        """Hold a view to build it; yields False, at once, if another process or thread holds it.

        Whoever holds it can `save` it. A killed process holds nothing.
        """
        return self._bank.claim(self._path(view).with_suffix(".lock"))

    def info(self) -> Stored:
        """How much is stored; reads the shards' headers alone."""
        views, samples, damaged = self.views(), 0, 0
        for view in views:
            try:
                samples += count_samples(self._path(view))
            except ClassroomError:
                damaged += 1
        return Stored(self.name, len(views), samples, folder_size(self.folder), damaged)

    def check(self) -> list[str]:
        """Read every byte of every shard; returns what is wrong with each damaged one."""
        return [wrong for view in self.views() if (wrong := self._damage(view))]

    def _damage(self, view: int) -> str:
        try:
            read_shard(self._path(view))
        except FileNotFoundError:
            return ""
        except ClassroomError as error:
            return str(error)
        return ""

    def _path(self, view: int) -> Path:
        return self.folder / f"v{view:05d}.safetensors"

    def _remove_leftovers(self) -> None:
        """Remove what a killed writer had begun to write."""
        for part in self.folder.glob(f"v*.safetensors{PART}"):
            lock = part.with_suffix("").with_suffix(".lock")
            with suppress(ClassroomError), self._bank.claim(lock) as mine:
                if mine:
                    part.unlink(missing_ok=True)


def folder_size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    size = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # removed by another process meanwhile
            size += path.stat().st_size if path.is_file() else 0
    return size
