"""Methods on logits from several mentors.

Shapes: ``M`` mentors, ``B`` samples. ``CE`` is the cross-entropy with the label.
"""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from classroomkd.core.divergence import statistics_dtype
from classroomkd.core.filter import Standing
from classroomkd.methods.composed import FromAll, equal_parts
from classroomkd.methods.options import Temperature, Weight
from classroomkd.methods.registry import register_method


@register_method("aver")
class Average(FromAll):
    r"""Every mentor teaches with the same weight.

    .. math:: L = \lambda CE
              + w \frac{1}{M} \sum_m \tau^2 KL(\sigma(z_m/\tau) \,\|\, \sigma(z_s/\tau))

    Args:
        temperature: ``tau``.
        weight: ``w``, of the mentors' terms.
        task_weight: ``lambda``, of the cross-entropy.
        reduction: ``"mean"`` over mentors, or their ``"sum"`` (without ``1/M``): the mentors' total
            weight beside the cross-entropy then grows with their number.
        standardize: compare z-scores of the logits (LSKD): options that are not given are then
            temperature 2 and 9 times the weight, as in `dkd`; for this method, they are ours.

    Reference: the baseline AVER of You et al., Learning from Multiple Teacher Networks, 2017, with
    the defaults of the CA-MKD comparison (weight 1 beside the cross-entropy, temperature 4).
    """

    title = "AVER"
    year = 2017

    def __init__(
        self,
        *,
        temperature: Temperature = 4.0,
        weight: Weight = 1.0,
        task_weight: Weight = 1.0,
        reduction: Literal["mean", "sum"] = "mean",
        standardize: bool = False,
    ) -> None:
        weigh = partial(equal_parts, weight=weight) if reduction == "mean" else weight
        super().__init__(temperature, weigh, task_weight, standardize=standardize)


@register_method("ebkd")
class EBKD(FromAll):
    r"""Mentors that are sure of themselves count more: weights from the entropy of predictions.

    .. math:: w_m = \frac{w}{M - 1} \Big(1 - \frac{H_m}{\sum_k H_k}\Big)

    The weights add up to ``w`` on every sample (a single mentor has ``w``).

    Args:
        temperature: ``tau`` of the divergence; entropies are taken at temperature 1.
        weight: ``w``, of the mentors' terms together.
        task_weight: of the cross-entropy.
        standardize: compare z-scores of the logits (LSKD): options that are not given are then
            temperature 2 and 9 times the weight, as in `dkd`; for this method, they are ours.

    Reference: Kwon et al., Adaptive Knowledge Distillation Based on Entropy, 2020, with the
    defaults of the CA-MKD comparison, without its second division by the number of mentors.
    """

    title = "EBKD"
    year = 2020

    def __init__(
        self,
        *,
        temperature: Temperature = 4.0,
        weight: Weight = 1.0,
        task_weight: Weight = 1.0,
        standardize: bool = False,
    ) -> None:
        def weigh(now: Standing) -> Tensor:
            return weight * complement(_entropy(now), normalize=_over_sum)

        super().__init__(temperature, weigh, task_weight, standardize=standardize)


@register_method("dgkd")
class DGKD(FromAll):
    r"""Densely guided: the teacher and all assistants teach, some left out at random each step.

    .. math:: L = \lambda CE + w \sum_{m \in S} \tau^2 KL(\sigma(z_m/\tau) \,\|\, \sigma(z_s/\tau))

    with ``S`` all mentors but ``drop`` of them, drawn anew for every batch. The mentors should be
    an assistant chain (`kd` from the teacher to each smaller assistant).

    Args:
        temperature: ``tau``.
        weight: ``w``, of each mentor's term.
        task_weight: ``lambda``; the public code has none by default (0).
        drop: how many mentors are left out; one always remains.
        standardize: compare z-scores of the logits (LSKD): options that are not given are then
            temperature 2 and 9 times the weight, as in `dkd`; for this method, they are ours.

    Reference: Son et al., Densely Guided Knowledge Distillation Using Multiple Teacher Assistants,
    2021. Divergences are averaged over samples, not also over classes as in the public code.
    """

    title = "DGKD"
    year = 2021
    kind = "assistants"

    def __init__(
        self,
        *,
        temperature: Temperature = 5.0,
        weight: Weight = 1.0,
        task_weight: Weight = 1.0,
        drop: Annotated[int, Field(ge=0)] = 1,
        standardize: bool = False,
    ) -> None:
        def choose(now: Standing) -> Tensor:
            count = len(now.mentor_divergence)
            place = torch.rand(count, device=now.mentor_divergence.device).argsort()
            kept = place >= min(drop, count - 1)
            return kept.view(-1, 1, 1).expand_as(now.mentor_divergence)

        super().__init__(temperature, weight, task_weight, standardize=standardize, choose=choose)


def complement(value: Tensor, normalize: Callable[[Tensor], Tensor]) -> Tensor:
    """Weights ``(1 - normalized) / (M - 1)`` over mentors ``[M, ...]``: the smaller, the more."""
    if len(value) == 1:
        return torch.ones_like(value)
    return (1 - normalize(value)) / (len(value) - 1)


def _over_sum(value: Tensor) -> Tensor:
    return value / value.sum(0).clamp_min(torch.finfo(value.dtype).tiny)


def _entropy(now: Standing) -> Tensor:
    """Entropy of the mentors' predictions in nats, averaged over units: ``[M, B, 1]``."""
    blocks = [torch.log_softmax(z.to(statistics_dtype(z)), -1) for z in now.mentors]
    entropy = torch.stack([-(p.exp() * p).sum(-1) for p in blocks]).sum(0)
    return entropy.mean(-1, keepdim=True)
