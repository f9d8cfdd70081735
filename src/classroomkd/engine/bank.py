"""Building and verifying the bank of a recipe.

``C`` classes of a block.
"""

import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from classroomkd.config.schema import RunRecipe
from classroomkd.data.epochs import Epochs
from classroomkd.engine.build import open_mentors
from classroomkd.engine.places import choose_device, task_of
from classroomkd.engine.precision import autocast
from classroomkd.engine.stores import Plan, Say, open_stores, plan_bank
from classroomkd.errors import ClassroomError
from classroomkd.mentors import Mentor, StoredMentor
from classroomkd.mentors.bank import (
    MentorStore,
    decode_outputs,
    encode_outputs,
    folder_size,
    rows,
    size_text,
)
from classroomkd.tasks.base import Task

BATCH = 256
TOLERANCE = 0.05  # of probability, moved from one class to others: bfloat16 moves some hundredths

Pair = tuple[Mentor, MentorStore]


def build_bank(recipe: RunRecipe, *, say: Say = print, progress: bool = False) -> None:
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
    task, live, loader, blocks = _open(recipe, say)
    count = len(loader.dataset)
    plan = plan_bank(recipe, count, blocks, len(live))
    assert recipe.bank is not None  # see _open
    _check_room(recipe.bank.path, plan, recipe.bank.limit_gb * 1e9, say)
    pending = list(range(plan.views))
    with tqdm(total=len(pending), unit="view", disable=not progress) as bar:
        while pending:
            left = [view for view in pending if not _build_view(task, view, live, loader)]
            bar.update(len(pending) - len(left))
            if left:  # another process is at them
                time.sleep(0.5)
            pending = left
    say(
        f"{recipe.bank.path} holds {plan.views} views of {count} samples from {plan.mentors}"
        f" mentors: {size_text(folder_size(recipe.bank.path))}"
    )


def verify_bank(recipe: RunRecipe, *, say: Say = print) -> list[str]:
    """Recompute a sample of what is stored, and compare; returns what is wrong.

    Of each mentor the first, the middle and the last stored view are looked at, a batch each. What
    is compared are predicted probabilities: the share that lies with other classes than before
    (total variation, a mean over samples).

    Raises:
        ClassroomError: if the recipe has no bank, or it holds other views or mentors.
    """
    task, live, loader, _ = _open(recipe, say)
    wrong = []
    for mentor, store in live:
        views = store.views()
        for view in sorted({views[i] for i in (0, len(views) // 2, -1)} if views else ()):
            moved = _moved(task, mentor, store, view, loader)
            verdict = "as computed here" if moved <= TOLERANCE else "DIFFERENT"
            say(f"{mentor.name}, view {view}: {verdict} ({100 * moved:.2f} % of probability moved)")
            if moved > TOLERANCE:
                wrong.append(f"{mentor.name}, view {view}")
    return wrong


def _open(recipe: RunRecipe, say: Say) -> tuple[Task, list[Pair], Epochs, list[torch.Size]]:
    """The mentors that can run here with their stores, and all samples in their own order.

    At last the shape of each block of a sample's logits, in the student's output space.
    """
    task = task_of(recipe, choose_device(recipe.train.device))
    train_set, _ = task.training_sets()
    student = task.build_student(train_set).to(task.place.device).eval()
    mentors = open_mentors(task, student, train_set)
    list(task.prepare(student, mentors, train_set))  # what it says is for a training
    stores = open_stores(task, train_set, mentors, say)
    pairs = zip(mentors, stores, strict=True)
    live = [(m, store) for m, store in pairs if store and not isinstance(m, StoredMentor)]
    if recipe.bank is None or not live:
        raise ClassroomError(
            f"{recipe.name} has no bank to look after: it needs bank: {{path: ...}}, and mentors"
            " that can run here"
        )
    with torch.no_grad():
        said = task.student_outputs(student, task.example(train_set, 1))
    shapes = [block.shape[1:] for block in said.blocks]
    return task, live, task.training_loader(train_set, batch_size=BATCH), shapes


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


@torch.no_grad()
def _build_view(task: Task, view: int, live: Sequence[Pair], loader: Epochs) -> bool:
    """Build a view for those mentors that lack it; False where another process is at it."""
    loader.set_epoch(view)
    numbers, recipe = loader.samples(), task.recipe
    lacking = [(mentor, store) for mentor, store in live if not _has(store, view, numbers)]
    with ExitStack() as writing:
        begun = [
            (mentor, store, writing.enter_context(store.begin(view, numbers.sort().values)))
            for mentor, store in lacking
        ]
        mine = [(mentor, w) for mentor, store, w in begun if w and not _has(store, view, numbers)]
        for batch in loader if mine else ():
            bins = task.bins(batch)
            for mentor, writer in mine:
                with autocast(task.place.device, recipe.train.precision):
                    said = mentor.outputs(batch[0])
                stored = encode_outputs(said.map(Tensor.float), bins, recipe.bank.top)
                writer.write(batch.index.cpu(), {name: t.cpu() for name, t in stored.items()})
    return all(writer for _, _, writer in begun)


def _has(store: MentorStore, view: int, numbers: Tensor) -> bool:
    shard = store.load(view)
    return shard is not None and bool((shard.positions(numbers) >= 0).all())


@torch.no_grad()
def _moved(task: Task, mentor: Mentor, store: MentorStore, view: int, loader: Epochs) -> float:
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
    with autocast(task.place.device, task.recipe.train.precision):
        live = mentor.outputs(batch[0]).map(lambda tensor: tensor.float().cpu()[known])
    bins = [block.cpu()[known] for block in task.bins(batch)]
    stored = {name: t.unsqueeze(0) for name, t in rows(shard.stored, place[known]).items()}
    (there,) = decode_outputs(stored, bins, [block.shape[-1] for block in live.blocks])
    return max(_distance(*pair) for pair in zip(live.blocks, there.blocks, strict=True))


def _distance(live: Tensor, stored: Tensor) -> float:
    """Mean total variation of two predictions ``[..., C]``."""
    return 0.5 * (live.softmax(-1) - stored.softmax(-1)).abs().sum(-1).mean().item()
