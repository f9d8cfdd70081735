"""Labels of any kind, as places in a list of classes.

``N`` labels.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from classroomkd.data.files import named
from classroomkd.errors import ClassroomError, nearest

Label = int | str
ClassNames = str | Path | Sequence[str]


def number_labels(
    labels: Sequence[Any], names: Sequence[str] | None, origin: str
) -> tuple[Tensor, tuple[str, ...]]:
    """Each label's class, and the classes.

    Args:
        labels: ``N`` whole numbers, or texts.
        names: of the classes, in the order of the numbers. Without them, every value that occurs
            is a class: texts in the order of the alphabet, numbers in theirs.
        origin: what the labels are of, for messages.

    Returns:
        The target, ``[N]`` int64, and the names of the classes.

    Raises:
        ClassroomError: if a label is missing, of another kind than the others, or no class.

    >>> number_labels(["cow", "ant", "cow"], None, "toy")
    (tensor([1, 0, 1]), ('ant', 'cow'))
    >>> number_labels([7, 3], None, "toy")
    (tensor([1, 0]), ('3', '7'))
    """
    if not len(labels):
        raise ClassroomError(f"{origin}: has no images")
    kinds = {type(label) for label in labels}
    numbers = f"from 0 to {len(names or ()) - 1}"
    if strange := kinds - {int, str, bool}:
        row = next(row for row, label in enumerate(labels) if type(label) in strange)
        what = "neither a whole number nor a text" if names is None else f"not {numbers}"
        raise ClassroomError(
            f"{origin}: row {row}: label {labels[row]!r} is {what}: mend or remove the row, or name"
            " another label with data.label"
        )
    if len(kinds) > 1:
        raise ClassroomError(
            f"{origin}: some labels are numbers and some are texts: make them all alike"
        )
    known: list[Any] = sorted(set(labels))
    if names is not None:
        known = list(names) if kinds == {str} else list(range(len(names)))
    names = tuple(map(str, known if names is None else names))
    places = {label: place for place, label in enumerate(known)}
    wrong = [row for row, label in enumerate(labels) if label not in places]
    if wrong:
        label, which = labels[wrong[0]], f"not {numbers}"
        rows = "row" if len(wrong) == 1 else f"{len(wrong)} rows, the first"
        if kinds == {str}:
            which = f"none of the {len(names)} classes{nearest(label, names)}"
        raise ClassroomError(
            f"{origin}: {rows} {wrong[0]}: label {label!r} is {which}: mend the labels, or name all"
            " classes with data.classes"
        )
    return torch.tensor([places[label] for label in labels]), names


def without_images(target: Tensor, classes: Sequence[str], origin: str) -> tuple[str, ...]:
    """A note that names the classes without an image, if there are any."""
    counts = target.bincount(minlength=len(classes))
    empty = [str(classes[place]) for place in (counts == 0).nonzero().flatten().tolist()]
    if not empty:
        return ()
    return (f"{origin}: {len(empty)} of {len(classes)} classes have no images: {named(empty)}",)


def class_list(classes: ClassNames | None) -> tuple[str, ...] | None:
    """The names of classes that a user gives; a ClassroomError if one is there twice.

    ``classes`` are the names in the order of the labels; ``imagenet`` for ImageNet-1k's in the
    usual order; a text file with a name in each line; or None for None.
    """
    if classes is None:
        return None
    if isinstance(classes, str | Path):
        if str(classes) == "imagenet":
            from classroomkd.data.synsets import imagenet_names

            return imagenet_names()
        names = _read_names(Path(classes).expanduser())
    else:
        names = list(classes)
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise ClassroomError(f"classes: {named(twice)} twice: each needs its own name")
    return tuple(names)


def _read_names(file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ClassroomError(f"classes: {file}: cannot be read as text ({error})") from error
    names = [line.strip() for line in lines]
    return [name for name in names if name]
