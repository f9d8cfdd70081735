"""The batch mode of the authors' code, so that its results can be told from the paper's method.

One rank for a whole batch from ``q_j = exp(-mean_i CE_j(i))``; weights rounded to two digits before
they are multiplied by ``M``; a gate that lets equals teach; the task weighted by ``q_s``.

Shapes: ``M`` mentors, ``B`` samples, ``G`` = 1 rank (of the whole batch, repeated).
"""

import torch
from torch import Tensor

from classroomkd.core.filter import Scores, classroom_shares, everyone
from classroomkd.core.lesson import Choices
from classroomkd.core.mentoring import Temperatures


def rounded_weights(scores: Scores) -> tuple[Tensor, Tensor]:
    """Weights ``round(q_j / sum q, 2) * M`` in float64: the student's ``[B, G]``, ``[M, B, G]``."""
    count = len(scores.mentor_divergence)
    student, mentors = classroom_shares(scores, dtype=torch.float64)
    return student.round(decimals=2) * count, mentors.round(decimals=2) * count


def choices(temperature: float) -> Choices:
    """The choices of the authors' code for one teacher and any number of peers."""

    def select(scores: Scores) -> Tensor:
        student, mentors = rounded_weights(scores)
        return (mentors >= student) & everyone(scores)

    def weighting(scores: Scores) -> Tensor:
        return rounded_weights(scores)[1].to(scores.mentor_divergence.dtype)

    def gap_temperature(scores: Scores) -> Temperatures:
        student, mentors = rounded_weights(scores)
        ahead = (mentors - student).clamp_min(0) / mentors.clamp_min(1e-12)
        tau = (1 + temperature * ahead).to(scores.mentor_divergence.dtype)
        return tau, tau

    return Choices(
        select, weighting, gap_temperature, task_weight=lambda scores: scores.student_score
    )
