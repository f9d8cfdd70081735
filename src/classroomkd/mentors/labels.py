"""Whose class is whose: a mentor's classes and the data's, matched before the first step.

Shapes: ``C`` classes of the data.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cache

import torch
from torch import Tensor

from classroomkd.errors import ClassroomError, nearest

Labels = Sequence[int] | Mapping[str, str | int]

_WORDNET_ID = re.compile(r"n\d{8}")


def class_map(
    mentor: tuple[str, ...],
    data: tuple[str, ...],
    who: str = "mentor",
    labels: Labels | None = None,
) -> Tensor | None:
    """Where each class of the data stands among a mentor's classes.

    Names match whatever their case, with underscores and hyphens for spaces, and if they share one
    of their synonyms, between which there are commas. WordNet ids, as in ImageNet's folders, match
    where timm is installed, which knows them.

    Args:
        mentor: the mentor's class names, in the order of its logits.
        data: the data's class names.
        who: the mentor's name, for messages.
        labels: the places of all classes of the data among the mentor's; or, for some classes of
            the data by name, the mentor's name or place; the others are matched by name.

    Returns:
        ``[C]`` int64, or None where the orders are the same.

    Raises:
        ClassroomError: if the mentor lacks a class of the data, naming some and the nearest that it
            has, or if a name means several of its classes.

    Example:
        >>> class_map(("dog", "cat", "cow"), ("cat", "dog"))
        tensor([1, 0])
        >>> class_map(("goldfish, Carassius auratus", "tench, Tinca tinca"), ("Tinca_tinca",))
        tensor([1])
        >>> class_map(("dog", "cat", "cow"), ("dog", "kitten"), labels={"kitten": "cat"})
        tensor([0, 1])
    """
    if isinstance(labels, Mapping):
        places = _given_by_name(mentor, data, who, labels)
    elif labels is not None:
        places = _given_in_order(len(mentor), data, who, labels)
    elif mentor == data:
        return None
    else:
        places = _found(mentor, data, who)
    return None if places == list(range(len(mentor))) else torch.tensor(places)


def class_count_map(
    count: int, data: tuple[str, ...], who: str = "mentor", labels: Labels | None = None
) -> Tensor | None:
    """As `class_map`, for a mentor of whose classes nothing is known but how many there are.

    They are taken to be the data's if there are as many.

    Raises:
        ClassroomError: if there are not, or if ``labels`` do not fit.

    Example:
        >>> class_count_map(1000, ("cat", "dog"), labels=[281, 207])
        tensor([281, 207])
    """
    if isinstance(labels, Mapping):
        if count == len(data):
            return class_map(data, data, who, labels)
        named = [label for label in labels.values() if isinstance(label, str)]
        if named or set(labels) != set(data):
            raise ClassroomError(_unknown_classes(count, data, who))
        labels = [int(labels[name]) for name in data]
    if labels is not None:
        places = _given_in_order(count, data, who, labels)
        return None if places == list(range(count)) else torch.tensor(places)
    if count != len(data):
        raise ClassroomError(_unknown_classes(count, data, who))
    return None


def imagenet_classes() -> tuple[str, ...]:
    """The 1000 classes of ImageNet-1k in the usual order, synonyms with commas between.

    >>> len(imagenet_classes()), "goldfish" in imagenet_classes()[1]
    (1000, True)
    """
    from torchvision.models import ResNet18_Weights

    return _wordnet() or tuple(ResNet18_Weights.DEFAULT.meta["categories"])


def _unknown_classes(count: int, data: tuple[str, ...], who: str) -> str:
    return (
        f"{who} tells {count} classes apart, the data has {len(data)}, and which is which is not"
        " known: give classes (its names in order, or imagenet), or labels (a place among its"
        " classes for each of the data)"
    )


def _given_in_order(
    count: int, data: tuple[str, ...], who: str, labels: Sequence[int]
) -> list[int]:
    if len(labels) != len(data):
        raise ClassroomError(f"{who}: {len(labels)} labels for the data's {len(data)} classes")
    if beyond := [place for place in labels if not 0 <= place < count]:
        raise ClassroomError(
            f"{who}: label {beyond[0]} is beyond its {count} classes: they count from 0"
        )
    return list(labels)


def _given_by_name(
    mentor: tuple[str, ...], data: tuple[str, ...], who: str, labels: Mapping[str, str | int]
) -> list[int]:
    if unknown := [name for name in labels if name not in data]:
        raise ClassroomError(
            f"{who}: labels name '{unknown[0]}', which is no class of the data"
            f"{nearest(unknown[0], data)}"
        )
    asked = [labels.get(name, name) for name in data]
    found = iter(_found(mentor, tuple(label for label in asked if isinstance(label, str)), who))
    places = [next(found) if isinstance(label, str) else label for label in asked]
    return _given_in_order(len(mentor), data, who, places)


def _found(mentor: tuple[str, ...], data: tuple[str, ...], who: str) -> list[int]:
    """The place of each name among a mentor's."""
    matches = _Matches(mentor)
    found = [matches(name) for name in data]
    if missing := [name for name, places in zip(data, found, strict=True) if not places]:
        hints = (f"{name}{nearest(name, mentor)}" for name in missing[:5])
        raise ClassroomError(
            f"{who} was not trained on {len(missing)} of the data's {len(data)} classes: "
            f"{', '.join(hints)}{', ...' if len(missing) > 5 else ''}. "
            "A mentor must know every class of the data; labels say what goes by another name"
        )
    for name, places in zip(data, found, strict=True):
        if len(places) > 1:
            which = ", ".join(f"{place} ({mentor[place]})" for place in sorted(places)[:5])
            raise ClassroomError(
                f"{who}: '{name}' may be any of its classes {which}: say which in labels"
            )
    return [next(iter(places)) for places in found]


class _Matches:
    """Places of names among a mentor's; the first way of comparing that finds any counts."""

    def __init__(self, mentor: tuple[str, ...]) -> None:
        ids = _ids(mentor)
        self._tables = [
            _table((name,) for name in mentor),
            _table((_plain(name),) for name in mentor),
            _table((identity,) for identity in ids),
            _table(map(_synonyms, mentor)),
        ]

    def __call__(self, name: str) -> set[int]:
        asked = [{name}, {_plain(name)}, set(_WORDNET_ID.findall(name)), set(_synonyms(name))]
        if _WORDNET_ID.fullmatch(name) and name in _words():
            asked[3] |= set(_synonyms(_words()[name]))
        for table, keys in zip(self._tables, asked, strict=True):
            if places := {place for key in keys for place in table.get(key, ())}:
                return places
        return set()


def _table(names: Iterable[Iterable[str]]) -> dict[str, set[int]]:
    table = defaultdict(set)
    for place, keys in enumerate(names):
        for key in keys:
            table[key].add(place)
    return table


def _plain(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").replace("-", " ").split())


def _synonyms(name: str) -> list[str]:
    return [plain for part in name.split(",") if (plain := _plain(part))]


def _ids(mentor: tuple[str, ...]) -> list[str]:
    """WordNet ids of a mentor's classes, empty where unknown.

    A list of 1000 that agrees with ImageNet's nearly everywhere is ImageNet's, in the usual order.
    """
    own = [found[0] if (found := _WORDNET_ID.findall(name)) else "" for name in mentor]
    usual = _wordnet()
    if any(own) or len(usual) != len(mentor):
        return own
    pairs = zip(usual, mentor, strict=True)
    agreed = sum(not set(_synonyms(a)).isdisjoint(_synonyms(b)) for a, b in pairs)
    return list(_words()) if agreed >= 0.8 * len(mentor) else own


@cache
def _wordnet() -> tuple[str, ...]:
    """Id and words of ImageNet-1k's classes in the usual order, from timm; empty without it."""
    try:
        from timm.data.imagenet_info import ImageNetInfo
    except ImportError:
        return ()
    info = ImageNetInfo()
    names = zip(info.label_names(), info.label_descriptions(), strict=True)
    return tuple(f"{identity}, {words}" for identity, words in names)


@cache
def _words() -> dict[str, str]:
    """Words of each WordNet id of ImageNet-1k."""
    pairs = (name.partition(", ") for name in _wordnet())
    return {identity: words for identity, _, words in pairs}
