"""Several mentors as one: the weighted mean of what those who teach a sample say about it.

A mean of predictions at one temperature teaches what the mean of their KL terms does, to the
student's gradient; means of logits, or other divergences, do not. Shapes: ``M`` mentors, ``B``
samples, ``U`` units, ``K`` bins, ``G`` ranks within a sample.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from classroomkd.core.divergence import statistics_dtype
from classroomkd.core.filter import Scores, unit_mean

Mean = Callable[[Tensor, Tensor], Tensor]
"""From shares ``[M, B, U]``, which add up to 1, and logits ``[M, B, U, K]`` to ``[1, B, U, K]``."""


def shares(weight: Tensor) -> Tensor:
    """Weights ``[M, ...]`` made to add up to 1 over the mentors; 0 where all of them are 0."""
    total = weight.sum(0)
    return weight / torch.where(total > 0, total, 1)


def mean_logits(share: Tensor, logits: Tensor) -> Tensor:
    r"""The mean of logits, a geometric mean of predictions: ``sum_m share_m z_m``.

    Example:
        >>> share, logits = torch.tensor([[[0.75]], [[0.25]]]), torch.tensor([[[[4.0]]], [[[0.0]]]])
        >>> mean_logits(share, logits)
        tensor([[[[3.]]]])
    """
    return (share.unsqueeze(-1) * _exact(logits)).sum(0, keepdim=True)


def mean_zscores(share: Tensor, logits: Tensor) -> Tensor:
    r"""The mean of standardised logits, at the mean of their deviations.

    .. math:: \Big(\sum_m share_m \frac{z_m - mean z_m}{std z_m}\Big) \sum_m share_m std z_m

    A mentor that is surer of everything, and so has larger logits, does not outvote the others.
    """
    logits = _exact(logits)
    deviation = logits.std(-1, correction=0, keepdim=True)
    score = (logits - logits.mean(-1, keepdim=True)) / deviation.clamp_min(1e-7)
    share = share.unsqueeze(-1)
    return (share * score).sum(0, keepdim=True) * (share * deviation).sum(0, keepdim=True)


def mean_probabilities(share: Tensor, logits: Tensor) -> Tensor:
    """Logs of the mean of predictions, ``log sum_m share_m softmax(z_m)``."""
    mean = (share.unsqueeze(-1) * torch.softmax(_exact(logits), -1)).sum(0, keepdim=True)
    return mean.clamp_min(torch.finfo(mean.dtype).tiny).log()


MEANS: dict[str, Mean] = {
    "logits": mean_logits,
    "zscores": mean_zscores,
    "probabilities": mean_probabilities,
}


def ensemble(scores: Scores, weight: Tensor, mean: Mean) -> tuple[Scores, Tensor]:
    r"""One mentor made of those that teach, and how it stands.

    Its divergence from the target is taken as the weighted mean of its members', so that its score
    is their geometric mean; what a mean of logits says scores at least that, by convexity.

    Args:
        scores: of student and mentors.
        weight: ``[M, B, G]``, 0 for those that do not teach.
        mean: of their logits.

    Returns:
        How the ensemble stands, as the only mentor; and each mentor's part in what it says about a
        sample, ``[M, B]``.
    """
    rank = shares(weight)
    spoken = weight.expand(scores.mentors[0].shape[:-1])
    taught = scores.mentor_weight
    if taught is not None:
        spoken = torch.where(taught > 0, spoken, 0)
    share = shares(spoken)
    if taught is not None and taught.ndim == 3:  # of a unit, the weight it has for its speakers
        taught = torch.where(spoken > 0, taught, 0).amax(0, keepdim=True)

    def weighted(divergence: Tensor) -> Tensor:
        # 0 where nobody teaches: a temperature must be finite there, though nothing is learnt.
        return torch.where(rank > 0, rank * divergence, 0).sum(0, keepdim=True)

    divergences = scores.divergences
    if divergences is not None:
        student, mentors, rivals = divergences
        divergences = student, weighted(mentors), weighted(rivals)
    together = replace(
        scores,
        mentors=tuple(mean(share, logits) for logits in scores.mentors),
        valid=(rank > 0).any(0, keepdim=True),
        divergences=divergences,
        mentor_weight=taught,
    )
    return together, shares(unit_mean(share, taught))


def _exact(logits: Tensor) -> Tensor:
    return logits.to(statistics_dtype(logits))
