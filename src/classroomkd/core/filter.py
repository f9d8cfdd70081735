"""Knowledge filtering: scores on each sample, who teaches, and with what weight.

Shapes: ``M`` mentors, ``B`` samples, ``U`` units of a sample (1 in classification), ``K`` bins, and
``G`` ranks within a sample: ``U`` where each unit is ranked by itself, else 1.

Everything is computed from divergences rather than from probabilities: ``r = exp(-l)`` underflows
on badly missed samples, where ``l`` still tells who is better.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from classroomkd.core.divergence import statistics_dtype, target_divergence
from classroomkd.core.signals import Blocks, Signals

Group = Literal["sample", "batch", "unit"]
GROUPS = get_args(Group)


@dataclass(frozen=True)
class Scores:
    """What every choice of a method is made from: predictions, and how far they are from the truth.

    Attributes:
        student: detached logits, one ``[B, U, K]`` for each categorical axis of a unit.
        mentors: detached logits, one ``[M, B, U, K]`` for each axis.
        target: one ``[B, U]`` (indices) or ``[B, U, K]`` (probabilities) for each axis, or None.
        valid: ``[M, B, G]`` (bool), whether a mentor said something finite.
        divergences: of the student ``[B, G]``, of the mentors ``[M, B, G]``, and of the student on
            the units that each mentor speaks about (broadcastable to ``[M, B, G]``); None if
            nobody is ranked.
        unit_weight: ``[B, U]``, or None for equal weights.
        mentor_weight: weight of units in the mentors' terms, ``[B, U]`` or ``[M, B, U]``, or None.
    """

    student: Blocks
    mentors: Blocks
    target: Blocks | None
    valid: Tensor
    divergences: tuple[Tensor, Tensor, Tensor] | None
    unit_weight: Tensor | None = None
    mentor_weight: Tensor | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Of weights, temperatures and losses: float32, or float64 for such logits."""
        return statistics_dtype(self.student[0])

    def _ranks(self) -> tuple[Tensor, Tensor, Tensor]:
        if self.divergences is None:
            raise ValueError(
                "without a target nobody can be ranked: give one, or rank_divergence, or options"
                " that rank nobody (select='all', weighting='equal', mentoring='fixed' or 'none',"
                " and a number as task_weight)"
            )
        return self.divergences

    @property
    def student_divergence(self) -> Tensor:
        """From the target, ``[B, G]``; ``exp(-.)`` of it is the score."""
        return self._ranks()[0]

    @property
    def mentor_divergence(self) -> Tensor:
        """From the target, ``[M, B, G]``; infinite where a mentor is not `valid`."""
        return self._ranks()[1]

    @property
    def rival_divergence(self) -> Tensor:
        """What each mentor has to beat: the student's divergence on the mentor's units."""
        return self._ranks()[2]

    @property
    def student_score(self) -> Tensor:
        """Score ``r_s = exp(-l_s)``, ``[B, G]`` in (0, 1]: the true class's probability."""
        return torch.exp(-self.student_divergence)

    @property
    def mentor_score(self) -> Tensor:
        """Score ``r_m = exp(-l_m)``, ``[M, B, G]``."""
        return torch.exp(-self.mentor_divergence)

    @property
    def batch_score(self) -> Tensor:
        """The student's score on the whole batch, a geometric mean: scalar."""
        weight = self.unit_weight
        if weight is not None and self.student_divergence.shape != weight.shape:
            weight = weight.sum(-1)
        weight = None if weight is None else weight.flatten()
        return torch.exp(-unit_mean(self.student_divergence.flatten(), weight))


def unit_mean(value: Tensor, unit_weight: Tensor | None) -> Tensor:
    """Mean over units ``[..., B, U] -> [..., B]``, weighted; 0 for a sample without weight.

    Values of units without weight are not looked at: they may be infinite.
    """
    if unit_weight is None:
        return value.mean(-1)
    total = torch.where(unit_weight > 0, value * unit_weight, 0).sum(-1)
    weight = unit_weight.sum(-1)
    return torch.where(weight > 0, total / torch.where(weight > 0, weight, 1), 0)


def group_divergence(value: Tensor, unit_weight: Tensor | None, group: Group) -> Tensor:
    """Divergence of each rank group, ``[..., B, U] -> [..., B, G]`` (the batch's is repeated).

    It is 0 for everybody where a group has no weight: no mentor is better there, and none teaches.
    """
    if group == "unit":
        return value if unit_weight is None else torch.where(unit_weight > 0, value, 0)
    if group == "sample":
        return unit_mean(value, unit_weight).unsqueeze(-1)
    weight = None if unit_weight is None else unit_weight.flatten(-2)
    whole = unit_mean(value.flatten(-2), weight)[..., None, None]
    return whole.expand(*value.shape[:-1], 1)


@torch.no_grad()
def score_mentors(signals: Signals, group: Group = "sample") -> Scores:
    r"""Divergence of the student and of all mentors from the target, for each rank group.

    .. math:: l_j(g) = \frac{\sum_{u \in g} v_u \sum_b KL(target_b \,\|\, \sigma(z_{j,b}))}
                            {\sum_{u \in g} v_u}

    Where a mentor's logits for a sample are not all finite, its divergence is infinite: it has
    score 0 and does not teach that sample. A batch is ranked by its other samples.

    Args:
        signals: what student and mentors put out.
        group: what is ranked together: each ``sample``, the whole ``batch``, or each ``unit``.
    """
    student = tuple(block.detach() for block in signals.student)
    finite = torch.stack([block.isfinite().all(-1) for block in signals.mentors]).all(0)
    # A mentor sits a sample out if any unit that it would be ranked or taught on is not finite.
    rank_weight = term_weight = _masked(signals.mentor_mask, signals.unit_weight)
    if signals.mentor_unit_weight is not None:
        term_weight = _masked(signals.mentor_mask, signals.mentor_unit_weight)
    heeded = finite
    if rank_weight is not None and term_weight is not None:
        heeded = finite | ((rank_weight == 0) & (term_weight == 0))
    valid = heeded.all(-1, keepdim=True)  # [M, B, 1]
    # 0 for what is not finite: a softmax of NaN would spoil the gradient though nothing is taught.
    mentors = tuple(
        torch.where(finite.unsqueeze(-1), block.detach(), 0) for block in signals.mentors
    )
    divergences = _divergences(signals, group, student, mentors, rank_weight, valid)
    if divergences is not None:
        valid = divergences[1].isfinite()
    elif group == "unit":
        valid = valid.expand(finite.shape)
    return Scores(
        student, mentors, signals.target, valid, divergences, signals.unit_weight, term_weight
    )


def _divergences(
    signals: Signals,
    group: Group,
    student: Blocks,
    mentors: Blocks,
    rank_weight: Tensor | None,
    valid: Tensor,
) -> tuple[Tensor, Tensor, Tensor] | None:
    """See `Scores.divergences`."""
    if signals.rank_divergence is not None:
        own, others = signals.rank_divergence
    elif signals.target is not None:
        own, others = (_from_target(logits, signals.target) for logits in (student, mentors))
    else:
        return None
    student_divergence = group_divergence(own, signals.unit_weight, group)
    rival = student_divergence
    if signals.mentor_mask is not None:
        rival = group_divergence(own.expand(others.shape), rank_weight, group)
    if group == "batch":
        # One rank for all samples: those that a mentor sits out must not count in its mean.
        whole = 1.0 if rank_weight is None else rank_weight
        rank_weight = torch.where(valid, whole, 0).expand(others.shape)
    mentor_divergence = group_divergence(others, rank_weight, group)
    return student_divergence, mentor_divergence.masked_fill(~valid, torch.inf), rival


def _from_target(logits: Blocks, target: Blocks) -> Tensor:
    blocks = [target_divergence(z, t) for z, t in zip(logits, target, strict=True)]
    return torch.stack(blocks).sum(0)


def _masked(mentor_mask: Tensor | None, weight: Tensor | None) -> Tensor | None:
    """Weight of the units that each mentor speaks about, ``[M, B, U]``, or of all."""
    return weight if mentor_mask is None else mentor_mask * (1.0 if weight is None else weight)


def everyone(scores: Scores) -> Tensor:
    """Every mentor teaches that said something finite: ``[M, B, G]``."""
    return scores.valid


def better_than_student(scores: Scores) -> Tensor:
    """The knowledge filter: ``a_m = r_m > r_s``, strictly; ``[M, B, G]``."""
    return scores.mentor_divergence < scores.rival_divergence


def best(scores: Scores) -> Tensor:
    """Only the mentor of the highest score teaches, the first of equals; ``[M, B, G]``."""
    count = len(scores.valid)
    if not count:
        return everyone(scores)
    first = scores.mentor_divergence.argmin(0, keepdim=True)
    place = torch.arange(count, device=first.device).view(-1, 1, 1)
    return (place == first) & everyone(scores)


def soft_gate(scores: Scores, width: float) -> Tensor:
    r"""A filter without a step, ``sigmoid((r_m - r_s) / h)`` in (0, 1), ``[M, B, G]``.

    Mentors a little behind the student still teach, at less than half of their weight.
    """
    rival = torch.exp(-scores.rival_divergence)
    return torch.sigmoid((scores.mentor_score - rival) / width)


def correct(scores: Scores) -> Tensor:
    """Whether each mentor's most probable bin is the target's in every block; ``[M, B, U]``."""
    if scores.target is None:
        raise ValueError("without a target nobody is known to be correct: give one")
    hits = [
        z.argmax(-1) == (t.argmax(-1) if t.is_floating_point() else t)
        for z, t in zip(scores.mentors, scores.target, strict=True)
    ]
    return torch.stack(hits).all(0)


def classroom_shares(scores: Scores, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
    """Each one's share of the classroom's scores, ``r_j / (r_s + sum_k r_k)``.

    A softmax over ``-l_j``, which stays exact where all scores underflow.

    Returns:
        The student's ``[B, G]`` and the mentors' ``[M, B, G]``; they add up to 1.
    """
    everybody = torch.cat([scores.student_divergence.unsqueeze(0), scores.mentor_divergence])
    shares = torch.softmax(-everybody, dim=0, dtype=dtype)
    return shares[0], shares[1:]


def score_weight(scores: Scores) -> Tensor:
    """Weight ``w_m = M r_m / (r_s + sum_k r_k)``, ``[M, B, G]``; 1 on average if all are equal."""
    return len(scores.mentor_divergence) * classroom_shares(scores)[1]


def unit_weights(scores: Scores) -> Tensor:
    """Weight 1 for every mentor, ``[M, B, G]``."""
    return torch.ones_like(scores.valid, dtype=scores.dtype)
