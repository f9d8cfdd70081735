"""Multi-level logit distillation, from two views of every sample.

Shapes: ``B`` samples, each in two views, so that a batch has ``2B`` rows: first all samples in the
weak view, then the same samples in the strong one. ``C`` classes.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from classroomkd.core.divergence import kl_divergence
from classroomkd.methods.base import Outputs, SingleMethod
from classroomkd.methods.options import Temperature, Weight
from classroomkd.methods.pairs import exact
from classroomkd.methods.registry import register_method

Temperatures = Annotated[tuple[Temperature, ...], Field(min_length=1)]


@register_method("mlld")
class MLLD(SingleMethod):
    r"""Multi-level logit distillation: of samples, of how samples relate, of how classes relate.

    .. math:: L = \lambda (CE_{weak} + CE_{strong}) + w \sum_{\tau} \Big[
              \tau^2 (KL_{weak} + KL_{strong})
              + \frac{1}{B} \| P_t P_t^\top - P_s P_s^\top \|_F^2
              + \frac{1}{C} \| P_t^\top P_t - P_s^\top P_s \|_F^2 \Big]

    ``P [B, C]`` are predictions on the weak view, softened by ``tau``; CE and KL are means over the
    samples of a view. Depends on the batch size. With views from the recipe (``data.augment`` and
    ``data.second``) every sample comes in both, so that a step has twice the images of its batch
    size, and costs twice the time.

    Args:
        weight: ``w``.
        task_weight: ``lambda``.
        temperatures: the ``tau``; the first is the base temperature of the public code.

    Reference: Jin et al., Multi-Level Logit Distillation, CVPR 2023; defaults of its public code
    (the comparison in the LSKD code has weight 9). Its schedule on CIFAR-100 is not the usual one:
    a rate of .025 for 240 epochs between networks of a family; 480 epochs for MobileNetV2 and for
    wrn_40_2 to ShuffleNetV1 (.0025 in an earlier version), and for resnet32x4 to the ShuffleNets
    960 (480 in an earlier version) at .01; all divided by 10 at 150, 180 and 210.

    Deviations: all temperatures count alike in all terms. In the public code the terms on the
    strong view take the weak view's logits at temperatures 2 and 6. Its masks (for samples and
    classes of which the teacher is less sure) multiply numbers that are means already, and so only
    halve the terms of the weak view; they are left out. **Unsure**: what the authors' numbers owe
    to those two, and to their own strong view: FixMatch's RandAugment of two operations, each at a
    strength drawn anew, and then a grey square of up to half the width. Ours is `randaugment`, at
    one strength; ``data.second: [crop, flip, randaugment, cutout]`` adds the square.
    """

    title = "MLLD"
    year = 2023
    views = 2

    def __init__(
        self,
        *,
        weight: Weight = 0.9,
        task_weight: Weight = 0.1,
        temperatures: Temperatures = (4.0, 3.0, 5.0, 2.0, 6.0),
    ) -> None:
        super().__init__()
        self.weight = weight
        self.task_weight = self.views * task_weight  # of a mean over both views, for their sum
        self.temperatures = temperatures

    def term(
        self, student: Outputs, mentor: Outputs, target: Tensor, index: Tensor | None = None
    ) -> Tensor:
        """The three levels at all temperatures, weighted: ``[]``."""
        if len(target) % 2:
            raise ValueError(
                f"{self.name} wants two views of each sample: a batch of all samples in one view,"
                f" then of the same in the other, not {len(target)} rows"
            )
        here, there = exact(student.logits), exact(mentor.logits.detach())
        return self.weight * torch.stack([levels(here, there, t) for t in self.temperatures]).sum()


def levels(student: Tensor, mentor: Tensor, temperature: float) -> Tensor:
    """The sum of the three levels at one temperature: ``[]``."""
    samples = temperature**2 * kl_divergence(student, mentor, temperature, temperature)
    weak = len(student) // 2
    here, there = (torch.softmax(z[:weak] / temperature, dim=1) for z in (student, mentor))
    batch = (there @ there.T - here @ here.T).square().sum() / weak
    classes = (there.T @ there - here.T @ here).square().sum() / here.shape[1]
    return 2 * samples.mean() + batch + classes
