"""How the terms of the loss stand in the first lesson, and who teaches in it.

Shapes: ``M`` mentors, ``B`` samples.
"""

from collections.abc import Collection, Iterator
from math import isfinite

import torch
from torch import Tensor

from classroomkd.core import Lesson
from classroomkd.core.divergence import cross_entropy
from classroomkd.data import Batch
from classroomkd.doctor.finding import Finding
from classroomkd.engine.balance import imbalance, option, usual_options
from classroomkd.engine.classroom import Classroom
from classroomkd.engine.gradients import Shares, gradient_shares
from classroomkd.engine.mentor_outputs import outputs
from classroomkd.methods import Outputs


def judge_terms(
    classroom: Classroom, views: Batch, taught: list[Outputs], doubted: Collection[str]
) -> Iterator[Finding]:
    """How much each term moves the student, and who teaches, in the first lesson.

    Args:
        classroom: its method is at full weight.
        views: of the first batch.
        taught: what the mentors say about it.
        doubted: names of mentors with which something is wrong; of these no more is said.
    """
    student, method, said = classroom.student, classroom.method, []

    def training_step() -> Lesson:
        learnt = outputs(student, views.images, method)
        said.append(learnt.logits.detach())
        return method(learnt, taught, views.target, views.index)

    lesson, shares = gradient_shares(student, training_step)
    if not torch.isfinite(lesson.loss) or not isfinite(shares.total):
        gradient = "has a gradient that " if torch.isfinite(lesson.loss) else ""
        text = f"{gradient}is not finite on the first batch"
        yield Finding("wrong", "loss", text, "finite", "lower the method's weights")
        return
    yield _balance(classroom, shares, _task_weight(lesson, said[0], views.target))
    yield from _teaching(classroom, lesson, doubted)


def _task_weight(lesson: Lesson, logits: Tensor, target: Tensor) -> float:
    """What the method has made of the cross-entropy: the factor that it counts with."""
    own = cross_entropy(logits.float(), target).mean()
    return (lesson.task_loss.mean() / own.clamp_min(1e-12)).item()


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
