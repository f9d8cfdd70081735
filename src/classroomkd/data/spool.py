"""Row groups of remote tables, kept on this machine's disk while they are in use.

Workers, and the processes of one training, read the same row groups at about the same time: kept on
disk and mapped into memory, each is fetched once for all of them, and takes memory once.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from classroomkd.data.cache import cache_file
from classroomkd.errors import ClassroomError

if TYPE_CHECKING:
    import pyarrow as pa

LIMIT = 4 * 2**30  # bytes on disk: what all streams of a user keep


@dataclass(frozen=True)
class Spool:
    """A folder of tables; those that were not used for longest make room for new ones.

    Attributes:
        folder: of the tables, which any number of processes may share.
        limit: bytes that they may take together; the latest stays, whatever its size.

    >>> import pyarrow as pa, tempfile
    >>> spool = Spool(Path(tempfile.mkdtemp()), limit=0)
    >>> spool.read("a", lambda: pa.table({"n": [1, 2]})).column("n").to_pylist()
    [1, 2]
    >>> spool.read("a", lambda: pa.table({"n": [3]})).column("n").to_pylist()
    [1, 2]
    """

    folder: Path
    limit: int = LIMIT

    def read(self, key: str, fetch: Callable[[], "pa.Table"]) -> "pa.Table":
        """The table of a key, mapped into memory; fetched if it is not here.

        Raises:
            ClassroomError: if it cannot be written.
        """
        from filelock import FileLock

        name = blake2b(os.fsencode(key), digest_size=16).hexdigest()
        file = self.folder / f"{name}.arrow"
        if (table := _mapped(file)) is not None:
            return table
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(file.with_suffix(".lock")):
                # Another process may have fetched it while this one waited.
                if (table := _mapped(file)) is not None:
                    return table
                table = fetch()
                _write(file, table)
        except OSError as error:
            raise ClassroomError(
                f"{self.folder}: row groups of streamed data cannot be kept here ({error}): free"
                f" {self.limit / 2**30:.0f} GiB, or set $CLASSROOMKD_CACHE to a folder that has it"
            ) from error
        self._make_room(file)
        return table

    def _make_room(self, latest: Path) -> None:
        """Remove what was not used for longest, or never finished. Who has it mapped keeps it."""
        found = []
        for file in [*self.folder.glob("*.arrow"), *self.folder.glob("*.part")]:
            with suppress(FileNotFoundError):  # another process makes room, too
                status = file.stat()
                found.append((status.st_mtime_ns, status.st_size, file))
        total = sum(size for _, size, _ in found)
        for _, size, file in sorted(found):
            if total <= self.limit:
                break
            if file != latest:
                file.unlink(missing_ok=True)
                file.with_suffix(".lock").unlink(missing_ok=True)
                total -= size


def usual_spool() -> Spool:
    """The spool in ``$CLASSROOMKD_CACHE`` or ``~/.cache/classroomkd``."""
    return Spool(cache_file("streams").parent / "streams")


def _mapped(file: Path) -> "pa.Table | None":
    """The table in a file, which counts as used now; None if it is not there or damaged."""
    import pyarrow as pa

    try:
        os.utime(file)
        with pa.memory_map(str(file)) as source:
            return pa.ipc.open_file(source).read_all()
    except (OSError, pa.ArrowException):
        return None


def _write(file: Path, table: "pa.Table") -> None:
    """Write a file that is there as a whole or not at all."""
    import pyarrow as pa

    part = file.with_suffix(f".{uuid4().hex}.part")
    try:
        with pa.OSFile(str(part), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
