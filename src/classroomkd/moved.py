"""Modules and names that have moved since 0.1: found where they were, for one release, with a word.

Nothing here imports what it names before somebody asks for it.
"""

import importlib
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MODULES = {
    "config.data": "tasks.classification.images",
    "config.lineups": "recipes.lineups",
    "config.pose": "tasks.pose.recipe",
    "data.pose": "tasks.pose.data",
    "mentors.pose": "tasks.pose.mentor",
    "mentors.sources": "tasks.classification.mentor",
    "models.pose": "tasks.pose.models",
    "report.svg": "svg",
    **{
        f"tasks.pose.{name}": f"tasks.pose.metrics.{name}"
        for name in ("coco_ap", "coco_files", "evaluate", "oks", "pck", "predict", "taught")
    },
}
"""Modules, with all that is below them: from where they were to where they are."""


def _here(old: str) -> str | None:
    """Where a module is now; None if it has not moved."""
    name = old.removeprefix("classroomkd.")
    for start, end in MODULES.items():
        if name == start or name.startswith(f"{start}."):
            return f"classroomkd.{end}{name.removeprefix(start)}"
    return None


class _Copy(Loader):
    """Fills a module with the names of another."""

    def __init__(self, real: str) -> None:
        self.real = real

    def exec_module(self, module: ModuleType) -> None:
        real = importlib.import_module(self.real)
        module.__dict__.update({k: v for k, v in vars(real).items() if not k.startswith("__")})


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith("classroomkd.") or (real := _here(fullname)) is None:
            return None
        if _here(fullname.rpartition(".")[0]) is None:  # else that was said of the package above
            text = f"{fullname} is now {real}; the old name goes in the next release"
            warnings.warn(text, DeprecationWarning, stacklevel=2)
        return ModuleSpec(fullname, _Copy(real), is_package=True)


def install() -> None:
    """Let modules that have moved be imported by their old names."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())  # last: only what is not there is looked for


def names_of(module: str, moved: Mapping[str, str]) -> Callable[[str], Any]:
    """A module's ``__getattr__`` for names that were in it.

    Args:
        module: its name.
        moved: for each name the module that has it now, or ``module:name`` where it has another.
    """

    def find(name: str) -> Any:
        if name not in moved:
            raise AttributeError(f"module '{module}' has no attribute '{name}'")
        place, _, other = moved[name].partition(":")
        text = f"{module}.{name} is now {place}.{other or name}; it goes in the next release"
        warnings.warn(text, DeprecationWarning, stacklevel=2)
        return getattr(importlib.import_module(place), other or name)

    return find
