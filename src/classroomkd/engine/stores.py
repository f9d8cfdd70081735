"""The bank that a recipe names: where each mentor's outputs are, and how large it becomes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from classroomkd.config.schema import RunRecipe
from classroomkd.mentors import Mentor, StoredMentor
from classroomkd.mentors.bank import Bank, MentorStore, bytes_per_sample, mentor_key
from classroomkd.methods import create_method
from classroomkd.tasks.base import Task

Say = Callable[[str], object]


def open_stores(
    task: Task, train_set: Any, mentors: Sequence[Mentor], say: Say = print
) -> list[MentorStore | None]:
    """The store of each mentor in the recipe's bank; None for those that have none.

    Raises:
        ClassroomError: if the bank holds other views or other mentors, naming what differs.
    """
    recipe = task.recipe
    stores: list[MentorStore | None] = []
    for mentor in mentors:
        if isinstance(mentor, StoredMentor):
            bank = _open(task, train_set, mentor.store.parent, say)
            stores.append(bank.mentor(unquote(mentor.store.name), None))
        elif recipe.bank is None or mentor.learns:
            stores.append(None)
        else:
            bank = _open(task, train_set, recipe.bank.path, say)
            key = mentor_key(
                mentor.network, adapter=mentor.adapter, precision=recipe.train.precision
            )
            stores.append(bank.mentor(mentor.name, key))
    return stores


def _open(task: Task, train_set: Any, path: Path, say: Say) -> Bank:
    bank = task.recipe.bank
    limit = int(bank.limit_gb * 1e9) if bank else None
    return Bank(path, task.view_key(train_set), limit_bytes=limit, say=say)


@dataclass(frozen=True)
class Plan:
    """What a bank will take.

    Attributes:
        views: how many.
        mentors: how many.
        bytes: of all outputs on disk.
    """

    views: int
    mentors: int
    bytes: int


def plan_bank(
    recipe: RunRecipe, samples: int, blocks: Sequence[Sequence[int]], mentors: int
) -> Plan:
    """How much a recipe's bank will hold, once it is full.

    Args:
        recipe: with the views and epochs.
        samples: of the training set.
        blocks: the shape of each block of a sample's logits, ``[C]`` or ``[U, K]``.
        mentors: how many.
    """
    method = create_method(recipe.method.name, **recipe.method.options)
    epochs = recipe.train.epochs + method.extra_epochs
    views = min(epochs, recipe.data.repeat or epochs)
    top = recipe.bank.top if recipe.bank else None
    each = sum(prod(units) * bytes_per_sample(classes, top) for *units, classes in blocks)
    return Plan(views, mentors, views * mentors * samples * each)
