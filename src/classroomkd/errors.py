"""Errors that a user can act on, and the search for the name that they meant."""

from collections.abc import Iterable
from difflib import SequenceMatcher
from os.path import commonprefix
from pathlib import Path


class ClassroomError(Exception):
    """Something went wrong that the message explains and tells how to mend (exit code 1)."""


class RecipeError(ClassroomError):
    """A recipe has mistakes; ``mistakes`` lists every one with its path (exit code 2)."""

    def __init__(self, source: str, mistakes: list[str]) -> None:
        self.mistakes = mistakes
        count = "1 mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        super().__init__(f"{source}: {count}\n" + "\n".join(f"  {line}" for line in mistakes))


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint such as ``": did you mean 'resnet20'?"``, or nothing if no name is near.

    >>> nearest("resnet21", ["resnet20", "vgg8"])
    ": did you mean 'resnet20'?"
    """

    def closeness(candidate: str) -> tuple[float, int]:
        pair = name.lower(), candidate.lower()
        return SequenceMatcher(None, *pair).ratio(), len(commonprefix(pair))

    best = max(sorted(known), key=closeness, default="")
    return f": did you mean '{best}'?" if best and closeness(best)[0] >= 0.5 else ""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Say that ``name`` is not a known ``kind``, and which known name is nearest.

    >>> unknown_name("model", "resnet21", ["resnet20", "vgg8"])
    "unknown model 'resnet21': did you mean 'resnet20'? (known: resnet20, vgg8)"
    """
    known = sorted(known)
    return f"unknown {kind} '{name}'{nearest(name, known)} (known: {', '.join(known)})"


def nearest_path(path: Path) -> str:
    """A hint at the file or folder beside ``path`` whose name is nearest, or nothing."""
    if not path.parent.is_dir():
        return ""
    return nearest(path.name, [sibling.name for sibling in path.parent.iterdir()])
