"""Methods whose temperature is learnt along with the student.

Shapes: ``B`` samples, ``C`` classes. ``CE`` is the cross-entropy, ``z_t`` the teacher's logits.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from classroomkd.core import Lesson, make_lesson
from classroomkd.core.divergence import cross_entropy, kl_divergence
from classroomkd.core.filter import standing
from classroomkd.core.inputs import parse
from classroomkd.core.lesson import without_ranks
from classroomkd.methods.base import Method, Outputs, register_method
from classroomkd.methods.logits import Temperature, Weight


@register_method("ctkd")
class CTKD(Method):
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
    listens = "one"

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

    def lesson(self, student: Outputs, mentors: Sequence[Outputs], target: Tensor) -> Lesson:
        """KD at the learnt temperature."""
        blocks, others, targets, _, _ = parse(student.logits, [mentors[0].logits], target)
        now = standing(blocks, others, targets)
        tau = 1 + self.temperature_range * torch.sigmoid(self.theta)
        tau = self.reversal * tau + (1 - self.reversal) * tau.detach()  # value tau, gradient turned
        taught = kl_divergence(
            blocks[0].unsqueeze(0), others[0], tau.view(1, 1, 1), tau.view(1, 1, 1)
        )
        task_loss = self.task_weight * cross_entropy(blocks[0], targets[0]).squeeze(-1)
        mentor_loss = self.weight * tau**2 * taught.squeeze(-1)
        weight = torch.full_like(now.mentor_divergence, self.weight)
        return without_ranks(
            make_lesson(now, task_loss, mentor_loss, weight=weight, temperature=tau.view(1, 1, 1))
        )
