"""Methods on logits from several mentors.

Shapes: ``M`` mentors, ``B`` samples. ``CE`` is the cross-entropy with the label.
"""

from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from classroomkd.core.divergence import statistics_dtype
from classroomkd.core.ensemble import mean_probabilities, shares
from classroomkd.core.filter import Scores, everyone, unit_weights
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
        each = partial(equal_parts, weight=weight) if reduction == "mean" else weight
        super().__init__(temperature, each, task_weight, standardize=standardize)


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
    defaults of the CA-MKD comparison. Its public code divides by ``M`` where ours divides by
    ``M - 1``, so that its weights add up to ``(M - 1) / M``: numbers of it belong to that weight.
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
        def weighting(scores: Scores) -> Tensor:
            return weight * entropy_weight(scores)

        super().__init__(temperature, weighting, task_weight, standardize=standardize)


@register_method("dgkd")
class DGKD(FromAll):
    r"""Densely guided: the teacher and all assistants teach, some left out at random each step.

    .. math:: L = \lambda CE + w \sum_{m \in S} \tau^2 KL(\sigma(z_m/\tau) \,\|\, \sigma(z_s/\tau))

    with ``S`` all mentors but ``drop`` of them, drawn anew for every batch. The mentors should be
    an assistant chain (`kd` from the teacher to each smaller assistant). A mentor whose logits for
    a sample are not finite does not teach that sample.

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
        def select(scores: Scores) -> Tensor:
            count = len(scores.valid)
            place = torch.rand(count, device=scores.valid.device).argsort()
            kept = place >= min(drop, count - 1)
            return kept.view(-1, 1, 1) & everyone(scores)

        super().__init__(temperature, weight, task_weight, standardize=standardize, select=select)


@register_method("meal")
class MEAL(FromAll):
    r"""The mean of the mentors' predictions in place of the label.

    .. math:: L = \lambda CE + w \tau^2 KL(\sigma(\log \bar p / \tau) \,\|\,
              \sigma(z_s / \tau)), \qquad \bar p = \frac{1}{M} \sum_m \sigma(z_m)

    Args:
        temperature: ``tau``.
        weight: ``w``, of the mentors' term.
        task_weight: ``lambda``, of the cross-entropy: none by default.
        standardize: compare z-scores of the logits (LSKD). It changes no other option: at
            temperature 1, what is learnt is about as strong with it.

    Reference: Shen and Savvides, MEAL V2, 2020: temperature 1 and no hard label. Its discriminator,
    which tells a student's logits from the mentors', is left out. The KL divergence is its
    cross-entropy less the mean prediction's own entropy, which is a constant to the student.
    """

    title = "MEAL V2"
    year = 2020

    def __init__(
        self,
        *,
        temperature: Temperature = 1.0,
        weight: Weight = 1.0,
        task_weight: Weight = 0.0,
        standardize: bool = False,
    ) -> None:
        super().__init__(
            temperature,
            unit_weights,
            task_weight,
            standardize=standardize,
            mean=mean_probabilities,
            total=weight,
        )


def entropy_weight(scores: Scores) -> Tensor:
    """EBKD's weights ``(1 - H_m / sum_k H_k) / (M - 1)``, from entropies: ``[M, B, G]``.

    A mentor that says nothing finite is not among the ``M``.
    """
    blocks = [torch.log_softmax(z.to(statistics_dtype(z)), -1) for z in scores.mentors]
    entropy = torch.stack([-(p.exp() * p).sum(-1) for p in blocks]).sum(0).mean(-1, keepdim=True)
    valid = everyone(scores)
    others = valid.sum(0) - 1
    share = shares(torch.where(valid, entropy, 0))
    return torch.where(valid, torch.where(others > 0, (1 - share) / others.clamp_min(1), 1), 0)
