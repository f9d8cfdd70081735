"""VGG with batch normalisation, from Simonyan and Zisserman (ICLR 2015, arXiv:1409.1556)."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from classroomkd.models.cifar.layers import init_convs
from classroomkd.models.network import ActivatedBlock, Network
from classroomkd.models.registry import register_model

# Number of convolutions in each of the five blocks.
CONVS = {
    "vgg8": (1, 1, 1, 1, 1),
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}
WIDTHS = (64, 128, 256, 512, 512)


class VGGBlock(ActivatedBlock, nn.Sequential):
    """3x3 convolutions, after halving the size where it exceeds ``pool_above`` pixels."""

    def __init__(self, in_channels: int, width: int, convs: int, pool_above: int | None) -> None:
        layers: list[nn.Module] = []
        for i in range(convs):
            layers += [nn.Conv2d(width if i else in_channels, width, 3, padding=1)]
            layers += [nn.BatchNorm2d(width), nn.ReLU()]
        super().__init__(*layers[:-1])
        self._pool_above = pool_above

    def preactivation(self, x: Tensor) -> Tensor:
        """Compute the block up to its last ReLU."""
        if self._pool_above is not None and min(x.shape[2:]) > self._pool_above:
            x = F.max_pool2d(x, 2)
        return nn.Sequential.forward(self, x)


class VGG(Network):
    """Five blocks of 3x3 convolutions at 32, 16, 8, 4 and 4 pixels, and one linear layer.

    The first block is the stem. The last one halves the size only where it exceeds 4 pixels, so
    images of 64x64 also end in a 4x4 map, and small images never shrink to nothing.

    Args:
        convs: number of convolutions in each block.
        num_classes: ``C``.
        **normalisation: ``mean`` and ``std``, see :class:`~classroomkd.models.Network`.

    Example:
        >>> network = VGG(convs=(1, 1, 1, 1, 1), num_classes=100)
        >>> sum(p.numel() for p in network.parameters())
        3965028
    """

    def __init__(self, convs: Sequence[int], num_classes: int, **normalisation: Any) -> None:
        super().__init__(num_classes, **normalisation)
        self.block0 = VGGBlock(3, WIDTHS[0], convs[0], pool_above=None)
        self.block1 = VGGBlock(WIDTHS[0], WIDTHS[1], convs[1], pool_above=1)
        self.block2 = VGGBlock(WIDTHS[1], WIDTHS[2], convs[2], pool_above=1)
        self.block3 = VGGBlock(WIDTHS[2], WIDTHS[3], convs[3], pool_above=1)
        self.block4 = VGGBlock(WIDTHS[3], WIDTHS[4], convs[4], pool_above=4)
        self.classifier = nn.Linear(WIDTHS[4], num_classes)
        init_convs(self)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def stem(self, x: Tensor) -> Tensor:
        """Turn normalised images into the first feature map, at full size."""
        return self.block0(x)

    def stages(self) -> tuple[nn.Module, ...]:
        """List the four stages after the stem."""
        return self.block1, self.block2, self.block3, self.block4


for _name, _convs in CONVS.items():
    register_model(_name)(partial(VGG, _convs))
