"""A lesson: what one batch taught the student, put together from a method's four choices.

Shapes: ``M`` mentors, ``B`` samples, ``U`` units, ``K`` bins, ``G`` ranks within a sample.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from classroomkd.core.divergence import cross_entropy, kl_divergence
from classroomkd.core.ensemble import Mean, ensemble, shares
from classroomkd.core.filter import Group, Scores, everyone, score_mentors, unit_mean
from classroomkd.core.mentoring import Temperatures, gap
from classroomkd.core.signals import Blocks, Signals, TaskLoss


@dataclass(frozen=True)
class LogitPair:
    """What a divergence compares: a block of logits of the student with those of every mentor.

    Attributes:
        student: ``[1, B, U, K]``, with gradient.
        mentors: ``[M, B, U, K]``.
        student_temperature: broadcastable to ``[M, B, U]``.
        mentor_temperature: the same for the mentors.
        target: ``[B, U]`` (indices) or ``[B, U, K]`` (probabilities), or None without labels.
        active: ``[M, B, G]`` (bool), who teaches.
    """

    student: Tensor
    mentors: Tensor
    student_temperature: Tensor
    mentor_temperature: Tensor
    target: Tensor | None
    active: Tensor

    @property
    def label(self) -> Tensor:
        """The true class ``[B, U]``: of a target of probabilities, the most probable one.

        Raises:
            ValueError: without labels.
        """
        if self.target is None:
            raise ValueError(
                "this divergence needs labels: give a target, or compare by KL or DIST"
            )
        return self.target.argmax(-1) if self.target.is_floating_point() else self.target


Divergence = Callable[[LogitPair], Tensor]
Transform = Callable[[Tensor], Tensor]


def kl(pair: LogitPair) -> Tensor:
    """The KL divergence of softened predictions, the usual choice: ``[M, B, U]``."""
    return kl_divergence(
        pair.student, pair.mentors, pair.student_temperature, pair.mentor_temperature
    )


def labels(student: Blocks, target: Blocks) -> Tensor:
    """The cross-entropy with the target, summed over blocks, the usual task: ``[B, U]``."""
    return _sum_blocks([cross_entropy(z, t) for z, t in zip(student, target, strict=True)])


def identity(logits: Tensor) -> Tensor:
    """Logits untransformed, the usual choice."""
    return logits


@dataclass(frozen=True)
class Lesson:
    """What happened in the classroom for a batch. All but ``loss`` are detached.

    With ``group="unit"``, the fields from ``student_score`` on have a further axis ``U``. Methods
    that relate samples to each other give ``mentor_loss`` as ``[M]``.

    Attributes:
        loss: scalar, differentiable: ``(task_loss + mentor_loss.sum(0)).mean()``, or
            ``task_loss.mean() + mentor_loss.sum()`` where ``mentor_loss`` is ``[M]``.
        task_loss: ``[B]``, contribution of the task, its weight included.
        mentor_loss: ``[M, B]``, contribution of each mentor, weight and temperatures included.
        student_score: ``[B]`` in (0, 1]; NaN, as the next and ``gap``, if nobody is ranked.
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
    """What a multi-mentor logit method consists of, as functions of the scores.

    Attributes:
        select: who teaches; bool ``[M, B, G]``.
        weight: how much; ``[M, B, G]``.
        temperature: how softly; temperatures of the mentors and of the student, broadcastable to
            ``[M, B, G]``. The divergence is multiplied by both, which keeps gradients of one size.
        task_weight: weight of the task loss, broadcastable to ``[B, G]``.
        divergence: of a `LogitPair`; ``[M, B, U]``.
        transform: of the logits before they are compared, ``[..., K] -> [..., K]``.
        task: the student's own loss from its logits and the target, ``[B, U]``, where the signals
            bring none.
        total: by which all weights are multiplied.
        normalize: whether the weights of those who teach a sample are made to add up to 1 first.
        mean: how those who teach a sample become one mentor, by their weights, whose temperature
            follows its own gap; None where each teaches by a term of its own.
        tau_squared: whether the divergence shrinks with the square of the temperature, and so is
            multiplied by the temperatures; False for correlations.
    """

    select: Callable[[Scores], Tensor]
    weight: Callable[[Scores], Tensor]
    temperature: Callable[[Scores], Temperatures]
    task_weight: Callable[[Scores], Tensor | float] = lambda scores: 1.0
    divergence: Divergence = kl
    transform: Transform = identity
    task: TaskLoss = labels
    total: float = 1.0
    normalize: bool = False
    mean: Mean | None = None
    tau_squared: bool = True


def combine(signals: Signals, choices: Choices, group: Group = "sample") -> Lesson:
    r"""Combine the task and the mentors' terms by a method's choices.

    .. math:: L = mean_i [ \lambda(i) CE_s(i)
              + \sum_m a_m w_m \tau_m \tau_s D(\sigma(z_m/\tau_m), \sigma(z_s/\tau_s)) ]

    Units of a sample are averaged by their weight, whatever is ranked together. Without a target
    there is no task loss.

    Args:
        signals: what student and mentors put out.
        choices: who teaches, how much, how softly, by what divergence.
        group: what is ranked together, where the signals do not say.

    Example, averaged distillation at temperature 4:
        >>> from functools import partial
        >>> from classroomkd.core.filter import unit_weights
        >>> from classroomkd.core.inputs import make_signals
        >>> from classroomkd.core.mentoring import fixed_temperature
        >>> aver = Choices(everyone, unit_weights, partial(fixed_temperature, value=4.0))
        >>> student, mentors = torch.zeros(2, 3), torch.zeros(5, 2, 3)
        >>> combine(make_signals(student, mentors, torch.tensor([0, 1])), aver).weight.shape
        torch.Size([5, 2])
    """
    scores = score_mentors(signals, signals.group or group)
    lesson = make_lesson(
        scores,
        task_loss(signals, scores, choices),
        *mentor_terms(signals.student, scores, choices),
    )
    kept = signals.has_units and (signals.group or group) == "unit"
    return lesson if kept else squeeze_groups(lesson)


def task_loss(signals: Signals, scores: Scores, choices: Choices) -> Tensor:
    """The student's own loss at its weight, ``[B]``; 0 without a target."""
    if signals.target is None:
        return signals.student[0].new_zeros(len(signals.student[0]), dtype=scores.dtype)
    with torch.no_grad():
        weight = choices.task_weight(scores)
    loss = signals.task_loss or choices.task
    return unit_mean(weight * loss(signals.student, signals.target), scores.unit_weight)


class MentorTerms(NamedTuple):
    """What mentors add to a loss: ``loss [M, B]`` with gradient, and how it came about."""

    loss: Tensor
    active: Tensor
    weight: Tensor
    temperature: Tensor


def mentor_terms(student: Blocks, scores: Scores, choices: Choices) -> MentorTerms:
    """The mentors' part of a lesson; arguments as for `combine`."""
    with torch.no_grad():
        active, weight = choices.select(scores), choices.weight(scores)
        if choices.normalize or choices.mean is not None:
            weight = shares(torch.where(active, weight, 0))
        weight = choices.total * weight
        # With a mean, one mentor teaches at the total weight; its members share what it says.
        teaching, teacher, teacher_weight, part = scores, active, weight, None
        if choices.mean is not None and len(active):
            teaching, part = ensemble(scores, weight, choices.mean)
            teacher = active.any(0, keepdim=True)
            teacher_weight = weight.sum(0, keepdim=True)
        mentor_tau, student_tau = choices.temperature(teaching)
        scale = mentor_tau * student_tau if choices.tau_squared else 1.0
        factor = torch.where(teacher, teacher_weight * scale, 0)
    if not len(active):
        nothing = student[0].new_zeros(0, len(student[0]), dtype=scores.dtype)
        return MentorTerms(nothing, active, weight, mentor_tau)
    taught = _sum_blocks(
        [
            choices.divergence(
                LogitPair(
                    choices.transform(z.unsqueeze(0)),
                    choices.transform(mentor),
                    student_tau,
                    mentor_tau,
                    target,
                    teacher,
                )
            )
            for z, mentor, target in zip(
                student, teaching.mentors, scores.target or [None] * len(student), strict=True
            )
        ]
    )
    loss = unit_mean(factor * taught, teaching.mentor_weight)
    return MentorTerms(loss if part is None else part * loss, active, weight, mentor_tau)


def make_lesson(
    scores: Scores,
    task_loss: Tensor,
    mentor_loss: Tensor,
    active: Tensor | None = None,
    weight: Tensor | None = None,
    temperature: Tensor | None = None,
) -> Lesson:
    """Put a lesson together from its losses and the scores.

    Args:
        scores: of student and mentors.
        task_loss: ``[B]``, with gradient.
        mentor_loss: ``[M, B]``, or ``[M]`` where it relates samples to each other.
        active: broadcastable to ``[M, B, G]``; everybody if left out.
        weight: the same; 1 if left out.
        temperature: of the mentors, the same; 1 if left out.
    """
    every = torch.ones_like(scores.valid, dtype=scores.dtype)  # [M, B, G]
    ranked = scores.divergences is not None
    unknown = every.new_full((), torch.nan)
    if mentor_loss.ndim == 1:
        loss = task_loss.mean() + mentor_loss.sum()
    else:
        loss = (task_loss + mentor_loss.sum(0)).mean()
    return Lesson(
        loss=loss,
        task_loss=task_loss.detach(),
        mentor_loss=mentor_loss.detach(),
        student_score=(
            scores.student_score if ranked else unknown.expand(len(task_loss), every.shape[-1])
        ),
        mentor_score=scores.mentor_score if ranked else unknown.expand_as(every),
        weight=every if weight is None else weight.expand_as(every),
        active=everyone(scores) if active is None else active.expand_as(every),
        gap=gap(scores) if ranked else unknown.expand_as(every),
        temperature=every if temperature is None else temperature.detach().expand_as(every),
    )


def squeeze_groups(lesson: Lesson) -> Lesson:
    """Drop the rank axis ``G`` of size 1, where each sample has one rank."""
    names = ("student_score", "mentor_score", "weight", "active", "gap", "temperature")
    return replace(lesson, **{name: getattr(lesson, name).squeeze(-1) for name in names})


def _sum_blocks(values: list[Tensor]) -> Tensor:
    return values[0] if len(values) == 1 else torch.stack(values).sum(0)
