"""ShuffleNet, versions 1 (Zhang et al., CVPR 2018, arXiv:1707.01083) and 2 (Ma et al., ECCV 2018).

The second is arXiv:1807.11164. Both are the variants of the CRD benchmark, with a stem at full
size; neither draws its weights specially.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from classroomkd.models.cifar.layers import conv
from classroomkd.models.network import ActivatedBlock, Network
from classroomkd.models.registry import register_model


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Deal the channels of ``x [B, channels, H, W]`` out, one of each group in turn.

    The memory format stays as it is, in a single copy.

    Example:
        >>> channel_shuffle(torch.arange(6.0).view(1, 6, 1, 1), groups=2).flatten()
        tensor([0., 3., 1., 4., 2., 5.])
    """
    if x.is_contiguous(memory_format=torch.channels_last):
        dealt = x.permute(0, 2, 3, 1).unflatten(3, (groups, -1)).transpose(3, 4)
        return dealt.flatten(3).permute(0, 3, 1, 2)
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


def interleave(one: Tensor, other: Tensor) -> Tensor:
    """The channels of two maps in turn, ``channel_shuffle(cat([one, other], 1), 2)`` in one copy.

    Example:
        >>> one, other = torch.arange(6.0).view(1, 6, 1, 1).chunk(2, dim=1)
        >>> interleave(one, other).flatten()
        tensor([0., 3., 1., 4., 2., 5.])
    """
    if other.is_contiguous(memory_format=torch.channels_last):
        pair = [x.permute(0, 2, 3, 1) for x in (one, other)]
        return torch.stack(pair, dim=-1).flatten(3).permute(0, 3, 1, 2)
    return torch.stack([one, other], dim=2).flatten(1, 2)


class ShuffleBlockV1(ActivatedBlock):
    """Grouped 1x1, shuffle, depthwise 3x3, grouped 1x1; at stride 2 the input is appended."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, groups: int) -> None:
        super().__init__()
        new = out_channels - in_channels if stride == 2 else out_channels
        width = new // 4
        # The stem's 24 channels are too few to be worth grouping.
        self._groups = 1 if in_channels == 24 else groups
        self._stride = stride
        self.conv1 = conv(in_channels, width, 1, groups=self._groups)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3, stride, groups=width)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = conv(width, new, 1, groups=groups)
        self.bn3 = nn.BatchNorm2d(new)

    def preactivation(self, x: Tensor) -> Tensor:
        """Compute the block up to its last ReLU."""
        out = channel_shuffle(F.relu(self.bn1(self.conv1(x))), self._groups)
        out = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(out)))))
        if self._stride == 2:
            return torch.cat([out, F.avg_pool2d(x, 3, stride=2, padding=1)], dim=1)
        return out + x


@register_model("ShuffleNetV1", aliases=["ShuffleV1"])
class ShuffleNetV1(Network):
    """ShuffleNet with 3 groups: three stages of 4, 8 and 4 blocks.

    Args:
        num_classes: ``C``.
        **normalisation: ``mean`` and ``std``, see :class:`~classroomkd.models.Network`.

    Example:
        >>> sum(p.numel() for p in ShuffleNetV1(num_classes=100).parameters())
        949258
    """

    def __init__(self, num_classes: int, **normalisation: Any) -> None:
        super().__init__(num_classes, **normalisation)
        self.conv1 = conv(3, 24, 1)
        self.bn1 = nn.BatchNorm2d(24)
        self.layer1 = self._stage(24, 240, depth=4)
        self.layer2 = self._stage(240, 480, depth=8)
        self.layer3 = self._stage(480, 960, depth=4)
        self.classifier = nn.Linear(960, num_classes)

    @staticmethod
    def _stage(in_channels: int, out_channels: int, depth: int) -> nn.Sequential:
        first = ShuffleBlockV1(in_channels, out_channels, stride=2, groups=3)
        rest = (ShuffleBlockV1(out_channels, out_channels, 1, groups=3) for _ in range(depth - 1))
        return nn.Sequential(first, *rest)

    def stem(self, x: Tensor) -> Tensor:
        """Turn normalised images into the first feature map, at full size."""
        return F.relu(self.bn1(self.conv1(x)))

    def stages(self) -> tuple[nn.Module, ...]:
        """List the three stages."""
        return self.layer1, self.layer2, self.layer3


class ShuffleBlockV2(ActivatedBlock):
    """Half of the channels pass, the other half go through 1x1, depthwise 3x3, 1x1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = conv(half, half, 1)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = conv(half, half, 3, groups=half)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = conv(half, half, 1)
        self.bn3 = nn.BatchNorm2d(half)

    def preactivation(self, x: Tensor) -> Tensor:
        """Compute the block up to its last ReLU.

        The half that passes was activated by the block before, so a second ReLU leaves it alone.
        """
        kept, out = x.chunk(2, dim=1)
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(out)))))
        return interleave(kept, self.bn3(self.conv3(out)))


class ShuffleDownV2(ActivatedBlock):
    """Halve the size: both branches see all channels, and each makes half of the output."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        half = out_channels // 2
        self.conv1 = conv(in_channels, in_channels, 3, stride=2, groups=in_channels)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv2 = conv(in_channels, half, 1)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = conv(in_channels, half, 1)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = conv(half, half, 3, stride=2, groups=half)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = conv(half, half, 1)
        self.bn5 = nn.BatchNorm2d(half)

    def preactivation(self, x: Tensor) -> Tensor:
        """Compute the block up to its last ReLU."""
        left = self.bn2(self.conv2(self.bn1(self.conv1(x))))
        right = self.bn4(self.conv4(F.relu(self.bn3(self.conv3(x)))))
        return interleave(left, self.bn5(self.conv5(right)))


@register_model("ShuffleNetV2", aliases=["ShuffleV2"])
class ShuffleNetV2(Network):
    """ShuffleNetV2 at size 1: three stages of 116, 232 and 464 channels, pooled at 1024.

    Args:
        num_classes: ``C``.
        **normalisation: ``mean`` and ``std``, see :class:`~classroomkd.models.Network`.

    Example:
        >>> sum(p.numel() for p in ShuffleNetV2(num_classes=100).parameters())
        1355528
    """

    def __init__(self, num_classes: int, **normalisation: Any) -> None:
        super().__init__(num_classes, **normalisation)
        self.conv1 = conv(3, 24, 1)
        self.bn1 = nn.BatchNorm2d(24)
        self.layer1 = self._stage(24, 116, depth=3)
        self.layer2 = self._stage(116, 232, depth=7)
        self.layer3 = self._stage(232, 464, depth=3)
        self.conv2 = conv(464, 1024, 1)
        self.bn2 = nn.BatchNorm2d(1024)
        self.classifier = nn.Linear(1024, num_classes)

    @staticmethod
    def _stage(in_channels: int, channels: int, depth: int) -> nn.Sequential:
        blocks = (ShuffleBlockV2(channels) for _ in range(depth))
        return nn.Sequential(ShuffleDownV2(in_channels, channels), *blocks)

    def stem(self, x: Tensor) -> Tensor:
        """Turn normalised images into the first feature map, at full size."""
        return F.relu(self.bn1(self.conv1(x)))

    def stages(self) -> tuple[nn.Module, ...]:
        """List the three stages."""
        return self.layer1, self.layer2, self.layer3

    def head(self, x: Tensor) -> Tensor:
        """Widen the last map to 1024 channels."""
        return F.relu(self.bn2(self.conv2(x)))
