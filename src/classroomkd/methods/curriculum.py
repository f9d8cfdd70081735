"""Methods whose temperature is learnt along with the student.

Shapes: ``B`` samples, ``C`` classes. ``CE`` is the cross-entropy, ``z_t`` the teacher's logits.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from classroomkd.core import Lesson, Signals
from classroomkd.core.divergence import kl_divergence
from classroomkd.methods.base import Outputs, SingleMethod
from classroomkd.methods.options import Temperature, Weight
from classroomkd.methods.registry import register_method


@register_method("ctkd")
class CTKD(SingleMethod):
    r"""Curriculum temperature: one temperature, learnt against the student.

    .. math:: L = \lambda CE + w \tau^2 KL(\sigma(z_t/\tau) \| \sigma(z_s/\tau)), \quad
              \tau = 1 + 20 \sigma(\theta)

    ``theta`` (a parameter of the method, 1 at the start) climbs the loss that the student descends:
    its gradient is multiplied by a factor that falls from 0 to -1 along a cosine over the first
    ``ramp_epochs`` epochs.

    Args:
        weight: ``w``.
        task_weight: ``lambda``.
        temperature_range: ``20``, what the temperature can rise by.
        ramp_epochs: until the gradient is fully reversed.

    Reference: Li et al., Curriculum Temperature for Knowledge Distillation, 2023, the global
    variant; defaults of its public code.
    """

    title = "CTKD"
    year = 2023

    def __init__(
        self,
        *,
        weight: Weight = 0.9,
        task_weight: Weight = 0.1,
        temperature_range: Temperature = 20.0,
        ramp_epochs: Temperature = 10.0,
    ) -> None:
        super().__init__()
        self.weight, self.task_weight = weight, task_weight
        self.temperature_range, self.ramp_epochs = temperature_range, ramp_epochs
        self.theta = nn.Parameter(torch.tensor(1.0))
        self.reversal = -1.0

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Set how far the temperature's gradient is reversed."""
        progress = min((epoch + 1) / self.ramp_epochs, 1.0)
        self.reversal = -(1 - math.cos(math.pi * progress)) / 2

    def temperature(self) -> Tensor:
        """The temperature, ``[]``; its gradient with respect to ``theta`` is turned."""
        tau = 1 + self.temperature_range * torch.sigmoid(self.theta)
        return self.reversal * tau + (1 - self.reversal) * tau.detach()

    def term(
        self, student: Outputs, mentor: Outputs, target: Tensor, index: Tensor | None = None
    ) -> Tensor:
        """KD at the learnt temperature: ``[B]``."""
        tau = self.temperature()
        taught = kl_divergence(student.logits, mentor.logits.detach(), tau.view(1), tau.view(1))
        return self.weight * tau**2 * taught

    def lesson(self, signals: Signals) -> Lesson:
        """The cross-entropy and KD, with the learnt temperature."""
        lesson = super().lesson(signals)
        weight = torch.full_like(lesson.weight, self.weight)
        temperature = self.temperature().detach().expand_as(weight)
        return replace(lesson, weight=weight, temperature=temperature)
