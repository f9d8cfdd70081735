"""Correlation congruence, in the paper's form, whose usual weight is not known.

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
    with gamma 0.4 and P 2. **The weight is ours**: no published one fits this form. It brings the
    term to the size of PKT's and RKD's at the start of training (1 to 5, measured on digits).

    Deviations: the numbers published for CC in the CRD benchmark come from another loss, with
    weight 0.02: the products of neighbouring samples' absolute differences, in two trained linear
    embeddings of width 128, which both may shrink to nothing. Here the features are compared
    without embedding, since ``K`` is ``[B, B]`` whatever their widths.
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
