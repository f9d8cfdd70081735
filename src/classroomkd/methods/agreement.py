"""A method of several mentors that weighs them by where their gradients agree: AEKD.

Shapes: ``M`` mentors, ``B`` samples, ``C`` classes. ``CE`` is the cross-entropy with the label.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from classroomkd.core.divergence import statistics_dtype
from classroomkd.core.ensemble import shares
from classroomkd.core.filter import Scores, everyone
from classroomkd.methods.composed import FromAll
from classroomkd.methods.options import Temperature, Weight
from classroomkd.methods.registry import register_method

Share = Annotated[float, Field(gt=0, le=1)]


@register_method("aekd")
class AEKD(FromAll):
    r"""Agree to disagree: weights for which the mentors' gradients, put together, are shortest.

    .. math:: L = \lambda CE + w \sum_m a_m \tau^2 KL(\sigma(z_m/\tau) \,\|\, \sigma(z_s/\tau)),
              \qquad a = argmin_{\sum a = 1, \; 0 \le a_m \le C}
              \frac{1}{2} \Big\| \sum_m a_m g_m \Big\|^2

    with ``g_m [B C]`` the gradient of mentor ``m``'s KL with respect to the student's logits, up to
    a factor ``softmax(z_s/tau) - softmax(z_m/tau)`` on every sample. Without the cap the step would
    descend on all mentors' losses at once, and stop where they disagree; the smaller ``C``, the
    nearer to AVER. The weights are one number a mentor for the whole batch, and add up to 1.

    A mentor whose logits for a sample are not finite does not teach it: ``g_m`` is of its other
    samples (as long as if there were ``B`` of them), the weights of the others are divided by their
    sum there, and a mentor that says nothing finite about the whole batch has no weight at all.

    Args:
        temperature: ``tau``.
        weight: ``w``, of the mentors' terms together.
        task_weight: ``lambda``, of the cross-entropy.
        tolerance: ``C``, what one mentor may weigh at most; at least ``1/M`` is allowed.
        batch_mean: take the mean of each mentor's gradients over the batch, ``g_m [C]``, as the
            public code does, instead of the gradients of all samples side by side. Mentors that
            pull several samples apart then seem to agree, and weights are farther from equal.

    Reference: Du et al., Agree to Disagree: Adaptive Ensemble Knowledge Distillation in Gradient
    Space, NeurIPS 2020, with ``C`` of its public code, which solves the same problem as a one-class
    SVM with ``nu = 1/(C M)``; temperature and weights are those of `aver` (public code: 0.9 for
    ``w``).

    Deviations: the gradients of all samples count, side by side (see ``batch_mean``). The problem
    is solved to the end whatever its size. The solver of the public code is told a tolerance of
    1e-6, which is more than the entries of its matrix (6e-7 in a batch of 64 with a student that
    is half trained), and so returns where it began: 0.6, 0.4, 0, ... in the order of the mentors.
    Published AEKD is mostly that. This is the logit part; the feature part is not included.
    """

    title = "AEKD"
    year = 2020

    def __init__(
        self,
        *,
        temperature: Temperature = 4.0,
        weight: Weight = 1.0,
        task_weight: Weight = 1.0,
        tolerance: Share = 0.6,
        batch_mean: bool = False,
    ) -> None:
        def weighting(scores: Scores) -> Tensor:
            valid = everyone(scores)
            gradients = logit_gradients(scores, temperature, batch_mean)
            agreed = agreement(gradients @ gradients.T, tolerance, valid.any(1).squeeze(1))
            return weight * shares(torch.where(valid, agreed.view(-1, 1, 1), 0))

        super().__init__(temperature, weighting, task_weight)


def logit_gradients(scores: Scores, temperature: float, batch_mean: bool = False) -> Tensor:
    """Directions in which mentors push the student's logits, of the samples that they speak about.

    Returns:
        ``[M, B C]``, the samples side by side, or their mean ``[M, C]``.
    """

    def soften(block: Tensor) -> Tensor:
        return torch.softmax(block.to(statistics_dtype(block)) / temperature, -1)

    valid = everyone(scores)
    gradients = torch.cat(
        [
            (soften(student) - soften(mentors)).flatten(2)
            for student, mentors in zip(scores.student, scores.mentors, strict=True)
        ],
        dim=2,
    )
    gradients = torch.where(valid, gradients, 0)
    share = valid.to(gradients.dtype).mean(1).clamp_min(1 / valid.shape[1])
    if batch_mean:
        return gradients.mean(1) / share
    return gradients.flatten(1) / share.sqrt()


def agreement(gram: Tensor, cap: float, allowed: Tensor | None = None) -> Tensor:
    r"""The least ``a' Q a`` for weights that sum to 1, each from 0 to a cap: ``[M]``.

    Sequential minimal optimisation from equal weights: in every round the pair of mentors gains
    most between which weight can be moved, and as much is moved as lowers the objective most. There
    are ``8 M`` rounds (errors below 1e-4 for 8 mentors), whatever the values, so that nothing is
    read back from the device.

    Args:
        gram: ``Q [M, M]``, the gradients' inner products.
        cap: of a weight; ``1/M`` if that is more, with ``M`` those that may have a weight.
        allowed: ``[M]`` (bool), who may have one; None for all.

    Example:
        >>> agreement(torch.tensor([[1.0, 0.0], [0.0, 3.0]]), cap=1.0)
        tensor([0.7500, 0.2500])
        >>> agreement(torch.tensor([[1.0, 0.0], [0.0, 3.0]]), cap=0.6)
        tensor([0.6000, 0.4000])
    """
    count = len(gram)
    if count == 0:
        return gram.new_zeros(0)
    if allowed is None:
        allowed = torch.ones(count, dtype=torch.bool, device=gram.device)
    weight = allowed / allowed.sum().clamp_min(1).to(gram.dtype)
    most = torch.where(allowed, weight.clamp_min(cap), 0)
    gram = gram / gram.diagonal().mean().clamp_min(torch.finfo(gram.dtype).tiny)
    size = gram.diagonal()
    curvature = (size.unsqueeze(1) + size - 2 * gram).clamp_min(1e-12)
    pair = torch.arange(count**2, device=gram.device).view(count, count)
    for _ in range(8 * count):
        gradient = gram @ weight
        slope = gradient.unsqueeze(1) - gradient  # of moving weight from the row to the column
        room = torch.minimum(weight.unsqueeze(1), most - weight)
        step = torch.minimum((slope / curvature).clamp_min(0), room)
        gain = step * (slope - step * curvature / 2)
        moved = torch.where(pair == gain.argmax(), step, 0)
        weight = weight + moved.sum(0) - moved.sum(1)
    return weight
