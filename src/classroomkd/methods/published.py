"""What is published for a method on a data set, or for a pair of networks: ``published.yaml``."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from typing import Any

import yaml


@dataclass(frozen=True)
class Setting:
    """What a method is used with: none of it, where it is not known.

    Attributes:
        data: ``"cifar100"`` or ``"imagenet"``; nothing is published here for another data set.
        teacher: name of the model of the method's one mentor.
        student: likewise.
    """

    data: str | None = None
    teacher: str | None = None
    student: str | None = None


@dataclass(frozen=True)
class Entry:
    """Options that are published for a data set, or for a pair on it.

    Attributes:
        data: name of the data set.
        pair: patterns of the teacher's and the student's names; None for any.
        options: the method's options.
        source: where they are from.
    """

    data: str
    pair: tuple[str, str] | None
    options: Mapping[str, Any]
    source: str

    def fits(self, setting: Setting) -> bool:
        """Whether the options are for this setting.

        Example:
            >>> entry = Entry("imagenet", ("*/resnet34", "*/resnet18"), {"weight": 1}, "")
            >>> teacher = "torchvision/resnet34.IMAGENET1K_V1"
            >>> entry.fits(Setting("imagenet", teacher, "timm/resnet18"))
            True
            >>> entry.fits(Setting("imagenet", teacher, "timm/resnet50"))
            False
        """
        if setting.data != self.data:
            return False
        if self.pair is None:
            return True
        names = ((name or "").partition(".")[0] for name in (setting.teacher, setting.student))
        return all(map(fnmatchcase, names, self.pair))

    @property
    def scope(self) -> str:
        """What the options are for, in words."""
        return f"{self.data}, {' -> '.join(self.pair)}" if self.pair else self.data


@dataclass(frozen=True)
class PublishedValue:
    """The published value of an option, and where it is from."""

    value: Any
    source: str


@cache
def entries(method: str) -> tuple[Entry, ...]:
    """What is published for a method; pairs stand after their data set."""
    return tuple(_entries(_table().get(method, {})))


def values(method: str, setting: Setting) -> dict[str, PublishedValue]:
    """The options that are published for a setting, by name.

    Example:
        >>> values("dkd", Setting("cifar100", "resnet56", "resnet20"))["beta"].value
        2
        >>> values("dkd", Setting("cifar10", "resnet56", "resnet20"))
        {}
    """
    return {
        option: PublishedValue(value, f"{entry.scope}: {entry.source}")
        for entry in entries(method)
        if entry.fits(setting)
        for option, value in entry.options.items()
    }


def _entries(rows: Mapping[str, Any]) -> Iterator[Entry]:
    for data, row in rows.items():
        if "options" in row:
            yield Entry(data, None, row["options"], row["source"])
        for pair, options in row.get("pairs", {}).items():
            teacher, _, student = pair.partition(" -> ")
            yield Entry(data, (teacher, student), options, row["source"])


@cache
def _table() -> Mapping[str, Any]:
    text = (files("classroomkd") / "methods" / "published.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)
