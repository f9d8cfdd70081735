"""Recipes that are made from a table: the public line-ups on CIFAR-100, and their networks alone.

``cifar100/resnet20-1t5p-resnet56`` is a student with its mentors, ``cifar100/resnet56`` one of the
mentors, trained alone: its run is the folder ``runs/cifar100-resnet56``, which line-ups refer to.

With ``-published`` at its end, a name stands for the same by the protocol of published numbers: all
50,000 images, none of them kept apart for development, and float32; its mentors are trained so,
too, in folders of their own. Without images to choose an epoch by, the last one's student counts.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

DATA = "cifar100"
PUBLISHED = "-published"
EPOCHS, MILESTONES = 240, (150, 180, 210)
TEMPERATURE = 12
_GENTLE = ("MobileNet", "ShuffleNet", "swin")  # learn at 0.01; of swin, it is ours
_EARLY = re.compile(r"(.+)-e(\d+)")


@dataclass(frozen=True)
class Lineup:
    """Who is in a classroom, and for how long.

    Attributes:
        student: its name in the table.
        teachers: names in the table; more than one may be the same.
        peers: likewise.
        epochs: of the schedule.
        stop: after how many of them the training ends; None for all.
        method: options of `classroom`.
    """

    student: str
    teachers: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()
    epochs: int = EPOCHS
    stop: int | None = None
    method: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        if not self.mentors:
            return f"{self.student} alone{f', for {self.stop} epochs' if self.stop else ''}"
        roles = {"teachers": self.teachers, "peers": self.peers}
        said = (f"{role} {', '.join(names)}" for role, names in roles.items() if names)
        return f"{self.student}; {'; '.join(said)}"

    @property
    def mentors(self) -> tuple[str, ...]:
        """Everybody but the student."""
        return self.teachers + self.peers

    def recipe(self, name: str, *, published: bool = False) -> dict[str, Any]:
        """The recipe, as it would be written, of a run with this name.

        Args:
            name: of the run.
            published: train by the protocol of published numbers, from mentors that are, too.
        """
        suffix = PUBLISHED if published else ""
        roles = ("teacher",) * len(self.teachers) + ("peer",) * len(self.peers)
        mentors = [
            {"run": str(_folder(mentor + suffix)), "role": role}
            for mentor, role in zip(self.mentors, roles, strict=True)
        ]
        method = {"name": "classroom", **self.method} if mentors else {"name": "none"}
        lr = 0.01 if self.student.startswith(_GENTLE) else 0.05
        return {
            "name": name,
            "data": {"name": DATA, **({"dev": 0} if published else {})},
            "student": {"model": _table()["models"].get(self.student, self.student)},
            "mentors": mentors,
            "method": method,
            "train": {
                "epochs": self.stop or self.epochs,
                "batch_size": 64,
                **({"precision": "fp32"} if published else {}),
                "optimizer": {"name": "sgd", "lr": lr, "momentum": 0.9, "weight_decay": 5e-4},
                "schedule": {
                    "name": "step",
                    "milestones": [epoch * self.epochs // EPOCHS for epoch in MILESTONES],
                },
            },
        }


@cache
def list_lineups() -> Mapping[str, Lineup]:
    """Every network alone, then every line-up, by the name of its recipe.

    Example:
        >>> print(list_lineups()["cifar100/wrn_40_1-1t5p"])
        wrn_40_1; teachers wrn_40_2; peers resnet8, resnet14, resnet20, MobileNetV2, ShuffleNetV2
        >>> print(list_lineups()["cifar100/EfficientNet-B0-e8"])
        EfficientNet-B0 alone, for 8 epochs
    """
    rooms = [
        (f"{DATA}/{student}-{key}", room)
        for student, rows in _table()["lineups"].items()
        for pattern, row in rows.items()
        for key, room in _expand(student, pattern, row)
    ]
    everybody = {who for _, room in rooms for who in (room.student, *room.mentors)}
    found = {f"{DATA}/{who}": _alone(who) for who in sorted(everybody, key=_age)}
    for name, room in rooms:
        if name in found:
            raise ValueError(f"the table of line-ups has {name} twice")
        found[name] = room
    return MappingProxyType(found)


def lineup_recipe(name: str) -> dict[str, Any] | None:
    """The recipe of a line-up as it would be written; None if the table has no such name.

    Example:
        >>> lineup_recipe("cifar100/vgg13")["student"], lineup_recipe("vgg13")
        ({'model': 'vgg13'}, None)
        >>> lineup_recipe("cifar100/vgg13-published")["data"]
        {'name': 'cifar100', 'dev': 0}
    """
    found = list_lineups().get(name.removesuffix(PUBLISHED))
    if found is None:
        return None
    return found.recipe(name.replace("/", "-"), published=name.endswith(PUBLISHED))


def published_name(name: str) -> str:
    """The name of the same line-up by the protocol of published numbers.

    Raises:
        ValueError: for anything that is no line-up.

    Example:
        >>> published_name("cifar100/vgg13")
        'cifar100/vgg13-published'
    """
    if lineup_recipe(name) is None:
        raise ValueError(
            f"{name} is no line-up: --published is for recipes that `classroomkd list lineups`"
            " shows; elsewhere, set data.dev=0 train.precision=fp32 and the schedule"
        )
    return name.removesuffix(PUBLISHED) + PUBLISHED


def how_to_make(folder: Path) -> str | None:
    """The command that makes a run of the table; None for another folder.

    >>> how_to_make(Path("runs/cifar100-vgg13"))
    'classroomkd train cifar100/vgg13'
    >>> how_to_make(Path("runs/cifar100-vgg13-published"))
    'classroomkd train cifar100/vgg13 --published'
    """
    name = folder.name.replace("-", "/", 1)
    if lineup_recipe(name) is None:
        return None
    protocol = " --published" if name.endswith(PUBLISHED) else ""
    elsewhere = "" if folder == Path("runs") / folder.name else f" --out {folder}"
    return f"classroomkd train {name.removesuffix(PUBLISHED)}{protocol}{elsewhere}"


def _folder(who: str) -> Path:
    return Path("runs") / f"{DATA}-{who}"


def _alone(who: str) -> Lineup:
    if early := _EARLY.fullmatch(who):
        return Lineup(early[1], stop=int(early[2]))
    return Lineup(who)


def _age(who: str) -> tuple[str, int]:
    early = _EARLY.fullmatch(who)
    return (early[1], int(early[2])) if early else (who, EPOCHS)


def _expand(student: str, pattern: str, row: Mapping[str, Any]) -> Iterator[tuple[str, Lineup]]:
    """The line-ups of a row of the table, each with its key.

    >>> row = {"teachers": ["a"], "peers": ["b", "c"], "temperature": [12, 4]}
    >>> [key for key, _ in _expand("s", "[01]t[12]p-x", row)][1:5]
    ['0t1p-x-T4', '0t2p-x', '0t2p-x-T4', '1t1p-x']
    """
    for key, temperature in product(_spell(pattern), row.get("temperature", [TEMPERATURE])):
        counts = re.match(r"(\d)t(\d)p", key)
        if counts is None:
            raise ValueError(f"{student}: the table's '{key}' does not begin as 1t5p does")
        teachers = _first(int(counts[1]), row.get("teachers", []))
        peers = _first(int(counts[2]), row.get("peers", []))
        if not teachers + peers:
            continue  # the student alone
        method = {"temperature": temperature, **row.get("method", {})}
        epochs = row.get("epochs", EPOCHS)
        suffix = "" if temperature == TEMPERATURE else f"-T{temperature}"
        yield f"{key}{suffix}", Lineup(student, teachers, peers, epochs, method=method)


def _first(count: int, names: Sequence[str]) -> tuple[str, ...]:
    if count > len(names):
        raise ValueError(f"the table of line-ups wants {count} of {names}")
    return tuple(names[:count])


def _spell(pattern: str) -> list[str]:
    """Every text that a pattern stands for.

    >>> _spell("[0-2]t[05]p")
    ['0t0p', '0t5p', '1t0p', '1t5p', '2t0p', '2t5p']
    """
    pieces = re.split(r"\[([\d-]+)\]", pattern)  # every second one is a choice
    choices = [_digits(piece) if place % 2 else [piece] for place, piece in enumerate(pieces)]
    return ["".join(chosen) for chosen in product(*choices)]


def _digits(choice: str) -> list[str]:
    first, dash, last = choice.partition("-")
    return [str(n) for n in range(int(first), int(last) + 1)] if dash else list(choice)


@cache
def _table() -> Mapping[str, Any]:
    folder = Path(str(files("classroomkd") / "recipes" / "lineups"))
    return yaml.safe_load((folder / f"{DATA}.yaml").read_text(encoding="utf-8"))
