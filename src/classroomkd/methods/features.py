"""Methods on feature maps from one teacher: FitNets, AT, NST, VID.

Shapes: ``B`` samples, ``D`` channels, ``H`` and ``W`` pixels, ``N = H W``. A pair ``F_s`` and
``F_t`` are maps ``[B, D_s, H, W]`` of the student and ``[B, D_t, H, W]`` of the teacher, found by
`pairs.stage_pairs` (without the stems, unless said otherwise); where their sizes differ, the larger
is average-pooled to the smaller. All add ``weight`` times their term to the cross-entropy, which
counts once, and sum over pairs; the term of a pair is a mean over samples. None has a temperature.
"""

from math import expm1, log
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from classroomkd.methods.base import Outputs
from classroomkd.methods.options import Count, Weight
from classroomkd.methods.pairs import FeatureMethod, Pairs, same_size
from classroomkd.methods.registry import register_method

Power = Annotated[float, Field(ge=1, allow_inf_nan=False)]
Variance = Annotated[float, Field(gt=1e-4, allow_inf_nan=False)]


@register_method("fitnets")
class FitNets(FeatureMethod):
    r"""Hints: a regressor predicts the teacher's map from the student's, at one stage.

    .. math:: L = CE + w \frac{1}{B D_t N} \| r(F_s) - F_t \|^2

    ``r`` is a 1x1 convolution with batch normalisation, trained along.

    Args:
        weight: ``w``.
        hint: which pair, counted from 1: the second stage as in the benchmark.
        pairs: (the student's, the teacher's) by hand, among which ``hint`` counts.

    Reference: Romero et al., FitNets: Hints for Thin Deep Nets, ICLR 2015. Defaults are those of
    the CIFAR-100 benchmark (mdistiller).

    Deviations: hint and task are learnt together, as in the benchmark; the paper trains up to the
    hint first and distils logits after. Maps of two sizes are pooled to the smaller (the benchmark
    has strided or transposed convolutions), and the regressor does not end in a ReLU, since not
    every teacher's map is positive.
    """

    title = "FitNets"
    year = 2015
    adapts = True

    def __init__(
        self, *, weight: Weight = 100.0, hint: Count = 2, pairs: Pairs | None = None
    ) -> None:
        super().__init__(weight, pairs)
        self.hint = hint

    def names(self, student: Outputs, mentor: Outputs) -> list[tuple[str, str]]:
        """The pair of the hint."""
        pairs = super().names(student, mentor)
        if self.hint > len(pairs):
            raise ValueError(f"hint: there are {len(pairs)} pairs of stages, got {self.hint}")
        return [pairs[self.hint - 1]]

    def distance(self, student: Tensor, mentor: Tensor, adapter: nn.Module | None = None) -> Tensor:
        """Mean squared error of the regressor's prediction: ``[B]``."""
        here, there = same_size(student, mentor)
        assert adapter is not None
        return (adapter(here) - there).square().mean((1, 2, 3))


@register_method("at")
class AttentionTransfer(FeatureMethod):
    r"""Attention transfer: where both look, as the channels' mean energy at each pixel.

    .. math:: A(F)_{n} = \frac{1}{D} \sum_d |F_{dn}|^p, \qquad
              L = CE + w \sum_{pairs} \frac{1}{B N}
              \Big\| \frac{A(F_s)}{\|A(F_s)\|_2} - \frac{A(F_t)}{\|A(F_t)\|_2} \Big\|^2

    Args:
        weight: ``w``.
        p: the power.
        pairs: (the student's, the teacher's) by hand.

    Reference: Zagoruyko and Komodakis, Paying More Attention to Attention, ICLR 2017. Defaults are
    those of the CIFAR-100 benchmark (mdistiller).

    Deviations: as in the authors' code, the squared distance is a mean over pixels; equation 2 of
    the paper has the plain distance, summed.
    """

    title = "AT"
    year = 2017

    def __init__(
        self, *, weight: Weight = 1000.0, p: Power = 2.0, pairs: Pairs | None = None
    ) -> None:
        super().__init__(weight, pairs)
        self.p = p

    def distance(self, student: Tensor, mentor: Tensor, adapter: nn.Module | None = None) -> Tensor:
        """Mean squared difference of the attention maps: ``[B]``."""
        here, there = (attention(f, self.p) for f in same_size(student, mentor))
        return (here - there).square().mean(1)


def attention(feature: Tensor, p: float) -> Tensor:
    """The attention of a map, of length 1: ``[B, N]``."""
    return F.normalize(feature.abs().pow(p).mean(1).flatten(1), dim=1)


@register_method("nst")
class NeuronSelectivity(FeatureMethod):
    r"""Neuron selectivity transfer: the channels' activation patterns, as two distributions.

    Each channel is a point ``f`` in ``R^N``, scaled to length 1. The two sets of points are
    compared by their squared maximum mean discrepancy with the kernel ``k(a, b) = (a . b)^2``:

    .. math:: L = CE + w \sum_{pairs} \frac{1}{B} \sum_b \Big[
              \frac{1}{D_t^2} \sum_{ij} k(f^t_i, f^t_j) + \frac{1}{D_s^2} \sum_{ij} k(f^s_i, f^s_j)
              - \frac{2}{D_s D_t} \sum_{ij} k(f^s_i, f^t_j) \Big]

    Args:
        weight: ``w``.
        pairs: (the student's, the teacher's) by hand.

    Reference: Huang and Wang, Like What You Like: Knowledge Distill via Neuron Selectivity
    Transfer, 2017: its polynomial kernel with d = 2, c = 0. Default of the CIFAR-100 benchmark
    (mdistiller). Deviations: all stages are paired, as in the benchmark.
    """

    title = "NST"
    year = 2017

    def __init__(self, *, weight: Weight = 50.0, pairs: Pairs | None = None) -> None:
        super().__init__(weight, pairs)

    def distance(self, student: Tensor, mentor: Tensor, adapter: nn.Module | None = None) -> Tensor:
        """Squared discrepancy of the two sets of channels: ``[B]``."""
        here, there = (F.normalize(f.flatten(2), dim=2) for f in same_size(student, mentor))
        return mean_kernel(there, there) + mean_kernel(here, here) - 2 * mean_kernel(here, there)


def mean_kernel(one: Tensor, other: Tensor) -> Tensor:
    """The mean of ``(a . b)^2`` over points a and b of two sets, ``[B, D, N]`` each: ``[B]``."""
    count = one.shape[1] * other.shape[1]
    if min(one.shape[1], other.shape[1]) > one.shape[2]:  # sum (a.b)^2 = <sum a a', sum b b'>
        products = (one.mT @ one) * (other.mT @ other)
    else:
        products = (one @ other.mT).square()
    return products.sum((1, 2)) / count


class Variational(nn.Module):
    """A Gaussian over the teacher's map: a mean from the student's, a variance for each channel.

    Args:
        in_channels: of the student.
        out_channels: of the teacher.
        variance: that each channel starts with.
    """

    floor = 1e-5

    def __init__(self, in_channels: int, out_channels: int, variance: float) -> None:
        super().__init__()
        width = out_channels
        self.mean = nn.Sequential(
            nn.Conv2d(in_channels, width, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(width, width, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(width, width, 1, bias=False),
        )
        start = variance - self.floor
        raw = start + log(-expm1(-start))  # softplus(raw) = start
        self.raw_variance = nn.Parameter(torch.full((width, 1, 1), raw))

    @property
    def variance(self) -> Tensor:
        """Of each channel: ``[D_t, 1, 1]``."""
        return F.softplus(self.raw_variance) + self.floor

    def forward(self, student: Tensor, mentor: Tensor) -> Tensor:
        """Negative log-likelihood of the teacher's map less a constant: ``[B]``."""
        variance = self.variance
        square = (self.mean(student) - mentor).square()
        return 0.5 * (square / variance + variance.log()).mean((1, 2, 3))


@register_method("vid")
class VID(FeatureMethod):
    r"""Variational information distillation: the teacher's map should be likely, given the student.

    .. math:: L = CE + w \sum_{pairs} \frac{1}{B D_t N} \sum_{bdn} \frac{1}{2} \Big[
              \frac{(\mu(F_s) - F_t)^2_{bdn}}{\sigma_d^2} + \log \sigma_d^2 \Big]

    ``mu`` is three 1x1 convolutions with ReLUs between, ``sigma_d^2 = softplus(a_d) + 1e-5``; both
    are trained. The term may be negative: it has no minimum at equal maps.

    Args:
        weight: ``w``.
        variance: initial ``sigma^2``.
        pairs: (the student's, the teacher's) by hand.

    Reference: Ahn et al., Variational Information Distillation for Knowledge Transfer, CVPR 2019.
    Defaults are those of the CRD benchmark (RepDistiller). Deviations: none known; mdistiller keeps
    the variances out of the optimizer.
    """

    title = "VID"
    year = 2019
    adapts = True

    def __init__(
        self, *, weight: Weight = 1.0, variance: Variance = 5.0, pairs: Pairs | None = None
    ) -> None:
        super().__init__(weight, pairs)
        self.initial = variance

    def adapter(self, student: Tensor, mentor: Tensor) -> nn.Module:
        """The Gaussian of a pair."""
        return Variational(student.shape[1], mentor.shape[1], self.initial)

    def distance(self, student: Tensor, mentor: Tensor, adapter: nn.Module | None = None) -> Tensor:
        """Negative log-likelihood of the teacher's map: ``[B]``."""
        assert adapter is not None
        return adapter(*same_size(student, mentor))
