"""One mentor's shards in a bank."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from classroomkd.errors import ClassroomError
from classroomkd.mentors.bank.encoding import Encoded
from classroomkd.mentors.bank.guard import FolderGuard, folder_size
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
    writing,
)
from classroomkd.mentors.bank.writer import ShardWriter


@dataclass(frozen=True)
class Stored:
    """What a bank has of one mentor; ``damaged`` counts the shards whose header is unreadable."""

    mentor: str
    views: int
    samples: int
    bytes: int
    damaged: int


class ViewWriter:
    """Writes what a mentor says about a view, from its first batch on; see `MentorStore.begin`.

    Args:
        path: of the file in the making.
        index: ``[n]`` int64, the samples that will be written.
        room: of the bank.
    """

    def __init__(
        self, path: Path, index: Tensor, room: Callable[[Path, int], AbstractContextManager]
    ) -> None:
        self.path, self._index, self._room = path, index, room
        self._shard: ShardWriter | None = None

    def write(self, index: Tensor, stored: Encoded) -> None:
        """Write some samples; tensors are on the host."""
        with writing(self.path):
            if self._shard is None:
                each = sum(tensor.nbytes for tensor in stored.values()) / max(len(index), 1)
                with self._room(self.path, round((each + 8) * len(self._index))):
                    self._shard = ShardWriter(self.path, self._index, stored)
            self._shard.write(index, stored)

    def finish(self) -> bool:
        """Whether all samples were written; then the file is a shard."""
        if self._shard is None or not self._shard.complete:
            return False
        self._shard.finish()
        return True

    def abandon(self) -> None:
        """Remove what is left of the file."""
        if self._shard is not None:
            self._shard.close()
        with suppress(OSError):
            self.path.unlink()


class MentorStore:
    """One mentor's shards in a bank; made by `Bank.mentor`.

    Attributes:
        folder: where they lie.
        name: the mentor's name.
        key: the mentor key, as it is stored.
    """

    def __init__(self, guard: FolderGuard, folder: Path, name: str, key: Key | None) -> None:
        self.folder = folder
        self.name = name
        self._guard = guard
        self.key = self._settle(key)
        self._remove_leftovers()

    def _settle(self, key: Key | None) -> Key:
        """The key that is stored, which must be ``key`` unless that is None; written if absent."""
        cure = (
            "Give this mentor another name, choose another bank, or remove the stored outputs "
            "with `classroomkd bank prune`"
        )
        what = f"mentor {self.name} in {self.folder}"
        return self._guard.settle(self.folder / "mentor.json", key, what, cure)

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
            self._guard.say(f"{error}. It is removed, and counts as missing")
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
        with self._guard.lock(path.with_suffix(".lock")):
            self._settle(self.key)  # somebody may have pruned it
            old = self.load(view)
            data = serialise(merge(old, shard) if old else shard)
            with self._guard.room(path, len(data)):
                write_bytes(path, data)

    @contextmanager
    def begin(self, view: int, index: Tensor) -> Iterator[ViewWriter | None]:
        """A writer of what the mentor will say about a view; None if another is at it already.

        At the end of the context, what was written is added to what is stored if it is complete,
        and else forgotten.

        Args:
            view: its number.
            index: ``[n]`` int64, the samples that will be written, strictly increasing.

        Raises:
            ClassroomError: as for `save`; a lack of room is met with the first batch.
        """
        path = self._path(view)
        with self.claim(view) as mine:
            if not mine:
                yield None
                return
            writer = ViewWriter(path.with_name(path.name + PART), index, self._guard.room)
            self._guard.begun.add(writer.path)
            try:
                yield writer
                if writer.finish():
                    self._take_over(view, writer.path, index)
            finally:
                writer.abandon()
                self._guard.begun.discard(writer.path)

    def _take_over(self, view: int, part: Path, index: Tensor) -> None:
        """Put a complete file of samples in the place of what is stored, or beside it."""
        self._settle(self.key)  # somebody may have pruned it
        old, path = self.load(view), self._path(view)
        if old is not None and not torch.isin(old.index, index).all():
            self.save(view, read_shard(part))
            return
        with self._guard.room(path, part.stat().st_size), writing(path):
            os.replace(part, path)

    def claim(self, view: int) -> AbstractContextManager[bool]:
        """Hold a view to build it; yields False, at once, if another process or thread holds it.

        Whoever holds it can `save` it. A killed process holds nothing.
        """
        return self._guard.claim(self._path(view).with_suffix(".lock"))

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
        for part in set(self.folder.glob(f"v*.safetensors{PART}")) - self._guard.begun:
            lock = part.with_suffix("").with_suffix(".lock")
            with suppress(ClassroomError), self._guard.claim(lock) as mine:
                if mine:
                    part.unlink(missing_ok=True)
