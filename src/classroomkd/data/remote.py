"""Parquet files of any file system, a server's for instance: opened again and again, with patience.

What went wrong is told with its cure.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from classroomkd.errors import ClassroomError

if TYPE_CHECKING:
    import pyarrow.parquet as pq
    from fsspec import AbstractFileSystem

Anything = TypeVar("Anything")
_TRIES = 3
_PAUSE = 1.0  # seconds before the next try


@dataclass(frozen=True)
class ParquetSource:
    """A Parquet file.

    Attributes:
        system: where it is.
        path: in the file system.
        content: what its content is known by, a hash for instance; empty if nobody knows.
        changed: when it was changed, in nanoseconds; 0 if it never changes under its path.
    """

    system: "AbstractFileSystem"
    path: str
    content: str = ""
    changed: int = 0

    @property
    def key(self) -> str:
        """What tells the file as it is from others, and from what it was before."""
        return f"{self.system.protocol} {self.path} {self.content} {self.changed}"

    def read(
        self,
        use: "Callable[[pq.ParquetFile], Anything]",
        footer: "pq.FileMetaData | None" = None,
        what: str = "it",
    ) -> Anything:
        """What ``use`` makes of the opened file.

        Args:
            use: reads the parts that it needs.
            footer: the file's, if known, which is then not read again.
            what: what is read, for messages.

        Raises:
            ClassroomError: if it cannot be read in three tries, or none would help.
        """
        import pyarrow.parquet as pq

        for left in reversed(range(_TRIES)):
            try:
                # Without a cache, since reading ahead fetches megabytes for each footer.
                with (
                    self.system.open(self.path, "rb", cache_type="none") as file,
                    pq.ParquetFile(file, metadata=footer, pre_buffer=False) as parquet,
                ):
                    return use(parquet)
            except Exception as error:  # the file system, the network and Arrow have their own
                if not left or _is_final(error):
                    raise ClassroomError(
                        f"{self.path}: {what} cannot be read ({said(error)}). {cure(error)}"
                    ) from error
            time.sleep(_PAUSE)
        raise AssertionError("the last try returns or raises")


def said(error: BaseException) -> str:
    r"""An error's own words in one line, or what it is called.

    >>> said(OSError("403:\n  forbidden")), said(TimeoutError())
    ('403: forbidden', 'TimeoutError')
    """
    return " ".join(str(error).split()) or type(error).__name__


def cure(error: Exception) -> str:
    """What a user can do about an error of a file system.

    >>> cure(ConnectionError("reset"))
    'If it is damaged, write it again; else check the network, and go on with --resume'
    """
    if _status(error) in (401, 403):
        return (
            "Access is restricted, or there is no such data set: ask for access on its page, then"
            " `hf auth login`"
        )
    if isinstance(error, FileNotFoundError) or _status(error) == 404:
        return "It is not there, or no longer: check the name, and start again"
    return "If it is damaged, write it again; else check the network, and go on with --resume"


def _is_final(error: Exception) -> bool:
    """Whether another try would give the same answer."""
    return isinstance(error, FileNotFoundError) or _status(error) in (401, 403, 404)


def _status(error: BaseException | None) -> int | None:
    """The server's answer that an error or one of its causes came from, such as 403."""
    while error is not None:
        if (status := getattr(getattr(error, "response", None), "status_code", None)) is not None:
            return status
        error = error.__cause__ or error.__context__
    return None
