"""Which files are for training, for the test and for development, by their names."""

import glob
import re
from collections.abc import Sequence
from pathlib import Path

from classroomkd.data.files import named
from classroomkd.errors import ClassroomError, nearest_path

_WORDS = {
    "train": ("train", "training"),
    "test": ("test", "testing"),
    "dev": ("val", "valid", "validation", "dev"),
}
_SIGNS = "*?{["
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_OF = re.compile(r"\d-of-(\d+)")


def split_of(name: str) -> str:
    """The split that a name speaks of: ``train``, ``test``, ``dev``, or nothing.

    >>> split_of("imagenet1k-validation-03.tar"), split_of("part-0.tar"), split_of("Train")
    ('dev', '', 'train')
    """
    found = set(re.split(r"[^a-z]+", name.lower()))
    return next((split for split, words in _WORDS.items() if found & set(words)), "")


def group_files(path: Path, suffix: str) -> tuple[dict[str, list[Path]], list[Path]]:
    """Files by split, each split's in order, and those that belong to none.

    The split is in the file's name, or else in that of the nearest folder that speaks of one. If
    no name speaks of any, all files are for ``train``. Files that are missing by their own names
    (``-00000-of-00003``) are a ClassroomError, and so is a set without any for training.
    """
    files = list_files(path, suffix)
    root = _same_for_all(path)
    groups: dict[str, list[Path]] = {}
    for file in files:
        own = reversed(file.relative_to(root).parts)
        found = next((split for part in own if (split := split_of(part))), "")
        groups.setdefault(found, []).append(file)
    others = groups.pop("", [])
    if not groups:
        groups, others = {"train": others}, []
    if "train" not in groups:
        raise ClassroomError(
            f"{path}: no file is for training by its name, such as train-00000{suffix} (found: "
            f"{named([file.name for file in files])})"
        )
    for split, chosen in groups.items():
        check_complete(path, split, chosen)
    return groups, others


def list_files(path: Path, suffix: str) -> list[Path]:
    """The files that a path means, sorted: a ClassroomError if there are none, or one is not there.

    It is a file; a folder, of which all files are meant whose names end in ``suffix``; or a pattern
    with ``*``, ``?``, ``{a,b}`` or ``{000..127}``.
    """
    if path.is_dir():
        files = sorted(file for file in path.rglob(f"*{suffix}") if not file.name.startswith("."))
        if not files:
            entries = sorted(entry.name for entry in path.iterdir())
            raise ClassroomError(
                f"{path}: no files *{suffix} in it (found: {named(entries) or 'nothing'})"
            )
        return files
    files = []
    for text in _expand(str(path)):
        found = [text] if Path(text).is_file() else glob.glob(text, recursive=True)
        if not found:
            raise ClassroomError(f"{text}: no such file{nearest_path(Path(text))}")
        files += map(Path, found)
    if not files:
        raise ClassroomError(f"{path}: stands for no files: ranges go up, as in {{000..127}}")
    return sorted(set(files))


def is_pattern(path: Path) -> bool:
    """Whether a path stands for several files by ``*``, ``?`` or braces."""
    return not path.exists() and any(sign in str(path) for sign in _SIGNS)


def _same_for_all(path: Path) -> Path:
    """The folder above all files of a path: its name tells no split from another."""
    if path.exists():
        return path
    return next(above for above in path.parents if not any(s in str(above) for s in _SIGNS))


def _expand(text: str) -> list[str]:
    """All that braces stand for: ``{a,b}``, or numbers ``{08..11}``, which keep their zeros."""
    match = _BRACES.search(text)
    if match is None:
        return [text]
    if ends := _RANGE.fullmatch(match[1]):
        width = len(ends[1])
        options = [f"{n:0{width}d}" for n in range(int(ends[1]), int(ends[2]) + 1)]
    else:
        options = match[1].split(",")
    head, tail = text[: match.start()], text[match.end() :]
    return [whole for option in options for whole in _expand(head + option + tail)]


def check_complete(path: Path, split: str, files: Sequence[Path]) -> None:
    """A ClassroomError if files are missing by their own names (``-00000-of-00003``)."""
    totals = {int(match[1]) for file in files if (match := _OF.search(file.stem))}
    if totals and totals != {len(files)}:
        raise ClassroomError(
            f"{path}: {len(files)} of {max(totals)} files of the {split} split are here "
            f"({named([file.name for file in files])}): fetch the others, or remove what is left"
            " over"
        )
