"""Divergences of logit methods, each usable in any composition of choices; and standardised logits.

Each gives ``[M, B, U]``, one value for each mentor, sample and unit, without the factor ``tau**2``
that a lesson multiplies it by. Shapes: ``M`` mentors, ``B`` samples, ``U`` units, ``K`` bins.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from classroomkd.core import Comparison
from classroomkd.core.divergence import kl_divergence, statistics_dtype
from classroomkd.core.lesson import Divergence, Transform, as_they_are, kl

DivergenceName = Literal["kl", "dkd", "dist", "none"]


def named_divergence(name: DivergenceName) -> Divergence:
    """A divergence by name, with its usual options."""
    return {"kl": kl, "dkd": decoupled_kl, "dist": correlation, "none": nothing}[name]


def nothing(pair: Comparison) -> Tensor:
    """No divergence: the logits teach nothing."""
    shape = (len(pair.mentors), *pair.student.shape[1:-1])
    return pair.student.new_zeros(shape, dtype=statistics_dtype(pair.student))


def standardized(logits: Tensor) -> Tensor:
    r"""Z-scores of logits: ``(z - mean) / std`` over the bins, so that only their shape is learnt.

    Reference: Sun et al., Logit Standardization in Knowledge Distillation, 2024 (LSKD), with its
    public code's unbiased deviation and 1e-7.
    """
    logits = logits.to(statistics_dtype(logits))
    return (logits - logits.mean(-1, keepdim=True)) / (logits.std(-1, keepdim=True) + 1e-7)


def logit_transform(standardize: bool) -> Transform:
    """The transform of `Choices`: standardised logits, or logits as they are."""
    return standardized if standardize else as_they_are


def decoupled_kl(pair: Comparison, alpha: float = 1.0, beta: float = 8.0) -> Tensor:
    r"""Decoupled KL: of the true class against the rest, and among the other classes.

    .. math:: \alpha KL(b_m \| b_s) + \beta KL(\hat p_m \| \hat p_s)

    with ``b = (p_y, 1 - p_y)`` and ``p-hat`` the prediction over the classes other than ``y``. With
    ``alpha = 1`` and ``beta = 1 - p_m[y]`` it would be the KL divergence itself. Of a target of
    probabilities, ``y`` is the most probable class.

    Reference: Zhao et al., Decoupled Knowledge Distillation, 2022, equation 7.
    """
    target = pair.target.argmax(-1) if pair.target.is_floating_point() else pair.target
    true = F.one_hot(target, pair.student.shape[-1]).bool()
    student = _log_softmax(pair.student, pair.student_temperature)
    mentor = _log_softmax(pair.mentors, pair.mentor_temperature)
    among_others = kl_divergence(
        _without(pair.student, true),
        _without(pair.mentors, true),
        pair.student_temperature,
        pair.mentor_temperature,
    )
    return alpha * _binary_kl(mentor, student, true) + beta * among_others


def _without(logits: Tensor, hidden: Tensor) -> Tensor:
    """Logits in which the hidden bins get no probability at any temperature."""
    return logits.to(statistics_dtype(logits)).masked_fill(hidden, -1e30)


def _binary_kl(mentor: Tensor, student: Tensor, true: Tensor) -> Tensor:
    """KL of (true class, rest) from log-probabilities ``[..., K]``."""

    def pair(log_prob: Tensor) -> tuple[Tensor, Tensor]:
        return _without(log_prob, ~true).logsumexp(-1), _without(log_prob, true).logsumexp(-1)

    return sum(
        (m.exp() * (m - s) for m, s in zip(pair(mentor), pair(student), strict=True)),
        start=torch.zeros((), device=mentor.device),
    )


def correlation(pair: Comparison, beta: float = 1.0, gamma: float = 1.0) -> Tensor:
    r"""One less Pearson's correlation of the predictions: over classes, and over the batch.

    .. math:: \beta (1 - \rho(p_s^i, p_m^i))
              + \gamma \frac 1 K \sum_k (1 - \rho(p_s^{:,k}, p_m^{:,k}))

    The second term relates the samples that a mentor teaches to each other, and is the same for all
    of them; it needs at least two.

    Reference: Huang et al., Knowledge Distillation from a Stronger Teacher, 2022 (DIST).
    """
    student = _log_softmax(pair.student, pair.student_temperature).exp()
    mentor = _log_softmax(pair.mentors, pair.mentor_temperature).exp()
    student, mentor = torch.broadcast_tensors(student, mentor)
    taught = pair.active.unsqueeze(-1).to(student.dtype).expand(*student.shape[:-1], 1)
    everybin = torch.ones_like(student[..., :1])
    over_classes = 1 - _pearson(student, mentor, everybin.expand_as(student), dim=-1)
    over_batch = 1 - _pearson(student, mentor, taught.expand_as(student), dim=1)
    over_batch = torch.where(taught.sum(1) > 1, over_batch, 0)
    return beta * over_classes + gamma * over_batch.mean(-1).unsqueeze(1)


def _pearson(one: Tensor, other: Tensor, weight: Tensor, dim: int) -> Tensor:
    """Weighted correlation along ``dim``; 0 where nothing varies."""
    total = weight.sum(dim, keepdim=True).clamp_min(1)

    def centred(value: Tensor) -> Tensor:
        return weight * (value - (weight * value).sum(dim, keepdim=True) / total)

    return F.cosine_similarity(centred(one), centred(other), dim=dim, eps=1e-8)


def _log_softmax(logits: Tensor, temperature: Tensor) -> Tensor:
    logits = logits.to(statistics_dtype(logits))
    return F.log_softmax(logits / temperature.unsqueeze(-1), dim=-1)
