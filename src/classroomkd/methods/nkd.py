"""Normalised knowledge distillation of logits. Shapes as in `divergences`."""

from functools import partial

import torch.nn.functional as F
from torch import Tensor

from classroomkd.core import LogitPair
from classroomkd.core.divergence import statistics_dtype
from classroomkd.methods.composed import FromTeacher
from classroomkd.methods.options import Temperature, Weight
from classroomkd.methods.registry import register_method


@register_method("nkd")
class NKD(FromTeacher):
    r"""Normalised KD: the teacher's word on the true class, and on the others among themselves.

    .. math:: L = CE - p^t_y \log p^s_y
              - \gamma \tau^2 \sum_{c \ne y} \hat p^t_c \log \hat p^s_c

    ``p`` are the predictions, and ``p hat`` those over the classes other than ``y``, softened by
    ``tau``, which is not applied to the first term. Both are cross-entropies, which are not 0 where
    student and teacher agree. Of a target of probabilities, ``y`` is the most probable class.

    Args:
        gamma: weight of the last term.
        temperature: ``tau``.
        task_weight: of the cross-entropy.

    Reference: Yang et al., From Knowledge Distillation to Self-Knowledge Distillation: A Unified
    Approach with Normalized Loss and Customized Soft Labels, ICCV 2023. Defaults are the paper's
    for ImageNet; the authors' configuration for CIFAR-100 (ResNet-34 to ResNet-18) has ``gamma``
    3.5 and ``tau`` 3.
    """

    title = "NKD"
    year = 2023

    def __init__(
        self,
        *,
        gamma: Weight = 1.5,
        temperature: Temperature = 1.0,
        task_weight: Weight = 1.0,
    ) -> None:
        super().__init__(
            temperature,
            1.0,
            task_weight,
            divergence=partial(normalised_cross_entropy, gamma=gamma),
        )


def normalised_cross_entropy(pair: LogitPair, gamma: float) -> Tensor:
    """Cross-entropy of the true class, and ``gamma`` times that among the others.

    Without the factor ``tau**2``, by which the first is divided.
    """
    target = pair.label
    student, mentors = (z.to(statistics_dtype(z)) for z in (pair.student, pair.mentors))
    true = F.one_hot(target, student.shape[-1]).bool()
    of_truth = (student.log_softmax(-1) * true).sum(-1) * (mentors.softmax(-1) * true).sum(-1)
    # Finite, so that the hidden class adds 0 times a finite number.
    here, there = (
        (z / tau.unsqueeze(-1)).masked_fill(true, -1e30)
        for z, tau in ((student, pair.student_temperature), (mentors, pair.mentor_temperature))
    )
    among_others = (there.softmax(-1) * here.log_softmax(-1)).sum(-1)
    return -of_truth / pair.mentor_temperature.square() - gamma * among_others
