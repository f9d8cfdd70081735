"""A lesson: what one batch taught the student, put together from a method's four choices.

Shapes: ``M`` mentors, ``B`` samples, ``U`` units, ``K`` bins, ``G`` ranks within a sample.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from classroomkd.core.divergence import cross_entropy, kl_divergence
from classroomkd.core.filter import Blocks, Standing, unit_mean
from classroomkd.core.mentoring import Temperatures, gap

Divergence = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Lesson:
    """What happened in the classroom for a batch. All but ``loss`` are detached.

    With ``group="unit"``, the fields from ``student_score`` on have a further axis ``U``. Methods
    that relate samples to each other give ``mentor_loss`` as ``[M]``.

    Attributes:
        loss: scalar, differentiable: ``(task_loss + mentor_loss.sum(0)).mean()``.
        task_loss: ``[B]``, contribution of the task, its weight included.
        mentor_loss: ``[M, B]``, contribution of each mentor, weight and temperatures included.
        student_score: ``[B]`` in (0, 1].
        mentor_score: ``[M, B]`` in (0, 1].
        weight: ``[M, B]``.
        active: ``[M, B]`` (bool), who taught.
        gap: ``[M, B]``, how far each mentor is ahead of the student: 0 if it is not.
        temperature: ``[M, B]``, the mentor's.
    """

    loss: Tensor
    task_loss: Tensor
    mentor_loss: Tensor
    student_score: Tensor
    mentor_score: Tensor
    weight: Tensor
    active: Tensor
    gap: Tensor
    temperature: Tensor


@dataclass(frozen=True)
class Choices:
    """What a multi-mentor logit method consists of, as functions of how everybody stands.

    Attributes:
        choose: who teaches; bool ``[M, B, G]``.
        weigh: how much; ``[M, B, G]``.
        temper: how softly; temperatures of the mentors and of the student, broadcastable to
            ``[M, B, G]``. The divergence is multiplied by both, which keeps gradients of one size.
        task_weight: weight of the task loss, broadcastable to ``[B, G]``.
        divergence: ``(student [1, B, U, K], mentors [M, B, U, K], student temperature, mentors'
            temperature [M, B, G]) -> [M, B, U]``.
    """

    choose: Callable[[Standing], Tensor]
    weigh: Callable[[Standing], Tensor]
    temper: Callable[[Standing], Temperatures]
    task_weight: Callable[[Standing], Tensor | float] = lambda now: 1.0
    divergence: Divergence = kl_divergence


def teach(student: Blocks, now: Standing, choices: Choices) -> Lesson:
    r"""Hold the lesson that a method's choices make of how everybody stands.

    .. math:: L = mean_i [ \lambda(i) CE_s(i)
              + \sum_m a_m w_m \tau_m \tau_s D(\sigma(z_m/\tau_m), \sigma(z_s/\tau_s)) ]

    Units of a sample are averaged by their weight, whatever is ranked together.

    Args:
        student: logits with gradient, one ``[B, U, K]`` a block.
        now: how everybody stands.
        choices: who teaches, how much, how softly, by what divergence.
    """
    with torch.no_grad():
        active, weight = choices.choose(now), choices.weigh(now)
        mentor_tau, student_tau = choices.temper(now)
        factor = torch.where(active, weight * mentor_tau * student_tau, 0)
        task_weight = choices.task_weight(now)

    task = _sum_blocks([cross_entropy(z, t) for z, t in zip(student, now.target, strict=True)])
    task_loss = unit_mean(task_weight * task, now.unit_weight)
    if now.mentor_divergence.shape[0]:
        taught = _sum_blocks(
            [
                choices.divergence(z.unsqueeze(0), mentor, student_tau, mentor_tau)
                for z, mentor in zip(student, now.mentors, strict=True)
            ]
        )
        mentor_loss = unit_mean(factor * taught, now.unit_weight)
        loss = (task_loss + mentor_loss.sum(0)).mean()
    else:
        mentor_loss = task_loss.new_zeros(0, *task_loss.shape)
        loss = task_loss.mean()

    shape = now.mentor_divergence.shape
    return Lesson(
        loss=loss,
        task_loss=task_loss.detach(),
        mentor_loss=mentor_loss.detach(),
        student_score=now.student_score,
        mentor_score=now.mentor_score,
        weight=weight.expand(shape),
        active=active.expand(shape),
        gap=gap(now),
        temperature=mentor_tau.expand(shape),
    )


def without_ranks(lesson: Lesson) -> Lesson:
    """Drop the rank axis ``G`` of size 1, where each sample has one rank."""
    names = ("student_score", "mentor_score", "weight", "active", "gap", "temperature")
    return replace(lesson, **{name: getattr(lesson, name).squeeze(-1) for name in names})


def _sum_blocks(values: list[Tensor]) -> Tensor:
    return values[0] if len(values) == 1 else torch.stack(values).sum(0)
