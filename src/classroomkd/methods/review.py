"""A method on all feature maps at once, from one teacher: ReviewKD. Shapes as in `activations`."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from classroomkd.methods.activations import PreactivationMethod
from classroomkd.methods.base import Outputs
from classroomkd.methods.options import Weight
from classroomkd.methods.pairs import Pairs
from classroomkd.methods.registry import register_method


def conv_norm(in_channels: int, out_channels: int, size: int) -> nn.Sequential:
    """A convolution that keeps the map's size, and batch normalisation."""
    conv = nn.Conv2d(in_channels, out_channels, size, padding=size // 2, bias=False)
    nn.init.kaiming_uniform_(conv.weight, a=1)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels))


def resize(feature: Tensor, size: torch.Size) -> Tensor:
    """A map at a size by its nearest pixels; the map itself where it has it."""
    return feature if feature.shape[2:] == size else F.interpolate(feature, size, mode="nearest")


class Fusion(nn.Module):
    """Attention-based fusion of a stage of the student with what was made of all deeper ones.

    Args:
        in_channels: of the student.
        width: of the maps that are handed on.
        out_channels: of the teacher.
        fuses: False for the deepest, to which nothing is handed on.
    """

    def __init__(self, in_channels: int, width: int, out_channels: int, *, fuses: bool) -> None:
        super().__init__()
        self.narrow = conv_norm(in_channels, width, 1)
        self.attend = nn.Conv2d(2 * width, 2, 1) if fuses else None
        self.predict = conv_norm(width, out_channels, 3)

    def forward(
        self, student: Tensor, deeper: Tensor | None, size: torch.Size
    ) -> tuple[Tensor, Tensor]:
        """Predict the teacher's map at its size, and hand on the fused one.

        Args:
            student: ``[B, D_s, H_s, W_s]``.
            deeper: what the deeper stage handed on, if it fuses.
            size: the teacher's ``(H_t, W_t)``.
        """
        fused = self.narrow(student)
        if self.attend is not None:
            assert deeper is not None
            deeper = resize(deeper, fused.shape[2:])
            attention = self.attend(torch.cat([fused, deeper], 1)).sigmoid()
            fused = fused * attention[:, :1] + deeper * attention[:, 1:]
        fused = resize(fused, size)
        return self.predict(fused), fused


def hierarchical_context(one: Tensor, other: Tensor) -> Tensor:
    """Mean squared differences of two maps at full size and pooled to 4, 2 and 1 pixels: ``[B]``.

    The weighted mean of those levels that are lower than the maps: each counts half of the one
    before.

    Example:
        >>> one, other = torch.zeros(1, 1, 2, 2), torch.tensor([[[[2.0, 0.0], [0.0, 2.0]]]])
        >>> hierarchical_context(one, other)  # (2 + 1/2 * 1) / (1 + 1/2)
        tensor([1.6667])
    """
    difference = one - other
    levels = [difference]
    levels += [F.adaptive_avg_pool2d(difference, n) for n in (4, 2, 1) if n < one.shape[2]]
    weights = [2.0**-step for step in range(len(levels))]
    errors = [w * v.square().mean((1, 2, 3)) for w, v in zip(weights, levels, strict=True)]
    return torch.stack(errors).sum(0) / sum(weights)


@register_method("reviewkd")
class ReviewKD(PreactivationMethod):
    r"""Knowledge review: deep stages of the student help its shallow ones to predict the teacher's.

    From the deepest pair (the pooled features, as maps of one pixel) up to the shallowest, a
    `Fusion` brings the student's map to a common width, mixes it with what the deeper one handed
    on, by an attention map for each of the two, and predicts the teacher's map:

    .. math:: x_i = z_i^1 \, c_i(F_s^i) + z_i^2 \, x_{i+1}, \qquad
              L = CE + w \sum_i HCL(p_i(x_i), F_t^i)

    with ``c_i`` a 1x1 and ``p_i`` a 3x3 convolution with batch normalisation, ``z_i`` the sigmoid
    of a 1x1 convolution of both maps, and ``HCL`` `hierarchical_context`. Maps are resized by their
    nearest pixels: ``x_{i+1}`` to the student's size, ``x_i`` to the teacher's. The common width is
    that of the student's pooled feature, 512 at most. As batch normalisation sees maps of one
    pixel, training needs two samples in a batch. The student's maps are those after the last ReLU
    of a stage, the teacher's those before it.

    It is the dearest method of this kind: from resnet32 to resnet8 it trains 114 thousand
    parameters beside the student's 84 thousand, and a step on one CPU core takes 3.4 times as long
    as that of `kd` (batch 64, 32 x 32 pixels).

    Args:
        weight: ``w``. The benchmark's: 0.6 for resnet56 to resnet20, 1 for resnet110 to resnet32, 8
            for ShuffleNetV2, 5 for most others.
        warmup_epochs: in which the teacher's weight rises linearly to its full size.
        preactivations: take the student's maps before the last ReLU, too, as the benchmark does on
            ImageNet.
        pairs: (the student's, the teacher's) by hand, shallow to deep, such as ``stage2`` and
            ``stage2_preact``; the pooled features are always paired.

    Reference: Chen et al., Distilling Knowledge via Knowledge Review, CVPR 2021. Defaults are those
    of the CIFAR-100 benchmark (mdistiller); the student's maps are so in the authors' code, too.

    Deviations: stages are paired by `pairs.stage_pairs`, and without the stems.
    """

    title = "ReviewKD"
    year = 2021

    def __init__(
        self,
        *,
        weight: Weight = 5.0,
        warmup_epochs: Weight = 20.0,
        preactivations: bool = False,
        pairs: Pairs | None = None,
    ) -> None:
        super().__init__(weight, pairs)
        self.preactivations = preactivations
        self.warmup_epochs = warmup_epochs
        self.ramp = 1.0

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Set the share of the weight: all of it after the warm-up."""
        self.ramp = min((epoch + 1) / self.warmup_epochs, 1.0) if self.warmup_epochs else 1.0

    def names(self, student: Outputs, mentor: Outputs) -> list[tuple[str, str]]:
        """The pairs of stages, then the pooled features."""
        pairs = super().names(student, mentor)
        if self.pairs is None and not self.preactivations:
            pairs = [(here.removesuffix("_preact"), there) for here, there in pairs]
        if "pooled" not in student.features or "pooled" not in mentor.features:
            raise ValueError(
                "reviewkd needs the feature 'pooled': give Outputs(logits, features) with the"
                " features of network.forward_stages(images, preactivations=True)"
            )
        return [*pairs, ("pooled", "pooled")]

    def maps(self, student: Outputs, mentor: Outputs) -> list[tuple[Tensor, Tensor]]:
        """The maps of the pairs, shallow to deep, the pooled features as maps of one pixel."""
        *maps, (here, there) = super().maps(student, mentor)
        return [*maps, (here[:, :, None, None], there[:, :, None, None])]

    def setup(self, student: Outputs, mentors: Sequence[Outputs]) -> None:
        """Build a fusion for each pair."""
        maps = self.maps(student, mentors[0])
        width = min(maps[-1][0].shape[1], 512)
        self.adapters = nn.ModuleList(
            Fusion(here.shape[1], width, there.shape[1], fuses=i < len(maps)).to(here.device)
            for i, (here, there) in enumerate(maps, start=1)
        )

    def term(
        self, student: Outputs, mentor: Outputs, target: Tensor, index: Tensor | None = None
    ) -> Tensor:
        """The differences of all pairs, at the weight of this moment of the warm-up: ``[B]``."""
        return self.ramp * super().term(student, mentor, target, index)

    def distances(self, maps: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
        """The difference of each pair, deep to shallow: ``[B]``."""
        if self.training and len(maps[0][0]) == 1:
            raise ValueError(
                "reviewkd trains with two samples in a batch at least: it normalises maps of one"
                " pixel over the batch"
            )
        distances, handed = [], None
        for (here, there), fusion in reversed(list(zip(maps, self.adapters, strict=True))):
            predicted, handed = fusion(here, handed, there.shape[2:])
            distances.append(hierarchical_context(predicted, there))
        return distances
