"""A pose recipe's persons: which sets, which views."""

import os

import torch

from classroomkd.config.pose import PoseRecipe
from classroomkd.data.pose import (
    PersonSet,
    PoseLoader,
    PoseViews,
    development_persons,
    load_persons,
)
from classroomkd.engine.devices import SINGLE_PROCESS, DistContext

EVALUATION_BATCH = 128


def read_persons(recipe: PoseRecipe, split: str) -> PersonSet:
    """A split of the recipe's data."""
    data = recipe.data
    options = {name: getattr(data, name) for name in ("category", "joints", "heads")}
    if split == "test":
        options["boxes"] = data.boxes
    given = {key: value for key, value in options.items() if value is not None}
    return load_persons(data.name, split, data.path, bad=data.bad, **given)


def training_persons(recipe: PoseRecipe) -> tuple[PersonSet, PersonSet | None]:
    """The training set less its development split, and the latter (None if its size is 0)."""
    whole = read_persons(recipe, "train")
    if not recipe.data.dev:
        return whole, None
    return development_persons(whole, recipe.data.dev, recipe.data.dev_seed)


def training_loader(
    recipe: PoseRecipe, persons: PersonSet, device: torch.device, team: DistContext = SINGLE_PROCESS
) -> PoseLoader:
    """The training persons in the recipe's views, each epoch in its own order.

    Args:
        recipe: which views, and their seed.
        persons: who is shown.
        device: where batches are made.
        team: of which this process sees its part of each batch.

    Raises:
        ClassroomError: if the set is smaller than a batch, and cannot be divided.
    """
    team.check_shares(len(persons), recipe.train.batch_size, called="persons")
    return PoseLoader(
        persons,
        recipe.train.batch_size,
        size=recipe.student.input,
        seed=recipe.seed,
        view_seed=recipe.data.view_seed,
        augment=PoseViews(**recipe.data.views),
        padding=recipe.data.padding,
        shuffle=True,
        drop_last=len(persons) >= recipe.train.batch_size,
        device=device,
        workers=_workers(recipe, team),
        part=(team.rank, team.size),
    )


def plain_loader(
    recipe: PoseRecipe, persons: PersonSet, device: torch.device, team: DistContext = SINGLE_PROCESS
) -> PoseLoader:
    """Plain crops of all persons, in their own order.

    Args:
        recipe: how large crops are.
        persons: who is shown.
        device: where batches are made.
        team: with whom this process shares its machine.
    """
    return PoseLoader(
        persons,
        EVALUATION_BATCH,
        size=recipe.student.input,
        padding=recipe.data.padding,
        device=device,
        workers=_workers(recipe, team),
    )


def _workers(recipe: PoseRecipe, team: DistContext) -> int:
    """As the recipe says, or this process's share of the machine."""
    own = recipe.data.workers
    share = max(1, (os.cpu_count() or 1) // team.local_size)
    return min(8, share) if own is None else own
