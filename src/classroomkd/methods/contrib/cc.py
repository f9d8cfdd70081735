"""Correlation congruence, in the paper's form, known from a re-implementation.

Shapes: ``B`` samples.
"""

from math import exp, factorial
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from classroomkd.methods.options import Weight
from classroomkd.methods.registry import register_method
from classroomkd.methods.relations import PooledRelation

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Order = Annotated[int, Field(ge=1, le=20)]


@register_method("cc")
class CorrelationCongruence(PooledRelation):
    r"""Correlation congruence: a Gaussian kernel of the samples, by its Taylor series.

    .. math:: K_{ij} = e^{-2\gamma} \sum_{p=0}^{P} \frac{(2\gamma)^p}{p!} (u_i \cdot u_j)^p
              \approx e^{-\gamma \|u_i - u_j\|^2}, \qquad
              L = CE + w \frac{1}{B^2} \| K_s - K_t \|_F^2

    ``u`` are pooled features scaled to length 1, for which the two sides of the series agree.

    Args:
        weight: ``w``.
        gamma: of the kernel.
        order: ``P``.

    Reference: Peng et al., Correlation Congruence for Knowledge Distillation, ICCV 2019: its kernel
    with gamma 0.4 and P 2. The loss and its weight are those of a public re-implementation
    (AberHu/Knowledge-Distillation-Zoo, for CIFAR-10), which has no embedding either: ``K`` is
    ``[B, B]`` whatever the widths. **Unsure**: what weight and which samples in a batch the paper
    itself takes; another re-implementation (torchdistill) has 0.003 on the root of this sum.

    Deviations: the numbers published for CC in the CRD benchmark come from another loss:
    `cc_benchmark`.
    """

    title = "CC"
    year = 2019

    def __init__(self, *, weight: Weight = 100.0, gamma: Positive = 0.4, order: Order = 2) -> None:
        super().__init__(weight)
        self.gamma = gamma
        self.order = order

    def relation(self, student: Tensor, mentor: Tensor) -> Tensor:
        """Mean squared difference of the kernels: ``[]``."""
        here, there = (gaussian(x, self.gamma, self.order) for x in (student, mentor))
        return (here - there).square().mean()


def gaussian(x: Tensor, gamma: float, order: int) -> Tensor:
    """The Gaussian kernel of features scaled to length 1, to an order: ``[B, B]``."""
    unit = F.normalize(x, dim=1)
    cosine = unit @ unit.T
    series = torch.ones_like(cosine)
    for p in range(1, order + 1):
        series = series + (2 * gamma) ** p / factorial(p) * cosine**p
    return exp(-2 * gamma) * series
