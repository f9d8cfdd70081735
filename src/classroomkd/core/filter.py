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

from classroomkd.core.divergence import target_divergence

Group = Literal["sample", "batch", "unit"]
GROUPS = get_args(Group)
Blocks = tuple[Tensor, ...]


@dataclass(frozen=True)
class Scores:
    """How the student and its mentors stand: what every choice of a method is made from.

    Attributes:
        student: detached logits, one ``[B, U, K]`` for each categorical axis of a unit.
        mentors: detached logits, one ``[M, B, U, K]`` for each axis.
        target: one ``[B, U]`` (indices) or ``[B, U, K]`` (probabilities) for each axis.
        student_divergence: ``[B, G]``, from the target; ``exp(-.)`` of it is the score.
        mentor_divergence: ``[M, B, G]``.
        rival_divergence: the student's on the units that each mentor speaks about, broadcastable to
            ``[M, B, G]``: what a mentor has to beat.
        unit_weight: ``[B, U]``, or None for equal weights.
        mentor_weight: weight of units in the mentors' terms, ``[B, U]`` or ``[M, B, U]``, or None.
    """

    student: Blocks
    mentors: Blocks
    target: Blocks
    student_divergence: Tensor
    mentor_divergence: Tensor
    rival_divergence: Tensor
    unit_weight: Tensor | None = None
    mentor_weight: Tensor | None = None

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
def score_mentors(
    student: Blocks,
    mentors: Blocks,
    target: Blocks,
    unit_weight: Tensor | None = None,
    group: Group = "sample",
    mentor_unit_weight: Tensor | None = None,
    mentor_mask: Tensor | None = None,
    rank_divergence: tuple[Tensor, Tensor] | None = None,
) -> Scores:
    r"""Divergence of the student and of all mentors from the target, for each rank group.

    .. math:: l_j(g) = \frac{\sum_{u \in g} v_u \sum_b KL(target_b \,\|\, \sigma(z_{j,b}))}
                            {\sum_{u \in g} v_u}

    Where a mentor's logits for a sample are not all finite, its divergence is infinite: it has
    score 0 and does not teach that sample. A batch is ranked by its other samples.

    Args:
        student: logits, one ``[B, U, K]`` a block.
        mentors: logits, one ``[M, B, U, K]`` a block.
        target: ``[B, U]`` or ``[B, U, K]`` a block.
        unit_weight: ``[B, U]``, or None for equal weights.
        group: what is ranked together: each ``sample``, the whole ``batch``, or each ``unit``.
        mentor_unit_weight: ``[B, U]``, in the mentors' terms; None for that of the ranks.
        mentor_mask: ``[M, B, U]`` (bool), the units that each mentor speaks about; None for all.
        rank_divergence: of student ``[B, U]`` and mentors ``[M, B, U]``, to rank by in place of
            their divergence from the target.
    """
    student = tuple(block.detach() for block in student)
    finite = torch.stack([block.isfinite().all(-1) for block in mentors]).all(0)
    # A mentor sits a sample out if any unit that it would be ranked or taught on is not finite.
    rank_weight = _masked(mentor_mask, unit_weight)
    term_weight = (
        rank_weight if mentor_unit_weight is None else _masked(mentor_mask, mentor_unit_weight)
    )
    unused = (
        False
        if rank_weight is None or term_weight is None
        else (rank_weight == 0) & (term_weight == 0)
    )
    valid = (finite | unused).all(-1, keepdim=True)  # [M, B, 1]
    # 0 for what is not finite: a softmax of NaN would spoil the gradient though nothing is taught.
    mentors = tuple(torch.where(finite.unsqueeze(-1), block.detach(), 0) for block in mentors)

    def divergence(logits: Blocks) -> Tensor:
        blocks = [target_divergence(z, t) for z, t in zip(logits, target, strict=True)]
        return torch.stack(blocks).sum(0)

    own, others = rank_divergence or (divergence(student), divergence(mentors))
    student_divergence = group_divergence(own, unit_weight, group)
    rival = student_divergence
    if mentor_mask is not None:
        rival = group_divergence(own.expand(others.shape), rank_weight, group)
    if group == "batch":
        # One rank for all samples: those that a mentor sits out must not count in its mean.
        whole = 1.0 if rank_weight is None else rank_weight
        rank_weight = torch.where(valid, whole, 0).expand(finite.shape)
    return Scores(
        student,
        mentors,
        target,
        student_divergence,
        group_divergence(others, rank_weight, group).masked_fill(~valid, torch.inf),
        rival,
        unit_weight,
        term_weight,
    )


def _masked(mentor_mask: Tensor | None, weight: Tensor | None) -> Tensor | None:
    """Weight of the units that each mentor speaks about, ``[M, B, U]``, or of all."""
    return weight if mentor_mask is None else mentor_mask * (1.0 if weight is None else weight)


def everyone(scores: Scores) -> Tensor:
    """Every mentor teaches that said something finite: ``[M, B, G]``."""
    return scores.mentor_divergence.isfinite()


def better_than_student(scores: Scores) -> Tensor:
    """The knowledge filter: ``a_m = r_m > r_s``, strictly; ``[M, B, G]``."""
    return scores.mentor_divergence < scores.rival_divergence


def best(scores: Scores) -> Tensor:
    """Only the mentor of the highest score teaches, the first of equals; ``[M, B, G]``."""
    count = len(scores.mentor_divergence)
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
    return torch.ones_like(scores.mentor_divergence)
