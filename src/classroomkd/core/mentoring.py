"""Mentoring: each mentor's temperature follows its gap to the student.

Shapes: ``M`` mentors, ``B`` samples, ``G`` ranks within a sample (see ``filter``).
"""

import torch
from torch import Tensor

from classroomkd.core.divergence import statistics_dtype
from classroomkd.core.filter import Scores

Temperatures = tuple[Tensor, Tensor]


def gap(scores: Scores) -> Tensor:
    """Performance gap ``g_m = 1 - r_s / r_m``, ``[M, B, G]`` in [0, 1]; 0 for no better mentors.

    It depends neither on the number of mentors nor on how the weights are normalised.
    """
    return -torch.expm1((scores.mentor_divergence - scores.rival_divergence).clamp_max(0))


def gap_temperature(scores: Scores, scale: float) -> Temperatures:
    """Mentoring: ``tau_m = 1 + T g_m`` for mentor and student alike; far mentors teach softly."""
    tau = 1 + scale * gap(scores)
    return tau, tau


def fixed_temperature(scores: Scores, value: float) -> Temperatures:
    """One temperature for all, ``[1, 1, 1]``: it is computed once and broadcast."""
    tau = scores.valid.new_full((1, 1, 1), value, dtype=scores.dtype)
    return tau, tau


def dtkd_temperature(scores: Scores, scale: float) -> Temperatures:
    """Dynamic temperatures of DTKD, from the sharpness (largest logit) of either side.

    ``tau_m = 2 T max z_m / (max z_m + max z_s)`` and ``tau_s = 2 T max z_s / (max z_m + max z_s)``.
    Largest logits are kept above 1e-3, without which a temperature could be zero or negative.

    Reference: Wei and Bai, Dynamic Temperature Knowledge Distillation, 2024.
    """
    student = _largest_logit(scores.student)
    mentor = _largest_logit(scores.mentors)
    common = 2 * scale / (mentor + student)
    return common * mentor, common * student


def _largest_logit(blocks: tuple[Tensor, ...]) -> Tensor:
    """Largest logit of a row, averaged over the blocks and units of a sample: ``[..., B, 1]``."""
    largest = torch.stack([block.amax(-1).mean(-1, keepdim=True) for block in blocks]).mean(0)
    return largest.to(statistics_dtype(largest)).clamp_min(1e-3)
