"""What recipes can name, as lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from classroomkd.methods import Method


def methods() -> Iterator[str]:
    """Every method: name, year, title, kind, what it needs; then its options and defaults.

    Below are published options that recipes of a data set, or of a pair of networks, take instead.
    """
    from classroomkd.methods import list_methods, method_class, method_options
    from classroomkd.methods.published import entries

    for name in list_methods():
        cls = method_class(name)
        needs = ", ".join(method_needs(cls))
        yield f"{name:12s} {cls.year or '':4} {cls.title} ({cls.kind}; {needs})"
        for option, field in method_options(name).model_fields.items():
            yield f"{'':17s} {option}: {field.default}"
        for entry in entries(name):
            options = ", ".join(f"{option}: {value}" for option, value in entry.options.items())
            yield f"{'':17s} ({entry.scope}) {options}"


def method_needs(method: type[Method]) -> Iterator[str]:
    """What a method needs: how many mentors, features, views, in words."""
    yield {0: "no mentor", 1: "one teacher", "many": "several mentors"}[method.num_mentors]
    if method.needs_features:
        yield "features"
    if method.needs_preactivations:
        yield "pre-activations"
    if method.needs_index:
        yield "a memory of every sample"
    if method.bilevel:
        yield "steps of the student ahead"
    if method.views > 1:
        yield f"{method.views} views"
    if method.kind == "online":
        yield "mentors that train along"
    elif method.mutual:
        yield "mentors may train along"
    if method.__module__.startswith("classroomkd.methods.contrib"):
        yield "contrib: see its docstring for what is unsure"


def models() -> Iterator[str]:
    """Every model, with its parameters in millions at 100 classes; how others are named."""
    import torch

    from classroomkd.models import build_model, list_models
    from classroomkd.models.external import HOW_TO_NAME
    from classroomkd.tasks.pose.models import HOW_TO_NAME_POSE

    for name in list_models():
        with torch.device("meta"):
            parameters = sum(p.numel() for p in build_model(name, 100).parameters())
        yield f"{name:14s} {parameters / 1e6:8.3f} M"
    how = {**HOW_TO_NAME, **HOW_TO_NAME_POSE}
    yield from (f"{name:21s} {meaning}" for name, meaning in how.items())


def datasets() -> Iterator[str]:
    """Every data set; those of persons are for ``task: pose``."""
    from classroomkd.data import list_datasets
    from classroomkd.tasks.pose.data import list_persons

    yield from list_datasets()
    yield from (f"{name}  (task: pose)" for name in list_persons())


def recipes() -> Iterator[str]:
    """Every recipe of the package, with the comment at its head."""
    from classroomkd.config import list_recipes

    yield from _with_comments(list_recipes())
    yield f"{'cifar100/NAME':22s} see `classroomkd list lineups`"


def lineups() -> Iterator[str]:
    """Every recipe that is made from the table of line-ups, with who takes part."""
    from classroomkd.recipes.lineups import PUBLISHED, list_lineups

    yield (
        f"NAME{PUBLISHED}, or NAME --published: the same by the protocol of published numbers, on"
        " all 50,000 images and in float32"
    )
    yield from (f"{name:34s} {room}" for name, room in list_lineups().items())


def suites() -> Iterator[str]:
    """Every suite of the package, with the comment at its head."""
    from classroomkd.config.suite import list_suites

    return _with_comments(list_suites())


def _with_comments(paths: Mapping[str, Path]) -> Iterator[str]:
    for name, path in paths.items():
        first = path.read_text(encoding="utf-8").splitlines()[0]
        yield f"{name:22s} {first.removeprefix('#').strip()}"
