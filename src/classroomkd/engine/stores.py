"""The bank that a recipe names: where each mentor's outputs are, and how large it becomes."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import unquote

from classroomkd.config import Recipe
from classroomkd.data import ImageSet
from classroomkd.mentors import Mentor, StoredMentor
from classroomkd.mentors.bank import Bank, MentorStore, bytes_per_sample, mentor_key, view_key
from classroomkd.methods import create_method

Say = Callable[[str], object]


def open_stores(
    recipe: Recipe, train_set: ImageSet, mentors: Sequence[Mentor], say: Say = print
) -> list[MentorStore | None]:
    """The store of each mentor in the recipe's bank; None for those that have none.

    Raises:
        ClassroomError: if the bank holds other views or other mentors, naming what differs.
    """
    stores: list[MentorStore | None] = []
    for mentor in mentors:
        if isinstance(mentor, StoredMentor):
            bank = _open(recipe, train_set, mentor.store.parent, say)
            stores.append(bank.mentor(unquote(mentor.store.name), None))
        elif recipe.bank is None or mentor.learns:
            stores.append(None)
        else:
            bank = _open(recipe, train_set, recipe.bank.path, say)
            key = mentor_key(
                mentor.network, class_map=mentor.class_map, precision=recipe.train.precision
            )
            stores.append(bank.mentor(mentor.name, key))
    return stores


def _open(recipe: Recipe, train_set: ImageSet, path: Path, say: Say) -> Bank:
    data = recipe.data
    key = view_key(
        data_fingerprint=train_set.fingerprint,
        data_name=data.name,
        classes=train_set.classes,
        views=[view.model_dump(mode="json") for view in data.augment],
        seed=recipe.seed if data.view_seed is None else data.view_seed,
        repeat=data.repeat,
        mix=asdict(mixing) if (mixing := data.mixing) else None,
        top=recipe.bank.top if recipe.bank else None,
    )
    limit = int(recipe.bank.limit_gb * 1e9) if recipe.bank else None
    return Bank(path, key, limit_bytes=limit, say=say)


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


def plan_bank(recipe: Recipe, samples: int, classes: int, mentors: int) -> Plan:
    """How much a recipe's bank will hold, once it is full."""
    method = create_method(recipe.method.name, **recipe.method.options)
    epochs = recipe.train.epochs + method.extra_epochs
    views = min(epochs, recipe.data.repeat or epochs)
    each = bytes_per_sample(classes, recipe.bank.top if recipe.bank else None)
    return Plan(views, mentors, views * mentors * samples * each)
