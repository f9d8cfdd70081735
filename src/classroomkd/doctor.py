"""`classroomkd doctor`: look at a classroom before hours are spent on it."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import torch
from torch import Tensor

from classroomkd.config import Recipe
from classroomkd.data import Batch
from classroomkd.engine.build import Classroom, build_classroom
from classroomkd.engine.step import hold_lesson
from classroomkd.mentors import Mentor
from classroomkd.methods import method_options

SAMPLES = 1024
Verdict = Literal["ok", "warning", "wrong"]


@dataclass(frozen=True)
class Finding:
    """One thing that the doctor looked at: its verdict, and what was seen, in words."""

    verdict: Verdict
    subject: str
    text: str


def examine(recipe: Recipe) -> list[Finding]:
    """Build a recipe's classroom and look at one large batch of plain training images.

    Looks at every mentor's mode, gradients and accuracy (a mentor near chance has another class
    order or other pixels), at mentors that are the same network, and at whether the terms of the
    loss and their gradients are of comparable size. Mentors that train along are not judged: they
    have learnt nothing yet.

    Raises:
        ClassroomError: if data or weights cannot be had or do not fit each other.
    """
    classroom = build_classroom(recipe)
    batch = _plain_batch(classroom)
    said = {m.name: m(batch.images).float() for m in classroom.mentors if not m.learns}
    return [
        *_data(classroom, batch),
        *(finding for m in classroom.mentors for finding in _mentor(m, said, batch)),
        *_duplicates(said),
        *_terms(classroom, batch),
    ]


def _plain_batch(classroom: Classroom) -> Batch:
    """The first samples of the first epoch, without augmentation."""
    image_set = classroom.train.image_set
    picked = image_set.subset(torch.randperm(len(image_set), generator=_generator())[:SAMPLES])
    return Batch(picked.images.float().div(255), picked.target, picked.index)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _data(classroom: Classroom, batch: Batch) -> Iterator[Finding]:
    data, count = classroom.recipe.data, len(classroom.train.image_set)
    low, high = batch.images.amin().item(), batch.images.amax().item()
    dev = f"{len(classroom.dev.image_set)} for development" if classroom.dev else "none kept apart"
    yield Finding(
        "ok" if classroom.dev else "warning",
        "data",
        f"{data.name}: {count} training images, {dev}; {len(classroom.classes)} classes; "
        f"pixels from {low:.2f} to {high:.2f}"
        + (
            "" if classroom.dev else ". Without a development split no epoch can be chosen honestly"
        ),
    )
    if not (0 <= low < 0.25 and 0.5 < high <= 1):
        yield Finding("warning", "data", "pixels do not fill [0, 1]: are the images read rightly?")


def _mentor(mentor: Mentor, said: dict[str, Tensor], batch: Batch) -> Iterator[Finding]:
    if mentor.learns:
        yield Finding("ok", mentor.name, f"{mentor.role}, trains along: nothing to check before")
        return
    logits = said[mentor.name]
    if mentor.network.training or any(p.requires_grad for p in mentor.network.parameters()):
        yield Finding("wrong", mentor.name, "is in training mode or has gradients: it would change")
    if not torch.isfinite(logits).all():
        yield Finding("wrong", mentor.name, "gives logits that are not finite: damaged weights?")
        return
    top1 = 100 * (logits.argmax(-1) == batch.target).float().mean().item()
    chance = 100 / logits.shape[-1]
    if top1 < 3 * chance and top1 < 50:
        yield Finding(
            "wrong",
            mentor.name,
            f"gets {top1:.1f} % of {len(logits)} training images right, near chance "
            f"({chance:.1f} %): its classes are in another order, it expects other pixels "
            "(mean, std), or it was never trained",
        )
    else:
        order = "order mapped by name" if mentor.class_map is not None else "same order"
        yield Finding(
            "ok",
            mentor.name,
            f"{mentor.role}, frozen, {order}; {top1:.1f} % of {len(logits)} training images right",
        )


def _duplicates(said: dict[str, Tensor]) -> Iterator[Finding]:
    for (one, a), (other, b) in combinations(said.items(), 2):
        if torch.allclose(a, b, rtol=1e-4, atol=1e-4):
            yield Finding(
                "warning", f"{one}, {other}", "say the same: one network twice adds nothing"
            )


def _terms(classroom: Classroom, batch: Batch) -> Iterator[Finding]:
    size = classroom.recipe.train.batch_size
    few = Batch(*(field[:size] for field in batch))
    lesson = hold_lesson(classroom.student, classroom.mentors, classroom.method, few)
    if not torch.isfinite(lesson.loss):
        yield Finding("wrong", "loss", "is not finite on the first batch")
        return
    task = lesson.task_loss.mean().item()
    terms = lesson.mentor_loss.flatten(1).mean(1).tolist() if len(lesson.mentor_loss) else []
    parts = ", ".join(f"{m.name} {t:.3g}" for m, t in zip(classroom.mentors, terms, strict=False))
    text = f"at the start: task {task:.3g}" + (
        f"; mentors {sum(terms):.3g} ({parts})" if terms else ""
    )
    ratio = sum(terms) / max(task, 1e-9)
    if terms and ratio < 0.01:
        yield Finding("warning", "loss", f"{text}. The mentors hardly count beside the task")
    elif terms and ratio > 100 and task > 0:  # some methods have no task
        options = method_options(classroom.method.name).model_fields
        cure = ": consider method.task_weight=1" if "task_weight" in options else ""
        yield Finding("warning", "loss", f"{text}. The task hardly counts beside the mentors{cure}")
    else:
        yield Finding("ok", "loss", text)
    for mentor, share in zip(
        classroom.mentors, lesson.active.float().flatten(1).mean(1), strict=False
    ):
        if not mentor.learns and share.item() < 0.01:
            yield Finding(
                "warning",
                mentor.name,
                "would teach almost nobody: it is no better than the student",
            )
