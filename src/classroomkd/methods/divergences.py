"""Divergences of logit methods, each usable in any composition of choices; and standardised logits.

Each gives ``[M, B, U]``, one value for each mentor, sample and unit, without the factor ``tau**2``
that a lesson multiplies those by that shrink with it. Shapes: ``M`` mentors, ``B`` samples, ``U``
units, ``K`` bins.
"""

from functools import partial
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from classroomkd.core import LogitPair
from classroomkd.core.divergence import kl_divergence, statistics_dtype
from classroomkd.core.lesson import Divergence, Transform, identity, kl

DivergenceName = Literal["kl", "dkd", "rld", "dist", "none"]


class NamedDivergence(NamedTuple):
    """A divergence, and whether it shrinks with the square of the temperature."""

    divergence: Divergence
    tau_squared: bool


def named_divergence(name: DivergenceName) -> NamedDivergence:
    """A divergence by name, with its usual options, at the strength of the method of that name.

    DIST counts its correlations by ``2 * 4**2`` on CIFAR-100; they do not shrink with the
    temperature, so this is their weight at any.
    """
    return {
        "kl": NamedDivergence(kl, True),
        "dkd": NamedDivergence(decoupled_kl, True),
        "rld": NamedDivergence(refined_kl, True),
        "dist": NamedDivergence(partial(correlation, beta=32.0, gamma=32.0), False),
        "none": NamedDivergence(nothing, True),
    }[name]


def nothing(pair: LogitPair) -> Tensor:
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
    return standardized if standardize else identity


def decoupled_kl(pair: LogitPair, alpha: float = 1.0, beta: float = 8.0) -> Tensor:
    r"""Decoupled KL: of the true class against the rest, and among the other classes.

    .. math:: \alpha KL(b_m \| b_s) + \beta KL(\hat p_m \| \hat p_s)

    with ``b = (p_y, 1 - p_y)`` and ``p-hat`` the prediction over the classes other than ``y``. With
    ``alpha = 1`` and ``beta = 1 - p_m[y]`` it would be the KL divergence itself. Of a target of
    probabilities, ``y`` is the most probable class.

    Reference: Zhao et al., Decoupled Knowledge Distillation, 2022, equation 7.
    """
    target = pair.label
    true = F.one_hot(target, pair.student.shape[-1]).bool()
    student = _log_softmax(pair.student, pair.student_temperature)
    mentor = _log_softmax(pair.mentors, pair.mentor_temperature)
    among_others = kl_divergence(
        _without(pair.student, true),
        _without(pair.mentors, true),
        pair.student_temperature,
        pair.mentor_temperature,
    )
    return alpha * _binary_kl(mentor, student, true, true) + beta * among_others


def refined_kl(pair: LogitPair, alpha: float = 1.0, beta: float = 8.0) -> Tensor:
    r"""Refined logits: a mentor's confidence, and its order of the classes that it ranks below.

    .. math:: \alpha \frac{1}{\tau^2} KL(b_m \| b_s) + \beta KL(\hat p_m \| \hat p_s)

    with ``b_m = (max p_m, 1 - max p_m)`` and ``b_s = (p_s[y], 1 - p_s[y])`` at temperature 1,
    whichever class the mentor thinks most probable, and ``p-hat`` the predictions at ``tau`` over
    the classes to which the mentor gives a smaller logit than to the true one. A mentor that errs
    so teaches nothing that contradicts the label, and still how the other classes relate. The
    first term is without temperature and divided by the ``tau**2`` that a lesson multiplies by. Of
    a target of probabilities, ``y`` is the most probable class.

    Reference: Sun et al., Knowledge Distillation with Refined Logits, 2024, arXiv 2408.07703 (RLD).
    """
    target = pair.label
    true = F.one_hot(target, pair.student.shape[-1]).bool()
    one = torch.ones_like(pair.mentor_temperature)
    student, mentor = _log_softmax(pair.student, one), _log_softmax(pair.mentors, one)
    top = F.one_hot(pair.mentors.argmax(-1), pair.mentors.shape[-1]).bool()
    confidence = _binary_kl(mentor, student, top, true)
    index = target.expand(pair.mentors.shape[:-1]).unsqueeze(-1)
    hidden = pair.mentors >= pair.mentors.gather(-1, index)
    below = kl_divergence(
        _without(pair.student, hidden),
        _without(pair.mentors, hidden),
        pair.student_temperature,
        pair.mentor_temperature,
    )
    factor = pair.student_temperature * pair.mentor_temperature
    return alpha * confidence / factor + beta * below


def _without(logits: Tensor, hidden: Tensor) -> Tensor:
    """Logits in which the hidden bins get no probability at any temperature."""
    return logits.to(statistics_dtype(logits)).masked_fill(hidden, -1e30)


def _binary_kl(mentor: Tensor, student: Tensor, there: Tensor, here: Tensor) -> Tensor:
    """KL of (one class, rest) from log-probabilities ``[..., K]``, by masks of either's class."""

    def pair(log_prob: Tensor, one: Tensor) -> tuple[Tensor, Tensor]:
        return _without(log_prob, ~one).logsumexp(-1), _without(log_prob, one).logsumexp(-1)

    return sum(
        (m.exp() * (m - s) for m, s in zip(pair(mentor, there), pair(student, here), strict=True)),
        start=torch.zeros((), device=mentor.device),
    )


def correlation(pair: LogitPair, beta: float = 1.0, gamma: float = 1.0) -> Tensor:
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
