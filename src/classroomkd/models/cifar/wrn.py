"""Wide residual networks, from Zagoruyko and Komodakis (BMVC 2016, arXiv:1605.07146)."""

from functools import partial
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn

from classroomkd.models.cifar.layers import conv, init_convs
from classroomkd.models.network import Network
from classroomkd.models.registry import register_model


class WideBlock(nn.Module):
    """A pre-activation block: normalise and activate before each of two 3x3 convolutions."""

    def __init__(self, in_channels: int, width: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = conv(in_channels, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3)
        # Named as in the checkpoints that users bring.
        self.convShortcut = conv(in_channels, width, 1, stride) if in_channels != width else None
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """Compute the residual sum, which the next block activates."""
        activated = F.relu(self.bn1(x))
        out = F.relu(self.bn2(self.conv1(activated)))
        out = F.dropout(out, self.dropout, self.training)
        # A shortcut that projects sees the activated input, one that does not the raw input.
        shortcut = x if self.convShortcut is None else self.convShortcut(activated)
        return self.conv2(out) + shortcut


class WideStage(nn.Module):
    """A stage of blocks, the first of which changes width and size."""

    def __init__(
        self, depth: int, in_channels: int, width: int, stride: int, dropout: float
    ) -> None:
        super().__init__()
        first = WideBlock(in_channels, width, stride, dropout)
        rest = (WideBlock(width, width, 1, dropout) for _ in range(depth - 1))
        self.layer = nn.Sequential(first, *rest)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the stage."""
        return self.layer(x)


class WideResNet(Network):
    """A wide ResNet of depth 6n + 4 with three stages of n pre-activation blocks.

    As in the CRD benchmark, the features ``stem`` and ``stage1`` to ``stage3`` are the maps that
    pass between stages, which in a pre-activation network are residual sums without a ReLU.

    Args:
        depth: 10, 16, 22, ...
        widen: factor of the widths 16, 32, 64.
        num_classes: ``C``.
        dropout: share of values dropped between the convolutions of a block.
        **normalisation: ``mean`` and ``std``, see :class:`~classroomkd.models.Network`.

    Example:
        >>> network = WideResNet(depth=16, widen=2, num_classes=100)
        >>> sum(p.numel() for p in network.parameters())
        703284
    """

    def __init__(
        self, depth: int, widen: int, num_classes: int, dropout: float = 0.0, **normalisation: Any
    ) -> None:
        super().__init__(num_classes, **normalisation)
        if depth < 10 or depth % 6 != 4:
            raise ValueError(f"depth must be 6n + 4, got {depth}")
        n, w1, w2, w3 = (depth - 4) // 6, 16 * widen, 32 * widen, 64 * widen
        self.conv1 = conv(3, 16, 3)
        self.block1 = WideStage(n, 16, w1, 1, dropout)
        self.block2 = WideStage(n, w1, w2, 2, dropout)
        self.block3 = WideStage(n, w2, w3, 2, dropout)
        self.bn1 = nn.BatchNorm2d(w3)
        self.classifier = nn.Linear(w3, num_classes)
        init_convs(self)
        nn.init.zeros_(self.classifier.bias)

    def stem(self, x: Tensor) -> Tensor:
        """Turn normalised images into the first feature map, at full size."""
        return self.conv1(x)

    def stages(self) -> tuple[WideStage, ...]:
        """List the three stages."""
        return self.block1, self.block2, self.block3

    def preactivation(self, number: int, stage: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        """The stage's residual sum as the next block normalises it, and the sum itself."""
        out = stage(x)
        blocks = [cast(WideBlock, following.layer[0]) for following in self.stages()[number:]]
        norm = blocks[0].bn1 if blocks else self.bn1
        # It is normalised again where it is used: the running statistics must not move twice.
        mean, var = (None, None) if norm.training else (norm.running_mean, norm.running_var)
        before = F.batch_norm(out, mean, var, norm.weight, norm.bias, norm.training, eps=norm.eps)
        return before, out

    def head(self, x: Tensor) -> Tensor:
        """Activate the residual sum of the last stage."""
        return F.relu(self.bn1(x))


for _depth, _widen in ((16, 1), (16, 2), (16, 8), (28, 10), (40, 1), (40, 2)):
    register_model(f"wrn_{_depth}_{_widen}")(partial(WideResNet, _depth, _widen))
