"""KDCL, of which no public code was found.

Shapes: ``K`` networks, the student and its mentors; ``B`` samples, ``C`` classes.
"""

from typing import Literal

import torch
from torch import Tensor

from classroomkd.core import Lesson, Signals
from classroomkd.core.divergence import cross_entropy
from classroomkd.methods.contrib.cohort import CohortMethod
from classroomkd.methods.options import Temperature, Weight
from classroomkd.methods.pairs import exact
from classroomkd.methods.registry import register_method


@register_method("kdcl")
class KDCL(CohortMethod):
    r"""Collaborative learning: every network learns from one ensemble of all, itself included.

    .. math:: L_k = CE_k + w \tau^2 KL(\sigma(z_e / \tau) \,\|\, \sigma(z_k / \tau))

    for the student and for each mentor that trains along. What the ensemble teaches is attributed
    to the mentors in equal parts.

    Args:
        ensemble: ``z_e``, of each sample. ``"minlogit"``: for each class the least logit over all
            networks, after each network's logit of the true class has been subtracted: no network
            is surer of the label. ``"naive"``: the logits of the network with the least
            cross-entropy.
        temperature: ``tau``.
        weight: ``w``.

    Reference: Guo et al., Online Knowledge Distillation via Collaborative Learning, CVPR 2020: its
    KDCL-MinLogit and KDCL-Naive. **Temperature and weight are unsure**: no public code of the
    authors was found.

    Deviations: all networks see the same view of a sample; in the paper each has a distorted view
    of its own. KDCL-Linear and KDCL-General, which fit the ensemble's weights, are not here.
    """

    title = "KDCL"
    year = 2020

    def __init__(
        self,
        *,
        ensemble: Literal["minlogit", "naive"] = "minlogit",
        temperature: Temperature = 3.0,
        weight: Weight = 1.0,
    ) -> None:
        super().__init__(temperature, weight)
        self.ensemble = {"minlogit": least_logits, "naive": best_logits}[ensemble]

    def lesson(self, signals: Signals) -> Lesson:
        """The cross-entropy, and the divergence from the ensemble."""
        student, *mentors = signals.outputs
        target = signals.label
        logits = torch.stack([exact(n.logits.detach()) for n in (student, *mentors)])
        term = self.imitation(student, self.soften(self.ensemble(logits, target)))
        task_loss = cross_entropy(student.logits, target)
        return self.ensemble_lesson(signals, task_loss, term)


def least_logits(logits: Tensor, target: Tensor) -> Tensor:
    """Of ``z - z[true class]``, the least over networks: ``[K, B, C] -> [B, C]``.

    The true class of a target of probabilities is the most probable one.

    Example:
        >>> least_logits(torch.tensor([[[1.0, 3.0]], [[2.0, 0.0]]]), torch.tensor([0]))
        tensor([[ 0., -2.]])
    """
    target = target.argmax(-1) if target.is_floating_point() else target
    place = target.view(1, -1, 1).expand(len(logits), -1, 1)
    return (logits - logits.gather(2, place)).amin(0)


def best_logits(logits: Tensor, target: Tensor) -> Tensor:
    """The logits of the network with the least cross-entropy: ``[K, B, C] -> [B, C]``.

    Example:
        >>> best_logits(torch.tensor([[[1.0, 3.0]], [[2.0, 0.0]]]), torch.tensor([0]))
        tensor([[2., 0.]])
    """
    best = cross_entropy(logits, target).argmin(0)
    return logits.gather(0, best.view(1, -1, 1).expand(1, *logits.shape[1:])).squeeze(0)
