"""Building and verifying the bank of a recipe.

Shapes: ``N`` samples of the training set, ``B`` of a batch, ``C`` classes.
"""

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from classroomkd.config import Recipe
from classroomkd.data import ViewLoader
from classroomkd.engine.build import open_mentors
from classroomkd.engine.precision import autocast
from classroomkd.engine.stores import Plan, Say, open_stores, plan_bank
from classroomkd.engine.views import choose_device, training_sets, training_views
from classroomkd.errors import ClassroomError
from classroomkd.mentors import Mentor, StoredMentor
from classroomkd.mentors.bank import (
    MentorStore,
    Shard,
    decode,
    encode,
    folder_size,
    rows,
    size_text,
)

BATCH = 256
TOLERANCE = 0.05  # of probability, moved from one class to others: bfloat16 moves some hundredths

Pair = tuple[Mentor, MentorStore]


def build_bank(recipe: Recipe, *, say: Say = print, progress: bool = False) -> None:
    """Compute and store what every mentor says about every view of the recipe.

    What is stored already stays; a build that was interrupted goes on where it stopped. Several
    processes may build the same bank at once: each takes views that no other is at. Mentors that
    train along, or cannot run here, are left out.

    Args:
        recipe: with a bank.
        say: told the size before it starts, and what was done.
        progress: whether to show a bar.

    Raises:
        ClassroomError: if the bank would pass its limit or the disk's room, before anything is
            computed; or if it holds other views or mentors.
    """
    live, loader = _open(recipe, say)
    count, classes = len(loader.image_set), len(loader.image_set.classes)
    plan = plan_bank(recipe, count, classes, len(live))
    assert recipe.bank is not None  # see _open
    _check_room(recipe.bank.path, plan, recipe.bank.limit_gb * 1e9, say)
    pending = list(range(plan.views))
    with tqdm(total=len(pending), unit="view", disable=not progress) as bar:
        while pending:
            left = [view for view in pending if not _build_view(recipe, view, live, loader)]
            bar.update(len(pending) - len(left))
            if left:  # another process is at them
                time.sleep(0.5)
            pending = left
    say(
        f"{recipe.bank.path} holds {plan.views} views of {count} samples from {plan.mentors}"
        f" mentors: {size_text(folder_size(recipe.bank.path))}"
    )


def verify_bank(recipe: Recipe, *, say: Say = print) -> list[str]:
    """Recompute a sample of what is stored, and compare; returns what is wrong.

    Of each mentor the first, the middle and the last stored view are looked at, a batch each. What
    is compared are predicted probabilities: the share that lies with other classes than before
    (total variation, a mean over samples).

    Raises:
        ClassroomError: if the recipe has no bank, or it holds other views or mentors.
    """
    live, loader = _open(recipe, say)
    wrong = []
    for mentor, store in live:
        views = store.views()
        for view in sorted({views[i] for i in (0, len(views) // 2, -1)} if views else ()):
            moved = _moved(recipe, mentor, store, view, loader)
            verdict = "as computed here" if moved <= TOLERANCE else "DIFFERENT"
            say(f"{mentor.name}, view {view}: {verdict} ({100 * moved:.2f} % of probability moved)")
            if moved > TOLERANCE:
                wrong.append(f"{mentor.name}, view {view}")
    return wrong


def _open(recipe: Recipe, say: Say) -> tuple[list[Pair], ViewLoader]:
    """The mentors that can run here with their stores, and all samples in their own order."""
    device = choose_device(recipe.train.device)
    train_set, _ = training_sets(recipe.data)
    mentors = open_mentors(recipe, train_set, device)
    stores = open_stores(recipe, train_set, mentors, say)
    pairs = zip(mentors, stores, strict=True)
    live = [(m, store) for m, store in pairs if store and not isinstance(m, StoredMentor)]
    if recipe.bank is None or not live:
        raise ClassroomError(
            f"{recipe.name} has no bank to look after: it needs bank: {{path: ...}}, and mentors"
            " that can run here"
        )
    return live, training_views(recipe, train_set, device, batch_size=BATCH)


def _check_room(path: Path, plan: Plan, limit: float, say: Say) -> None:
    there = folder_size(path)
    free = shutil.disk_usage(next(p for p in (path, *path.absolute().parents) if p.exists())).free
    say(
        f"{plan.views} views x {plan.mentors} mentors: {size_text(plan.bytes)} when full,"
        f" {size_text(there)} are there, {size_text(free)} free on this disk"
    )
    cure = (
        "store fewer classes (bank.top=10), let fewer views repeat (data.repeat=20), or choose"
        " another disk (bank.path)"
    )
    if plan.bytes > limit:
        raise ClassroomError(
            f"{path} would take {size_text(plan.bytes)}, more than its limit of"
            f" {size_text(limit)}: raise bank.limit_gb, or {cure}"
        )
    if plan.bytes - there > free:
        raise ClassroomError(f"{path} would not fit on its disk: make room, or {cure}")


def _build_view(recipe: Recipe, view: int, live: Sequence[Pair], loader: ViewLoader) -> bool:
    """Build a view for those mentors that lack it; False where another process is at it."""
    loader.set_epoch(view)
    numbers = loader.samples()
    lacking = [(mentor, store) for mentor, store in live if not _has(store, view, numbers)]
    with ExitStack() as claims:
        mine = [(m, store) for m, store in lacking if claims.enter_context(store.claim(view))]
        whole = len(mine) == len(lacking)
        mine = [(m, store) for m, store in mine if not _has(store, view, numbers)]  # done meanwhile
        if mine:
            for store, shard in _said(recipe, mine, loader):
                store.save(view, shard)
    return whole


def _has(store: MentorStore, view: int, numbers: Tensor) -> bool:
    shard = store.load(view)
    return shard is not None and bool((shard.positions(numbers) >= 0).all())


@torch.no_grad()
def _said(
    recipe: Recipe, mine: Sequence[Pair], loader: ViewLoader
) -> Iterator[tuple[MentorStore, Shard]]:
    """What mentors say about every sample of the loader."""
    top = recipe.bank.top if recipe.bank else None
    index, parts = [], [[] for _ in mine]
    for batch in loader:
        index.append(batch.index.cpu())
        with autocast(batch.images.device, recipe.train.precision):
            said = [mentor(batch.images) for mentor, _ in mine]
        for part, logits in zip(parts, said, strict=True):
            part.append(encode(logits.float().cpu(), batch.label.cpu(), top))
    order = torch.cat(index).argsort()
    for (_, store), part in zip(mine, parts, strict=True):
        whole = {name: torch.cat([one[name] for one in part]) for name in part[0]}
        yield store, Shard(torch.cat(index)[order], rows(whole, order))


@torch.no_grad()
def _moved(
    recipe: Recipe, mentor: Mentor, store: MentorStore, view: int, loader: ViewLoader
) -> float:
    """Mean total variation between stored and recomputed predictions of some stored samples."""
    shard = store.load(view)
    if shard is None:
        return 0.0  # it was damaged, which has been said, and is missing now
    loader.set_epoch(view)
    for batch in loader:
        place = shard.positions(batch.index.cpu())
        if (known := place >= 0).any():
            break
    else:
        return 1.0
    with autocast(batch.images.device, recipe.train.precision):
        live = mentor(batch.images).float().cpu()[known]
    target = batch.label.cpu()[known]
    stored = decode(rows(shard.stored, place[known]), target, live.shape[1])
    return 0.5 * (live.softmax(1) - stored.softmax(1)).abs().sum(1).mean().item()
