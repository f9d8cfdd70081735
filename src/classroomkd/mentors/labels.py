"""Whose class is whose: a mentor's classes and the data's, matched before the first step.

Shapes: ``C`` classes of the data.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence, Set

import torch
from torch import Tensor

from classroomkd.errors import ClassroomError, nearest
from classroomkd.mentors.labels_imagenet import (
    classes_before_imagenet,
    imagenet_classes,
    plain,
    synonyms,
    wordnet_id,
    wordnet_ids,
    wordnet_words,
)

__all__ = ["Labels", "class_count_map", "class_map", "imagenet_classes"]

Labels = Sequence[int] | Mapping[str, str | int]


def class_map(
    mentor: tuple[str, ...],
    data: tuple[str, ...],
    who: str = "mentor",
    labels: Labels | None = None,
) -> Tensor | None:
    """Where each class of the data stands among a mentor's classes.

    Names match whatever their case, with underscores and hyphens for spaces, and if they share one
    of their synonyms, between which there are commas. WordNet ids, as in ImageNet's folders, match
    where timm is installed, which knows them. If both have all of ImageNet's classes in the usual
    order, their places match, however they are spelt. A name that fits several classes ("crane", a
    bird and a machine) is an error, unless words or an id beside it, or the data's other classes,
    leave one.

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
            has, if a name means several of its classes, or if two names mean the same one and
            ``labels`` do not say so.

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
        _check_apart(mentor, dict(zip(data, places, strict=True)), who)
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
    said = {name: _exact(mentor, label) for name, label in labels.items()}
    asked = [said.get(name, name) for name in data]
    names = tuple(label for label in asked if isinstance(label, str))
    found = iter(_found(mentor, names, who, frozenset(map(str, said.values()))))
    places = [next(found) if isinstance(label, str) else label for label in asked]
    unsaid = {name: place for name, place in zip(data, places, strict=True) if name not in labels}
    _check_apart(mentor, unsaid, who)
    return _given_in_order(len(mentor), data, who, places)


def _exact(mentor: tuple[str, ...], label: str | int) -> str | int:
    """The place of a label that is spelt as just one class of the mentor; else the label."""
    if isinstance(label, str) and mentor.count(label) == 1:
        return mentor.index(label)
    return label


def _found(
    mentor: tuple[str, ...], data: tuple[str, ...], who: str, labels: Set[str] = frozenset()
) -> list[int]:
    """The place of each name among a mentor's; those in ``labels`` may share theirs with others."""
    before = classes_before_imagenet(mentor)
    if before is not None and classes_before_imagenet(data) == 0:
        return list(range(before, before + len(data)))
    fitting = _Fitting(mentor)
    fits = [fitting(name) for name in data]
    if missing := [name for name, places in zip(data, fits, strict=True) if not places]:
        hints = (f"{name}{nearest(name, mentor)}" for name in missing[:5])
        raise ClassroomError(
            f"{who} was not trained on {len(missing)} of the data's {len(data)} classes: "
            f"{', '.join(hints)}{', ...' if len(missing) > 5 else ''}. "
            "A mentor must know every class of the data; labels say what goes by another name"
        )
    left = _left_by_others(mentor, data, fits, labels)
    for name, places in zip(data, left, strict=True):
        if len(places) > 1:
            which = ", ".join(f"{place} ({mentor[place]})" for place in sorted(places)[:5])
            raise ClassroomError(
                f"{who}: '{name}' may be any of its classes {which}: say which in labels"
            )
    return [next(iter(places)) for places in left]


def _left_by_others(
    mentor: tuple[str, ...],
    data: tuple[str, ...],
    fits: Sequence[set[int]],
    labels: Set[str],
) -> list[set[int]]:
    """Of the places that fit each name, those that no other name of the data speaks for.

    A name speaks for the only place that fits it, or for the one of several that is spelt like it.
    """
    spoken: dict[int, str] = {}
    for name, places in zip(data, fits, strict=True):
        alike = places if len(places) == 1 else {p for p in places if mentor[p] == name}
        if len(alike) == 1 and name not in labels:
            spoken[next(iter(alike))] = name
    return [
        {p for p in places if spoken.get(p, name) == name} or places
        for name, places in zip(data, fits, strict=True)
    ]


def _check_apart(mentor: tuple[str, ...], places: Mapping[str, int], who: str) -> None:
    """Raise a ClassroomError if names of the data mean one class of a mentor."""
    first: dict[int, str] = {}
    for name, place in places.items():
        if (other := first.setdefault(place, name)) != name:
            raise ClassroomError(
                f"{who} cannot tell the data's '{other}' and '{name}' apart: both are its class"
                f" {place} ({mentor[place]}). If that is meant, say so in labels"
            )


class _Fitting:
    """Which classes of a mentor a name may mean: one by its WordNet id, else all that share words.

    The more words they share, the better they fit: only the best are given.
    """

    def __init__(self, mentor: tuple[str, ...]) -> None:
        self._ids = wordnet_ids(mentor)
        self._places = defaultdict(set)
        for place, (name, identity) in enumerate(zip(mentor, self._ids, strict=True)):
            for key in {identity, *_keys(name), *_keys(wordnet_words(identity))} - {""}:
                self._places[key].add(place)

    def __call__(self, name: str) -> set[int]:
        identity = wordnet_id(name)
        if identity in self._places:
            return self._places[identity]
        words = wordnet_words(identity) if plain(name) == identity else name
        shared = Counter(
            place
            for key in _keys(words)
            for place in self._places.get(key, ())
            if not identity or self._ids[place] in ("", identity)
        )
        most = max(shared.values(), default=0)
        return {place for place, count in shared.items() if count == most}


def _keys(name: str) -> set[str]:
    """What a name is found by: its words, and all of them together."""
    words = synonyms(name) or [name]
    return {*words, ", ".join(words)}
