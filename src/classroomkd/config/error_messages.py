"""What is wrong with a recipe, in words: the path, the cause, the nearest valid name."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, get_args

from classroomkd.config.fields import Section
from classroomkd.errors import nearest, unknown_name


def describe(item: Any, section: type[Section]) -> str:
    """One mistake in a recipe, or a section: ``mentors[2].checkpoint: no such file ...``."""
    loc = item["loc"]
    names = [part for at, part in pairwise(("", *loc)) if part not in _BRANCHES.get(at, ())]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in names)
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "extra_forbidden":
        known = _fields_at(item["loc"][:-1], section)
        message = f"unknown key{nearest(str(item['loc'][-1]), known)} (known: {', '.join(known)})"
    elif item["type"] == "missing":
        message = "is missing"
    elif item["type"] == "union_tag_invalid":
        context = item["ctx"]
        expected = [tag.strip(" '") for tag in context["expected_tags"].split(",")]
        return f"{path[1:]}.name: {unknown_name('name', context['tag'], expected)}"
    elif item["type"] in _SHAPES:
        shape = _USUAL.get(str(names[-1]) if names else "", _SHAPES[item["type"]])
        message = f"must be {shape}, got {item['input']!r}"
    elif item["type"] != "value_error":
        message = f"{message}, got {item['input']!r}"
    return f"{path.removeprefix('.')}: {message}" if path else message


_SHAPES = {
    "model_type": "a mapping such as {name: value}",
    "model_attributes_type": "a mapping such as {name: value}",
    "dict_type": "a mapping such as {name: value}",
    "tuple_type": "a list",
}
_USUAL = {  # what is usually given in place of a mapping: its first key
    "data": "a mapping such as {name: cifar100}",
    "student": "a mapping such as {model: resnet20}",
    "method": "a mapping such as {name: classroom}",
    "noise": "a mapping such as {rate: 0.4}",
    "optimizer": "a mapping such as {name: sgd, lr: 0.1}",
    "schedule": "a mapping such as {name: cosine}",
    "train": "a mapping such as {epochs: 20}",
    "bank": "a mapping such as {path: runs/bank}",
    "mentors": "a list such as [{run: runs/teacher, role: teacher}]",
}
_BRANCHES: dict[Any, tuple[str, ...]] = {
    "optimizer": ("sgd", "adamw"), "schedule": ("step", "cosine", "onecycle"),
}  # fmt: skip


def _fields_at(loc: tuple[str | int, ...], section: type[Section]) -> list[str]:
    """The fields of the section at a location of a pydantic error."""
    for part in loc:
        section = _sections_in(section).get(str(part), section)
    return list(section.model_fields)


def _sections_in(section: type[Section]) -> dict[str, type[Section]]:
    """The sections within a section, by their field; those of a union also by their name."""
    found: dict[str, type[Section]] = {}
    for key, field in section.model_fields.items():
        kinds = list(_kinds(field.annotation))
        if len(kinds) == 1:
            found[key] = kinds[0]
        for kind in kinds[1:] and kinds:
            found |= dict.fromkeys(get_args(kind.model_fields["name"].annotation), kind)
    return found


def _kinds(annotation: Any) -> Iterator[type[Section]]:
    """The sections that an annotation names, however deep."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for part in get_args(annotation):
        yield from _kinds(part)
