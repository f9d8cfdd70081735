"""MobileNetV2 at half width, from Sandler et al. (CVPR 2018, arXiv:1801.04381)."""

from typing import Any

from torch import Tensor, nn

from classroomkd.models.cifar.layers import conv, init_convs
from classroomkd.models.network import Network
from classroomkd.models.registry import register_model

# Expansion, channels, blocks and stride of each group of blocks, at full width.
GROUPS = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project; the output is linear (no activation)."""

    def __init__(self, in_channels: int, out_channels: int, expansion: int, stride: int) -> None:
        super().__init__()
        width = in_channels * expansion
        self.conv = nn.Sequential(
            *_conv_bn_relu(in_channels, width, 1),
            *_conv_bn_relu(width, width, 3, stride, groups=width),
            conv(width, out_channels, 1),
            nn.BatchNorm2d(out_channels),
        )
        self._residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block."""
        return x + self.conv(x) if self._residual else self.conv(x)


@register_model("MobileNetV2")
class MobileNetV2(Network):
    """The MobileNetV2 of the CRD benchmark: a stem of stride 2 and expansion 6.

    Its stages are the groups of blocks between changes of size; their features are linear, as
    bottlenecks of this family are.

    Args:
        num_classes: ``C``.
        width: factor of all widths but the 1280 channels that are pooled.
        **normalisation: ``mean`` and ``std``, see :class:`~classroomkd.models.Network`.

    Example:
        >>> sum(p.numel() for p in MobileNetV2(num_classes=100).parameters())
        812836
    """

    def __init__(self, num_classes: int, width: float = 0.5, **normalisation: Any) -> None:
        super().__init__(num_classes, **normalisation)
        channels = int(32 * width)
        self.conv1 = nn.Sequential(*_conv_bn_relu(3, channels, 3, stride=2))
        groups = []
        for expansion, full_width, depth, stride in GROUPS:
            out_channels = int(full_width * width)
            blocks = [InvertedResidual(channels, out_channels, expansion, stride)]
            for _ in range(depth - 1):
                blocks.append(InvertedResidual(out_channels, out_channels, expansion, 1))
            groups.append(nn.Sequential(*blocks))
            channels = out_channels
        self.blocks = nn.Sequential(*groups)
        self.conv2 = nn.Sequential(*_conv_bn_relu(channels, 1280, 1))
        self.classifier = nn.Linear(1280, num_classes)
        init_convs(self)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def stem(self, x: Tensor) -> Tensor:
        """Turn normalised images into the first feature map, at half size."""
        return self.conv1(x)

    def stages(self) -> tuple[nn.Module, ...]:
        """List the stages, one to each size."""
        return self.blocks[:2], self.blocks[2:3], self.blocks[3:5], self.blocks[5:]

    def head(self, x: Tensor) -> Tensor:
        """Widen the last map to 1280 channels."""
        return self.conv2(x)


def _conv_bn_relu(
    in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1
) -> tuple[nn.Module, ...]:
    convolution = conv(in_channels, out_channels, kernel_size, stride, groups)
    return convolution, nn.BatchNorm2d(out_channels), nn.ReLU()
