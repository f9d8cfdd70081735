"""Methods on feature maps before their last ReLU, from one teacher: AB, OFD.

Shapes: ``B`` samples, ``D`` channels, ``H`` and ``W`` pixels. A pair ``F_s`` and ``F_t`` are the
maps of a stage before the ReLU that ends it, ``[B, D_s, H, W]`` of the student and
``[B, D_t, H, W]`` of the teacher (where a stage is linear at its end, as in MobileNetV2, the stage
itself); where their sizes differ, the larger is average-pooled to the smaller. ``r`` is a connector
of each pair, a trained 1x1 convolution with batch normalisation. With ``n`` pairs from shallow to
deep, ``i = 1, ..., n``, pair ``i`` counts ``2^{i-n}``: the deepest once. Neither has a temperature.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from classroomkd.methods.base import Outputs
from classroomkd.methods.options import Count, Weight
from classroomkd.methods.pairs import FeatureMethod, Pairs, Regressor, same_size, stage_pairs
from classroomkd.methods.phases import PreparingMethod, Share
from classroomkd.methods.registry import register_method

Margin = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class PreactivationMethod(FeatureMethod):
    """A method that pairs stages before their last ReLU, with a connector to each pair."""

    needs_preactivations = True
    adapts = True

    def names(self, student: Outputs, mentor: Outputs) -> list[tuple[str, str]]:
        """The names of the pairs, shallow to deep; those given by hand are taken as they are."""
        if self.pairs is not None:
            return super().names(student, mentor)
        stages = stage_pairs(student.features, mentor.features, stem=False)
        pairs = [(f"{here}_preact", f"{there}_preact") for here, there in stages]
        for here, there in pairs:
            if here not in student.features or there not in mentor.features:
                raise ValueError(
                    f"{self.name} reads the stages before their last ReLU: give Outputs(logits,"
                    " features) with network.forward_stages(images, preactivations=True)"
                )
        return pairs


def halved(distances: Sequence[Tensor]) -> list[Tensor]:
    """The distances of the pairs at their weights: the deepest 1, each above it half as much."""
    return [distance / 2**above for above, distance in enumerate(reversed(distances))][::-1]


@register_method("ab")
class ActivationBoundaries(PreparingMethod, PreactivationMethod):
    r"""Activation boundaries: each unit should be on where the teacher's is, and off where it is.

    With ``m`` the margin and the sum over all elements of a map,

    .. math:: L_{AB} = w \frac{3}{1000} \sum_{i=1}^{n} 2^{i-n} \frac{1}{B} \sum_{bdhw}
              \max(0, m - \rho(F_t) \, r(F_s))^2, \qquad
              \rho(x) = 1 \text{ if } x > 0 \text{ else } -1

    It prepares the student: the first ``init_share`` of the epochs learn ``L_AB`` alone, in which
    the classifier stays as it is; all others the cross-entropy alone, in which no teacher takes
    part. Where nobody calls `begin_epoch`, the two are added in every step. As a second method of a
    `classroom`, ``L_AB`` ends at the same epoch, while the classroom's own loss is learnt
    throughout.

    Args:
        weight: ``w``.
        margin: ``m``.
        init_share: of the epochs for ``L_AB``, rounded up, one at least: a run of a single epoch
            learns no classification.
        init_epochs: for ``L_AB``, before the run's epochs and at its learning rate, in place of a
            share of them: 30 in the benchmark.
        pairs: (the student's, the teacher's) by hand, such as ``stage2_preact`` of both.

    Reference: Heo et al., Knowledge Transfer via Distillation of Activation Boundaries Formed by
    Hidden Neurons, AAAI 2019. Defaults are those of the CRD benchmark (RepDistiller): a share of
    0.125 is its 30 epochs of 240.

    Deviations: in the benchmark the 30 epochs come before the 240 (``init_epochs=30``); by default
    they are part of the run here, so that every method has as many epochs. The optimizer goes on
    from one phase to the next. Every pair has a connector; in the benchmark, only those whose
    shapes differ.
    """

    title = "AB"
    year = 2019
    scale = 3e-3

    def __init__(
        self,
        *,
        weight: Weight = 1.0,
        margin: Margin = 1.0,
        init_share: Share = 0.125,
        init_epochs: Count | None = None,
        pairs: Pairs | None = None,
    ) -> None:
        super().__init__(self.scale * weight, pairs, init_share=init_share, init_epochs=init_epochs)
        self.margin = margin

    def distances(self, maps: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
        """The distance of each pair at its weight: ``[B]``."""
        return halved(super().distances(maps))

    def distance(self, student: Tensor, mentor: Tensor, adapter: nn.Module | None = None) -> Tensor:
        """How far units are from the teacher's side of their boundary, squared, summed: ``[B]``."""
        here, there = same_size(student, mentor)
        assert adapter is not None
        side = torch.where(there > 0, 1.0, -1.0)
        return F.relu(self.margin - side * adapter(here)).square().sum((1, 2, 3))


class MarginReLU(nn.Module):
    """``max(x, m_d)``, with ``m_d`` the mean of all negative ``x`` that channel ``d`` was shown.

    Training shows it what passes through; before any negative value ``m_d`` is 0.

    Example:
        >>> relu = MarginReLU(1)
        >>> relu(torch.tensor([-3.0, -1.0, 2.0]).view(1, 1, 1, 3)).flatten()
        tensor([-2., -1.,  2.])
    """

    total: Tensor
    count: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(channels))
        self.register_buffer("count", torch.zeros(channels, dtype=torch.long))

    @property
    def margin(self) -> Tensor:
        """Of each channel: ``[D, 1, 1]``."""
        return (self.total / self.count.clamp_min(1)).view(-1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Remember ``x [B, D, H, W]`` in training, then bound it from below."""
        if self.training:
            with torch.no_grad():
                self.total += x.clamp_max(0).sum((0, 2, 3))
                self.count += (x < 0).sum((0, 2, 3))
        return torch.maximum(x, self.margin)


class MarginPair(nn.Module):
    """What a pair of OFD keeps: the student's connector and the teacher's margin ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.connector = Regressor(in_channels, out_channels)
        self.bound = MarginReLU(out_channels)

    def forward(self, student: Tensor, mentor: Tensor) -> Tensor:
        """The partial squared distance, summed over elements: ``[B]``."""
        here, there = self.connector(student), self.bound(mentor)
        counts = (here > there) | (there > 0)
        return ((here - there).square() * counts).sum((1, 2, 3))


@register_method("ofd")
class Overhaul(PreactivationMethod):
    r"""The overhaul of feature distillation: what a ReLU will cut off anyway need not be learnt.

    The target is the teacher's map bounded from below by a margin ``m_d < 0`` for each channel, the
    mean of the channel's negative values. Where it is not positive, the student may go below:

    .. math:: T = \max(F_t, m), \qquad
              L = CE + w \sum_{i=1}^{n} 2^{i-n} \frac{1}{B} \sum_{bdhw}
              [\, r(F_s) > T \text{ or } T > 0 \,] \, (r(F_s) - T)^2

    The sum is over all elements of a map, thousands of them: hence the small weight.

    Args:
        weight: ``w``.
        pairs: (the student's, the teacher's) by hand, such as ``stage2_preact`` of both.

    Reference: Heo et al., A Comprehensive Overhaul of Feature Distillation, ICCV 2019. Default of
    the CIFAR-100 benchmark (mdistiller).

    Deviations: the margins are the running means of the teacher's negative values in training, this
    step's included, as the paper defines them (over the training set); the authors' code has
    the mean of a Gaussian's negative part, from the scale and shift of the batch normalisation
    before the ReLU. They are taken at the size at which maps are compared.
    """

    title = "OFD"
    year = 2019

    def __init__(self, *, weight: Weight = 1e-3, pairs: Pairs | None = None) -> None:
        super().__init__(weight, pairs)

    def adapter(self, student: Tensor, mentor: Tensor) -> nn.Module:
        """Connector and margins of a pair."""
        return MarginPair(student.shape[1], mentor.shape[1])

    def distances(self, maps: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
        """The distance of each pair at its weight: ``[B]``."""
        return halved(super().distances(maps))

    def distance(self, student: Tensor, mentor: Tensor, adapter: nn.Module | None = None) -> Tensor:
        """Partial squared distance: ``[B]``."""
        assert adapter is not None
        return adapter(*same_size(student, mentor))
