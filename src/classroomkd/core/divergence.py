"""Divergences between predictions: one value for each row of logits, no reduction over samples.

Shapes: ``...`` any leading axes (mentors, samples, units), ``K`` bins or classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def statistics_dtype(tensor: Tensor) -> torch.dtype:
    """Float32 for half-precision tensors, else the tensor's own type."""
    return torch.promote_types(tensor.dtype, torch.float32)


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    r"""Cross-entropy of target and prediction, ``-sum_k t_k log softmax(z)_k``.

    Args:
        logits: ``[..., K]``.
        target: class indices ``[...]`` (integer) or probabilities ``[..., K]`` (floating point);
            broadcast over leading axes.

    Returns:
        ``[...]``, in nats.

    Example:
        >>> cross_entropy(torch.zeros(1, 4), torch.tensor([2]))
        tensor([1.3863])
    """
    log_prob = F.log_softmax(logits, dim=-1, dtype=statistics_dtype(logits))
    if target.is_floating_point():
        return -(target * log_prob).sum(-1)
    index = target.expand(log_prob.shape[:-1]).unsqueeze(-1)
    return -log_prob.gather(-1, index).squeeze(-1)


def target_divergence(logits: Tensor, target: Tensor) -> Tensor:
    """KL divergence from the target distribution to the prediction: 0 for a perfect prediction.

    The negative log-likelihood for class indices; the cross-entropy less the target's own entropy
    for probabilities, so that label smoothing and mixup leave a perfect prediction at 0.

    Args:
        logits: ``[..., K]``.
        target: as in `cross_entropy`.

    Returns:
        ``[...]``, in nats, non-negative.

    Example:
        >>> soft = torch.tensor([[0.9, 0.1]])
        >>> target_divergence(soft.log(), soft).round(decimals=6)
        tensor([0.])
    """
    value = cross_entropy(logits, target)
    if target.is_floating_point():
        value = (value + torch.xlogy(target, target).sum(-1)).clamp_min(0)
    return value


def kl_divergence(
    student_logits: Tensor,
    mentor_logits: Tensor,
    student_temperature: Tensor | float = 1.0,
    mentor_temperature: Tensor | float = 1.0,
) -> Tensor:
    r"""KL from the mentor's softened prediction to the student's, without the usual ``tau**2``.

    .. math:: KL(\sigma(z_m / \tau_m) \,\|\, \sigma(z_s / \tau_s))

    Args:
        student_logits: ``[..., K]``.
        mentor_logits: ``[..., K]``, broadcast against the student's.
        student_temperature: a number, or ``[...]`` (one for each row).
        mentor_temperature: the same for the mentor.

    Returns:
        ``[...]``, in nats; exactly 0 where the softened logits are equal.

    Example:
        >>> z = torch.tensor([[1.0, 2.0, 3.0]])
        >>> kl_divergence(z, z, 4.0, 4.0)
        tensor([0.])

    Reference: Hinton et al., Distilling the Knowledge in a Neural Network, 2015.
    """
    student = F.log_softmax(_soften(student_logits, student_temperature), dim=-1)
    mentor = F.log_softmax(_soften(mentor_logits, mentor_temperature), dim=-1)
    return (mentor.exp() * (mentor - student)).sum(-1)


def _soften(logits: Tensor, temperature: Tensor | float) -> Tensor:
    if isinstance(temperature, Tensor):
        temperature = temperature.unsqueeze(-1)
    return logits.to(statistics_dtype(logits)) / temperature
