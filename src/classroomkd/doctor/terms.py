"""How the terms of the loss stand in the first lesson, and who teaches in it.

Shapes: ``M`` mentors, ``B`` samples.
"""

from collections.abc import Collection, Iterator, Sequence
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from classroomkd.core import Lesson, Signals
from classroomkd.core.filter import unit_mean
from classroomkd.core.lesson import labels
from classroomkd.engine.balance import imbalance, option, usual_options
from classroomkd.engine.classroom import Classroom
from classroomkd.engine.devices import SINGLE_PROCESS
from classroomkd.engine.gradients import Shares, gradient_shares
from classroomkd.engine.step import student_outputs
from classroomkd.methods import Outputs
from classroomkd.tasks.base import Finding


def judge_terms(
    classroom: Classroom, views: Any, taught: Sequence[Outputs], doubted: Collection[str]
) -> Iterator[Finding]:
    """How much each term moves the student, and who teaches, in the first lesson.

    Args:
        classroom: its method is at full weight.
        views: of the first batch.
        taught: what the mentors say about it.
        doubted: names of mentors with which something is wrong; of these no more is said.
    """
    task, student, method = classroom.task, classroom.student, classroom.method
    own: list[Tensor] = []

    def lesson_of_signals() -> Lesson:
        learnt = student_outputs(task, student, views[0], method, SINGLE_PROCESS)
        signals = task.signals(learnt, taught, views)
        own.append(_task_alone(signals))
        return method(signals)

    lesson, shares = gradient_shares(student, lesson_of_signals)
    if not torch.isfinite(lesson.loss) or not isfinite(shares.total):
        gradient = "has a gradient that " if torch.isfinite(lesson.loss) else ""
        text = f"{gradient}is not finite on the first batch"
        yield Finding("wrong", "loss", text, "finite", "lower the method's weights")
        return
    yield _balance(classroom, shares, (lesson.task_loss.mean() / own[0]).item())
    yield from _teaching(classroom, lesson, doubted)


@torch.no_grad()
def _task_alone(signals: Signals) -> Tensor:
    """The mean of the student's own loss before the method weighs it."""
    if signals.target is None:
        return torch.ones(())
    loss = (signals.task_loss or labels)(signals.student, signals.target)
    return unit_mean(loss, signals.unit_weight).mean().clamp_min(1e-12)


def _balance(classroom: Classroom, shares: Shares, task_weight: float) -> Finding:
    named = {"task": shares.task}
    named |= {m.name: n for m, n in zip(classroom.mentors, shares.mentors, strict=False)}
    named |= {"other terms": shares.rest} if shares.rest else {}
    parts = ", ".join(f"{name} {shares.percent(norm):.1f} %" for name, norm in named.items())
    text = f"gradient for the student at the start: {parts} (norm {shares.total:.3g})"
    method, task = classroom.recipe.method, shares.task
    mentors = sum(shares.mentors) + shares.rest
    if not (sum(shares.mentors) and task):
        return Finding("ok", "loss", text, "balance")
    if isinstance(option(method, "task_weight"), str) and 0 < task_weight < 1:
        text += f". The task's weight, {task_weight:.2g} now, grows as the student learns"
        task /= task_weight
    found = imbalance(method, mentors / task, usual=usual_options(classroom.recipe))
    if found is None:
        return Finding("ok", "loss", text, "balance")
    what, cure = found
    return Finding("warning", "loss", f"{text}. {what[0].upper()}{what[1:]}", "balance", cure)


def _teaching(classroom: Classroom, lesson: Lesson, doubted: Collection[str]) -> Iterator[Finding]:
    """Mentors that are not heard because they are behind the student already.

    One that a method leaves out for another reason, such as by lot, is not behind.
    """
    active = lesson.active.float().flatten(1).mean(1)
    ahead = lesson.mentor_score.flatten(1).mean(1) > lesson.student_score.mean()
    for mentor, share, better in zip(classroom.mentors, active, ahead, strict=False):
        if mentor.learns or mentor.name in doubted or better or share.item() >= 0.01:
            continue
        text = "would teach almost nobody: it is no better than the student"
        cure = "train it longer, or leave it out"
        yield Finding("warning", mentor.name, text, "teaching", cure)
