"""A recipe's images: which device, which sets, which views."""

import sys

import torch

from classroomkd.config import Recipe
from classroomkd.config.schema import Data, View
from classroomkd.data import (
    ImageSet,
    PhotoSet,
    ViewFunction,
    ViewLoader,
    create_view,
    development_split,
    load_image_set,
    training_selection,
)
from classroomkd.engine.devices import SINGLE_PROCESS, DistContext
from classroomkd.errors import ClassroomError

EVALUATION_BATCH = 512


def training_views(
    recipe: Recipe,
    train_set: ImageSet,
    device: torch.device,
    *,
    views: int = 1,
    batch_size: int | None = None,
    team: DistContext = SINGLE_PROCESS,
) -> ViewLoader:
    """The training set in the recipe's views: in batches of a step, each epoch in its own order.

    Args:
        recipe: which views, and their seed.
        train_set: what is shown.
        device: where batches are made.
        views: how many of a sample are in a batch, 1 or 2.
        batch_size: for all samples in their own order, as the bank wants them, in such batches.
        team: of which this process sees its part of each batch.

    Raises:
        ClassroomError: if the set is smaller than a batch, and cannot be divided.
    """
    team.check_shares(len(train_set), recipe.train.batch_size)

    def functions(views: tuple[View, ...]) -> list[ViewFunction]:
        return [create_view(view.name, **view.options) for view in views]

    return ViewLoader(
        train_set,
        batch_size or recipe.train.batch_size,
        seed=recipe.seed,
        view_seed=recipe.data.view_seed,
        repeat=recipe.data.repeat,
        augment=functions(recipe.data.augment),
        second=functions(recipe.data.second) if views == 2 else None,
        mixing=recipe.data.mixing,
        smoothing=recipe.data.smoothing,
        copies=recipe.data.copies,
        shuffle=batch_size is None,
        drop_last=batch_size is None and len(train_set) >= recipe.train.batch_size,
        device=device,
        channels_last=recipe.train.channels_last,
        part=(team.rank, team.size),
    )


def training_sets(data: Data) -> tuple[ImageSet, ImageSet | None]:
    """What is learnt from, and the development split (None if its size is 0).

    The split is taken first: what is chosen for training, and wrong labels, are no matter to it.
    """
    train_set, dev_set = _split_sets(data)
    return training_selection(train_set, **data.selection), dev_set


def _split_sets(data: Data) -> tuple[ImageSet, ImageSet | None]:
    """The training set in two; photographs may come with a development split of their own."""
    whole = load_image_set(data.name, "train", path=data.path, hub=data.hub, **data.reading)
    if not data.dev:
        return whole, None
    own = whole.development if isinstance(whole, PhotoSet) else None
    if own is not None:
        return whole, own
    train_rows, dev_rows = development_split(whole.target, data.dev, data.dev_seed)
    return whole.subset(train_rows), whole.subset(dev_rows)


def test_loader(data: Data, device: torch.device) -> ViewLoader:
    """The test set's plain images."""
    test = load_image_set(data.name, "test", path=data.path, hub=data.hub, **data.reading)
    for note in test.notes:
        print(note, file=sys.stderr)
    return ViewLoader(test, EVALUATION_BATCH, device=device)


def choose_device(name: str, team: DistContext = SINGLE_PROCESS) -> torch.device:
    """The device that a recipe names; ``auto`` is a GPU where there is one.

    In a team, each process has the GPU of its place on its machine.

    Raises:
        ClassroomError: if the device is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and team.size > 1:
        device = torch.device("cuda", team.local_rank)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ClassroomError(f"train.device={name}: torch finds no CUDA device; use cpu or auto")
    return device
