"""A bank folder: who said what about which view, for several processes at once.

================================= ==============================================================
``bank.json``                     the view key: what the images of a view follow from
``<mentor>/mentor.json``          the mentor key: what the mentor's outputs follow from
``<mentor>/v00007.safetensors``   its outputs for view 7, a `Shard`
``*.lock``                        held while something beside them is written; empty
================================= ==============================================================

Nothing in a bank speaks of the hardware or the folder: it can be copied to another machine.
"""

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote, unquote

from classroomkd.errors import ClassroomError
from classroomkd.mentors.bank.guard import FolderGuard, folder_size
from classroomkd.mentors.bank.keys import Key
from classroomkd.mentors.bank.mentor_store import MentorStore, Stored
from classroomkd.mentors.bank.shards import PART

FORMAT = 1


class Bank:
    """The folder of a bank, made if it is not there.

    Any number of processes may open, read and write the same bank.

    Args:
        path: the folder.
        view_key: what `view_key` gave; None takes the one of a bank that is there already.
        limit_bytes: the size that the folder may have; None for as much as there is room.
        say: told about damaged shards.

    Attributes:
        key: the view key, as it is stored.

    Raises:
        ClassroomError: if the bank holds other views (naming what differs), the folder holds
            something else, or it cannot be read or made.

    >>> import torch
    >>> from tempfile import TemporaryDirectory
    >>> from classroomkd.mentors.bank import Shard
    >>> shard = Shard(torch.tensor([1, 2]), {"odds": torch.tensor([0.5, 1.5])})
    >>> with TemporaryDirectory() as folder:
    ...     Bank(folder, {"seed": 0}).mentor("vgg8", {"weights": "3f2a"}).save(7, shard)
    ...     store = Bank(folder, {"seed": 0}).mentor("vgg8", None)
    ...     store.views(), store.load(7).stored["odds"]
    ([7], tensor([0.5000, 1.5000]))
    """

    def __init__(
        self,
        path: Path | str,
        view_key: Key | None,
        *,
        limit_bytes: int | None = None,
        say: Callable[[str], object] = print,
    ) -> None:
        self.path = Path(path)
        self._guard = FolderGuard(self.path, limit_bytes, say)
        self._check_folder()
        key = None if view_key is None else {"format": FORMAT, **view_key}
        cure = "Choose another folder, or remove what is old with `classroomkd bank prune`"
        self.key = self._guard.settle(self.path / "bank.json", key, f"the bank {self.path}", cure)
        if self.key.get("format") != FORMAT:
            raise ClassroomError(
                f"{self.path} has format {self.key.get('format')}, this version reads {FORMAT}"
            )

    def mentor(self, name: str, mentor_key: Key | None) -> "MentorStore":
        """A mentor's store, made if it is not there.

        Args:
            name: the mentor's name; any but an empty one.
            mentor_key: what `mentor_key` gave; None takes the one that is there, such as that of
                outputs which were imported.

        Raises:
            ClassroomError: if another mentor's outputs are stored under this name, naming what
                differs; if the key is None and nothing is stored; or if the folder cannot be made.
        """
        return MentorStore(self._guard, self.path / _folder_name(name), name, mentor_key)

    def mentors(self) -> list[str]:
        """The names of the mentors that have a store, sorted."""
        return sorted(unquote(path.parent.name) for path in self.path.glob("*/mentor.json"))

    def size(self) -> int:
        """Bytes of all files of the bank."""
        return folder_size(self.path)

    def info(self) -> list[Stored]:
        """A row for each mentor; reads the shards' headers alone."""
        return [self.mentor(name, None).info() for name in self.mentors()]

    def check(self) -> list[str]:
        """Read every byte of every shard; returns what is wrong with each damaged one."""
        wrong: list[str] = []
        for name in self.mentors():
            try:
                wrong += self.mentor(name, None).check()
            except ClassroomError as error:
                wrong.append(str(error))
        return wrong

    def prune(self, keep: set[str]) -> list[str]:
        """Remove the stores of all mentors but these; returns the names of the removed.

        Raises:
            ClassroomError: if another process is writing to one of them; what was removed before
                stays removed.
        """
        removed = [name for name in self.mentors() if name not in keep]
        for name in removed:
            folder = self.path / _folder_name(name)
            with ExitStack() as held:
                for path in folder.glob("*.lock"):
                    if not held.enter_context(self._guard.claim(path)):
                        raise ClassroomError(
                            f"another process is writing to {folder}: prune when it has finished"
                        )
                for path in folder.glob("*.safetensors"):  # never left without their key
                    path.unlink()
                shutil.rmtree(folder)
        return removed

    def _check_folder(self) -> None:
        """See that a new bank is not made among other files."""
        ours = {"bank.json", "bank.json" + PART, "bank.lock"}
        try:
            found = {entry.name for entry in self.path.iterdir()} if self.path.exists() else set()
        except OSError as error:
            raise ClassroomError(f"{self.path} cannot be read as a folder: {error}") from error
        if "bank.json" not in found and (strange := sorted(found - ours)):
            raise ClassroomError(
                f"{self.path} holds other files, such as {strange[0]}: it is not a bank and is "
                "left alone; choose another folder"
            )


def _folder_name(mentor: str) -> str:
    """A folder name for any mentor name, from which `unquote` gives the latter back.

    Without dots it is no path and no other file of the bank.
    """
    folder = quote(mentor, safe=" ").replace(".", "%2E")
    if not 1 <= len(folder) <= 200:
        raise ClassroomError(f"a mentor in a bank needs a name of 1 to 200 letters, not '{mentor}'")
    return folder
