"""Images in a folder for each class: listed without opening one of them."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from classroomkd.errors import ClassroomError

EXTENSIONS = frozenset(
    (".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
)


@dataclass
class Listing:
    """The files of some classes.

    Attributes:
        root: the tree that they lie in; a link that leads out of it is left out.
        classes: names of the folders, sorted.
        files: of all classes, relative to `root`, as the file system spells them; sorted in each
            class.
        targets: each file's class.
        sizes: of the files, in bytes.
        mtimes: when each was changed, in nanoseconds.
        skipped: what was left out, by reason. Hidden files are not mentioned.
    """

    root: Path
    classes: tuple[str, ...]
    files: list[bytes] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    mtimes: list[int] = field(default_factory=list)
    skipped: dict[str, list[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.files)

    def keep(self, rows: list[int]) -> None:
        """Forget all files but those in the given places."""
        for name in ("files", "targets", "sizes", "mtimes"):
            whole = getattr(self, name)
            setattr(self, name, [whole[row] for row in rows])

    def check_classes(self) -> None:
        """A ClassroomError that names the classes without an image, if there are any."""
        present = set(self.targets)
        if empty := [name for place, name in enumerate(self.classes) if place not in present]:
            raise ClassroomError(
                f"{self.root}: no images of class {named(empty)}: remove the empty folder, or put "
                f"images into it ({', '.join(sorted(EXTENSIONS))})"
            )


def class_names(folder: Path) -> list[str]:
    """Names of the folders in ``folder``, sorted; none if it is no folder.

    A folder that is a link out of the tree counts as one here: `list_classes` judges it.
    """
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if not e.name.startswith(".") and e.is_dir())


def list_classes(folder: Path, root: Path) -> Listing:
    """List the images in the folders of ``folder``, each of which is a class.

    Folders in a class's folder belong to it. A link is followed if it leads to a file in the tree
    (a class's folder may be one, too); every other link is left out. 100,000 files take about a
    second.

    Args:
        folder: of the classes' folders.
        root: the tree that links may not leave.

    Raises:
        ClassroomError: if there are no classes, or one has no images; names it.
    """
    names = class_names(folder)
    listing = Listing(root, tuple(names))
    inside = os.path.realpath(root) + os.sep
    classes = []
    for name in names:
        path = folder / name
        if path.is_symlink() and not (os.path.realpath(path) + os.sep).startswith(inside):
            listing.skipped.setdefault("links out of the folder", []).append(str(path))
        else:
            classes.append(name)
    if not classes:
        raise ClassroomError(f"{folder}: no folders of images in it, one for each class")
    listing.classes = tuple(classes)
    for target, name in enumerate(classes):
        found = _walk(str(folder / name), inside, listing.skipped)
        for path, size, mtime in sorted(found):
            listing.files.append(os.fsencode(os.path.relpath(path, root)))
            listing.targets.append(target)
            listing.sizes.append(size)
            listing.mtimes.append(mtime)
    listing.check_classes()
    return listing


def _walk(
    folder: str, inside: str, skipped: dict[str, list[str]]
) -> Iterator[tuple[str, int, int]]:
    """Path, size and time of each image below a folder."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(entry.path, inside, skipped)
                continue
            if reason := _objection(entry, inside):
                skipped.setdefault(reason, []).append(entry.path)
                continue
            status = entry.stat()
            yield entry.path, status.st_size, status.st_mtime_ns


def _objection(entry: os.DirEntry, inside: str) -> str | None:
    """Why a file is left out, if it is."""
    if entry.is_symlink():
        if not os.path.realpath(entry.path).startswith(inside):
            return "links out of the folder"
        if not entry.is_file():
            return "links to folders or to nothing"
    known = os.path.splitext(entry.name)[1].lower() in EXTENSIONS
    return None if known and entry.is_file() else "files that are no images by their names"


def named(names: list[str], most: int = 5) -> str:
    """The first names, and how many more there are.

    >>> named(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
