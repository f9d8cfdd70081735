"""The folder of a bank as all its users share it: locks, room, and keys that must agree.

`FolderGuard` knows nothing of what is stored.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from classroomkd.errors import ClassroomError
from classroomkd.mentors.bank.keys import Key, differences, read_key
from classroomkd.mentors.bank.shards import size_text, write_bytes


class FolderGuard:
    """What processes that read and write one folder agree by.

    Args:
        path: the folder.
        limit_bytes: the size that it may have; None for as much as there is room.
        say: told about what is damaged.

    Attributes:
        begun: the files that this object's users are at, which are no leftovers.
    """

    def __init__(
        self, path: Path, limit_bytes: int | None = None, say: Callable[[str], object] = print
    ) -> None:
        self.path, self.limit_bytes, self.say = path, limit_bytes, say
        self.begun: set[Path] = set()
        self._locks: dict[Path, FileLock] = {}

    @contextmanager
    def lock(self, path: Path, timeout: float = -1) -> Iterator[None]:
        """Hold a lock file; free again in the thread that has it already."""
        # one object for each file, so that a builder that has claimed a shard can save it
        lock = self._locks.setdefault(path, FileLock(path))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=timeout, poll_interval=0.01)
        except Timeout:
            raise
        except OSError as error:
            raise ClassroomError(f"{path} cannot be made or written to: {error}") from error
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def claim(self, path: Path) -> Iterator[bool]:
        """Hold a lock file if nobody else does; yields whether it is held. Never waits."""
        with ExitStack() as held:
            try:
                held.enter_context(self.lock(path, timeout=0))
                mine = True
            except Timeout:
                mine = False
            yield mine

    @contextmanager
    def room(self, path: Path, size: int) -> Iterator[None]:
        """A context in which ``size`` bytes may be written to ``path`` without passing the limit.

        Raises:
            ClassroomError: if they would.
        """
        if self.limit_bytes is None:
            yield
            return
        with self.lock(self.path / "bank.lock"):
            before = path.stat().st_size if path.exists() else 0
            total = folder_size(self.path) - before + size
            if total > self.limit_bytes:
                raise ClassroomError(
                    f"{path}: the bank would take {size_text(total)}, more than its limit of "
                    f"{size_text(self.limit_bytes)}. What is stored stays usable. Raise the limit, "
                    "store fewer classes (top) or fewer views (repeat), or remove mentors that "
                    "are no longer needed with `classroomkd bank prune`"
                )
            yield

    def settle(self, path: Path, key: Key | None, what: str, cure: str) -> dict[str, Any]:
        """The key in a file, which must be ``key`` unless that is None; written if absent."""
        if not path.exists():
            if key is None:
                raise ClassroomError(f"{what} is not there: {path.name} is missing. Build it first")
            with self.lock(self.path / "bank.lock"):
                if not path.exists():
                    path.parent.mkdir(exist_ok=True)
                    write_bytes(path, (json.dumps(key, indent=2) + "\n").encode())
        there = read_key(path)
        here = there if key is None else json.loads(json.dumps(key))
        if differ := differences(there, here):
            raise ClassroomError(f"{what} does not fit; {'; '.join(differ)}. {cure}")
        return there


def folder_size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    size = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # removed by another process meanwhile
            size += path.stat().st_size if path.is_file() else 0
    return size
