"""Images in a folder for each class: listed without opening one of them.

Why not `datasets`' imagefolder: it takes the nearest folder for the class (of Tiny ImageNet that is
``images``), follows links out of the tree, stops at a name that is no UTF-8, and does not tell what
it leaves out.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from classroomkd.errors import ClassroomError

EXTENSIONS = frozenset((".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm"))
EXTENSIONS |= {".avif", ".jp2", ".tif", ".tiff", ".webp"}
_LEADS_OUT = "links out of the folder"
_NOWHERE = "links to folders or to nothing"
Skipped = dict[str, list[str]]  # what is left out, by reason; hidden files are not mentioned


@dataclass
class Listing:
    """The files of some classes, and what was left out.

    Attributes:
        root: the tree that they lie in; a link that leads out of it is left out.
        classes: names of the folders, sorted.
        files: relative to `root`, as the file system spells them; sorted in each class.
        targets: each file's class.
        sizes: of the files, in bytes.
        mtimes: when each was changed, in nanoseconds.
        skipped: what was left out.
    """

    root: Path
    classes: tuple[str, ...] = ()
    files: list[bytes] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    mtimes: list[int] = field(default_factory=list)
    skipped: Skipped = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.files)

    def add(self, path: str, target: int, size: int, mtime: int) -> None:
        """Add a file of a class."""
        self.files.append(os.fsencode(os.path.relpath(path, self.root)))
        self.targets.append(target)
        self.sizes.append(size)
        self.mtimes.append(mtime)

    @property
    def left_out(self) -> str:
        """What was left out, in words."""
        parts = (f"{len(names)} {why}: {named(names)}" for why, names in self.skipped.items())
        return f"Left out were {'; '.join(parts) or 'no files'}"


def class_names(folder: Path) -> list[str]:
    """Names of the folders in ``folder``, sorted; none if it is no folder.

    A folder that is a link out of the tree counts as one here: `list_classes` judges it.
    """
    return [entry.name for entry in _entries(folder) if _is_folder(entry)]


def list_classes(folder: Path, root: Path) -> Listing:
    """List the images in the folders of ``folder``, each of which is a class.

    Folders in a class's folder belong to it. A link is followed if it leads to a file in the tree
    ``root`` (a class's folder may be one, too); every other link is left out. 100,000 files take
    about a second. No classes, a class without images, and a folder that cannot be read are
    ClassroomErrors that name them.
    """
    listing = Listing(root)
    listing.classes = own_classes(folder, root, listing.skipped)
    if not listing.classes:
        raise ClassroomError(
            f"{folder}: no folders of images in it, one for each class. {listing.left_out}"
        )
    empty = []
    for target, name in enumerate(listing.classes):
        found = _images(folder / name, root, listing.skipped)
        for path, size, mtime in found:
            listing.add(path, target, size, mtime)
        if not found:
            empty.append(name)
    if empty:
        raise ClassroomError(
            f"{root}: no images of class {named(empty)}: remove the empty folder, or put "
            f"images into it ({', '.join(sorted(EXTENSIONS))}). {listing.left_out}"
        )
    return listing


def list_flat(folder: Path, root: Path, labels: Mapping[str, str], source: Path) -> Listing:
    """List the images below a folder without a folder for each class.

    ``labels`` has each image's class by its name without the extension, and comes from the file
    ``source``. An image without a label is a ClassroomError.
    """
    listing = Listing(root)
    found = _images(folder, root, listing.skipped)
    stems = [os.path.splitext(os.path.basename(path))[0] for path, _, _ in found]
    if unknown := [stem for stem in stems if stem not in labels]:
        raise ClassroomError(
            f"{folder}: {source.name} has no label for {len(unknown)} of {len(stems)} images: "
            f"{named(unknown)}. Remove them, or fetch the file that belongs to them"
        )
    if not found:
        raise ClassroomError(f"{folder}: has no images")
    if missing := sorted(labels.keys() - set(stems)):
        listing.skipped[f"labels of {source.name} without an image"] = missing
    listing.classes = tuple(sorted({labels[stem] for stem in stems}))
    places = {name: place for place, name in enumerate(listing.classes)}
    for stem, (path, size, mtime) in zip(stems, found, strict=True):
        listing.add(path, places[labels[stem]], size, mtime)
    return listing


def own_classes(folder: Path, root: Path, skipped: Skipped | None = None) -> tuple[str, ...]:
    """The classes that `list_classes` finds: no folder of theirs leads out of the tree ``root``.

    What is left out is added to ``skipped``.
    """
    skipped = {} if skipped is None else skipped
    classes, inside, own = [], _inside(root), _inside(folder)
    for entry in _entries(folder):
        reason = None
        if _is_folder(entry):
            target = _inside(entry.path)
            if entry.is_symlink() and not target.startswith(inside):
                reason = _LEADS_OUT
            elif entry.is_symlink() and own.startswith(target):
                reason = "links to a folder that they are in"
            else:
                classes.append(entry.name)
        elif not os.path.exists(entry.path):
            reason = _NOWHERE
        elif _is_image(entry.name):
            reason = "images in no folder of a class"
        if reason:
            skipped.setdefault(reason, []).append(entry.path)
    if unwritable := [name for name in classes if printable(name) != name]:
        raise ClassroomError(
            f"{folder}: names of classes must be UTF-8 text: rename {named(unwritable)}"
        )
    return tuple(classes)


def _entries(folder: Path) -> list[os.DirEntry]:
    """What is in a folder and not hidden, sorted by name; nothing if it is no folder."""
    try:
        with os.scandir(folder) as entries:
            shown = [entry for entry in entries if not entry.name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise _unreadable(folder, error) from error
    return sorted(shown, key=lambda entry: entry.name)


def _is_folder(entry: os.DirEntry) -> bool:
    """Whether it is a folder, or a link to one; a link in a circle is none."""
    return entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and os.path.isdir(entry.path))


def _is_image(name: str) -> bool:
    """Whether a file is an image by its name."""
    return os.path.splitext(name)[1].lower() in EXTENSIONS


def _inside(root: Path | str) -> str:
    """What the paths in a tree begin with."""
    return os.path.realpath(root).rstrip(os.sep) + os.sep


def _images(folder: Path, root: Path, skipped: Skipped) -> list[tuple[str, int, int]]:
    """Path, size and time of each image below a folder, sorted."""
    try:
        return sorted(_walk(str(folder), _inside(root), skipped))
    except OSError as error:
        raise _unreadable(folder, error) from error


def _walk(folder: str, inside: str, skipped: Skipped) -> Iterator[tuple[str, int, int]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(entry.path, inside, skipped)
                continue
            reason = None
            if entry.is_symlink() and not os.path.realpath(entry.path).startswith(inside):
                reason = _LEADS_OUT
            elif entry.is_symlink() and not os.path.isfile(entry.path):
                reason = _NOWHERE  # entry.is_file() raises at a link in a circle
            elif not (_is_image(entry.name) and entry.is_file()):
                reason = "files that are no images by their names"
            if reason:
                skipped.setdefault(reason, []).append(entry.path)
            else:
                status = entry.stat()
                yield entry.path, status.st_size, status.st_mtime_ns


def _unreadable(folder: Path, error: OSError) -> ClassroomError:
    return ClassroomError(
        f"{printable(error.filename or folder)}: cannot be read ({error.strerror}). Mend its"
        " permissions, or move it away"
    )


def named(names: Sequence[str], most: int = 5) -> str:
    """The first names, and how many more there are.

    >>> named(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(printable, names[:most])) + more


def printable(name: object) -> str:
    r"""A name as it can be printed: bytes that are no UTF-8 become escapes.

    >>> printable(os.fsdecode(b"caf\xe9.jpg"))
    'caf\\udce9.jpg'
    """
    return str(name).encode("utf-8", "backslashreplace").decode()
