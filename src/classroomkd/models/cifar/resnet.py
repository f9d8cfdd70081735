"""ResNets for 32x32 images: thin ones (resnet8 ...) and those of ImageNet's widths (ResNet18 ...).

Both from He et al., "Deep residual learning for image recognition" (CVPR 2016, arXiv:1512.03385).
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from classroomkd.models.cifar.layers import conv, init_convs
from classroomkd.models.network import ActivatedBlock, Network
from classroomkd.models.registry import register_model


class BasicBlock(ActivatedBlock):
    """Two 3x3 convolutions and a shortcut: ``[B, I, H, W] -> [B, width, H/stride, W/stride]``."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv(in_channels, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _downsample(in_channels, width, stride)

    def preactivation(self, x: Tensor) -> Tensor:
        """Add the shortcut to the two convolutions."""
        out = F.relu(self.bn1(self.conv1(x)))
        return self.bn2(self.conv2(out)) + self.downsample(x)


class Bottleneck(ActivatedBlock):
    """1x1, 3x3, 1x1 and a shortcut: ``[B, I, H, W] -> [B, 4 * width, H/stride, W/stride]``."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv(in_channels, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = conv(width, 4 * width, 1)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = _downsample(in_channels, 4 * width, stride)

    def preactivation(self, x: Tensor) -> Tensor:
        """Add the shortcut to the three convolutions."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        return self.bn3(self.conv3(out)) + self.downsample(x)


class ResNet(Network):
    """A 3x3 stem at full size, then stages of residual blocks, each but the first halving the size.

    Args:
        block: the kind of block.
        stem_width: channels of the stem.
        widths: width of each stage.
        depths: number of blocks in each stage.
        num_classes: ``C``.
        **normalisation: ``mean`` and ``std``, see :class:`~classroomkd.models.Network`.

    Example:
        >>> import torch
        >>> network = ResNet(BasicBlock, 8, widths=[8, 16], depths=[1, 1], num_classes=10)
        >>> network.stage_names
        ('stem', 'stage1', 'stage2', 'head', 'pooled')
        >>> network(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        stem_width: int,
        widths: Sequence[int],
        depths: Sequence[int],
        num_classes: int,
        **normalisation: Any,
    ) -> None:
        super().__init__(num_classes, **normalisation)
        self.conv1 = conv(3, stem_width, 3)
        self.bn1 = nn.BatchNorm2d(stem_width)
        channels = stem_width
        for i, (width, depth) in enumerate(zip(widths, depths, strict=True), start=1):
            blocks = []
            for j in range(depth):
                blocks.append(block(channels, width, stride=2 if i > 1 and j == 0 else 1))
                channels = width * block.expansion
            self.add_module(f"layer{i}", nn.Sequential(*blocks))
        self.classifier = nn.Linear(channels, num_classes)
        self._num_stages = len(widths)
        init_convs(self)

    def stem(self, x: Tensor) -> Tensor:
        """Turn normalised images into the first feature map, at full size."""
        return F.relu(self.bn1(self.conv1(x)))

    def stages(self) -> tuple[nn.Module, ...]:
        """List the stages."""
        return tuple(self.get_submodule(f"layer{i + 1}") for i in range(self._num_stages))


def thin_resnet(depth: int, num_classes: int, *, wide: bool = False, **options: Any) -> ResNet:
    """Build a CIFAR ResNet of depth 6n + 2 with three stages of n basic blocks.

    Args:
        depth: 8, 14, 20, ...
        num_classes: ``C``.
        wide: the x4 variant of the CRD benchmark: widths 64, 128, 256 (and a stem of 32) in place
            of 16, 32, 64 (and 16).
        **options: ``mean`` and ``std``.

    Example:
        >>> sum(p.numel() for p in thin_resnet(8, num_classes=100).parameters())
        83892
    """
    if depth < 8 or depth % 6 != 2:
        raise ValueError(f"depth must be 6n + 2, got {depth}")
    stem_width, widths = (32, (64, 128, 256)) if wide else (16, (16, 32, 64))
    return ResNet(BasicBlock, stem_width, widths, [(depth - 2) // 6] * 3, num_classes, **options)


def _downsample(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """Match the shortcut to the block's output; empty, hence the identity, where it does."""
    if stride == 1 and in_channels == out_channels:
        return nn.Sequential()
    return nn.Sequential(conv(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels))


for _depth in (8, 14, 20, 32, 44, 56, 110):
    register_model(f"resnet{_depth}")(partial(thin_resnet, _depth))
for _depth in (8, 32):
    register_model(f"resnet{_depth}x4")(partial(thin_resnet, _depth, wide=True))

_WIDTHS = (64, 128, 256, 512)
register_model("ResNet18")(partial(ResNet, BasicBlock, 64, _WIDTHS, (2, 2, 2, 2)))
register_model("ResNet34")(partial(ResNet, BasicBlock, 64, _WIDTHS, (3, 4, 6, 3)))
register_model("ResNet50")(partial(ResNet, Bottleneck, 64, _WIDTHS, (3, 4, 6, 3)))
