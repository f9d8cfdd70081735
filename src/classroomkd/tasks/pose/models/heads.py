"""Heads that turn a map of features into an opinion on each joint.

Shapes: ``B`` persons, ``U`` joints (units), ``C`` channels, ``h`` and ``w`` cells of the map, ``K``
bins.
"""

from collections.abc import Sequence
from math import log2

import torch
from torch import Tensor, nn

from classroomkd.core.signals import Blocks
from classroomkd.tasks.pose.models.codec import Codec, heatmap_codec, simcc_codec
from classroomkd.tasks.pose.models.grid import Grid

_CELLS = 6  # of the shorter side of a map: as many as RTMPose has, 256 x 192 at a stride of 32


class Head(nn.Module):
    """A head, with the codec of its outputs.

    Args:
        channels: ``C`` of the map it takes.
        stride: input pixels to a cell of that map.
        finer: the stride it works at: the map is enlarged to it by deconvolutions.
        width: their channels.

    Raises:
        ValueError: strides that doubling does not lead to.
    """

    codec: Codec

    def __init__(self, channels: int, stride: int, finer: int, width: int) -> None:
        super().__init__()
        steps = log2(stride / finer) if finer > 0 else -1
        if steps < 0 or steps != int(steps):
            raise ValueError(
                f"a map of stride {stride} does not lead to one of {finer} by doubling its size:"
                f" choose finer among {', '.join(map(str, halves(stride)))}"
            )
        layers = []
        for _ in range(int(steps)):
            layers.append(enlarge(channels, width))
            channels = width
        self.enlarge = nn.Sequential(*layers)
        self.channels = channels


class HeatmapHead(Head):
    """Deconvolutions and a 1x1 convolution: a map for each joint, ``([B, U, Ky, Kx],)``.

    Args:
        channels: ``C`` of the map it takes.
        stride: input pixels to a cell of that map.
        joints: ``U``.
        input_size: ``(H, W)`` of the network.
        width: channels of the deconvolutions.
        finer: input pixels to a bin.
        sigma: see `HeatmapCodec`.
        beta: see `HeatmapCodec`.

    Example:
        >>> head = HeatmapHead(32, 16, joints=5, input_size=(64, 48), width=8)
        >>> [tuple(block.shape) for block in head(torch.rand(2, 32, 4, 3))]
        [(2, 5, 16, 12)]

    Reference: Xiao et al., Simple Baselines for Human Pose Estimation, ECCV 2018, arXiv:1804.06208.
    """

    def __init__(
        self,
        channels: int,
        stride: int,
        joints: int,
        input_size: tuple[int, int],
        *,
        width: int = 256,
        finer: int = 4,
        sigma: float = 2.0,
        beta: float = 10.0,
    ) -> None:
        super().__init__(channels, stride, finer, width)
        self.codec = heatmap_codec(input_size, finer, sigma=sigma, beta=beta)
        self.joints = _to_joints(self.channels, joints)

    def forward(self, x: Tensor) -> Blocks:
        """Maps ``([B, U, Ky, Kx],)`` of features ``[B, C, h, w]``."""
        return (self.joints(self.enlarge(x)),)


class SimCCHead(Head):
    """A 1x1 convolution to a map for each joint, and of it a linear layer for each axis.

    The linear layers start as the marginals of the map, so that places need not be discovered.

    Args:
        channels: ``C`` of the map it takes.
        stride: input pixels to a cell of that map.
        joints: ``U``.
        input_size: ``(H, W)`` of the network.
        width: channels of the deconvolutions, if any.
        finer: input pixels to a cell that the linear layers see; if left out, the map is enlarged
            until its shorter side has 6 cells, or not at all.
        split: bins for a pixel.
        sigma: see `SimCCCodec`.
        beta: see `SimCCCodec`.

    Example:
        >>> head = SimCCHead(32, 16, joints=5, input_size=(64, 48), width=8)
        >>> [tuple(block.shape) for block in head(torch.rand(2, 32, 4, 3))]
        [(2, 5, 96), (2, 5, 128)]

    Reference: Li et al., SimCC, ECCV 2022, arXiv:2107.03332.
    """

    def __init__(
        self,
        channels: int,
        stride: int,
        joints: int,
        input_size: tuple[int, int],
        *,
        width: int = 256,
        finer: int | None = None,
        split: float = 2.0,
        sigma: Sequence[float] | None = None,
        beta: float = 10.0,
    ) -> None:
        height, wide = input_size
        if finer is None:
            enough = [step for step in halves(stride) if min(input_size) >= _CELLS * step]
            finer = max(enough, default=halves(stride)[-1])
        super().__init__(channels, stride, finer, width)
        self.codec = simcc_codec(input_size, split, sigma=sigma, beta=beta)
        self.joints = _to_joints(self.channels, joints)
        rows, columns = height // finer, wide // finer
        self.x = nn.Linear(rows * columns, self.codec.x.bins)
        self.y = nn.Linear(rows * columns, self.codec.y.bins)
        across = spread(columns, self.codec.x.bins).unsqueeze(1).expand(-1, rows, -1)
        down = spread(rows, self.codec.y.bins).unsqueeze(2).expand(-1, -1, columns)
        for layer, marginal in ((self.x, across), (self.y, down)):
            nn.init.zeros_(layer.bias)
            with torch.no_grad():
                layer.weight.copy_(marginal.flatten(1))

    def forward(self, x: Tensor) -> Blocks:
        """Rows ``([B, U, Kx], [B, U, Ky])`` of features ``[B, C, h, w]``."""
        maps = self.joints(self.enlarge(x)).flatten(2)
        return self.x(maps), self.y(maps)


def _to_joints(channels: int, joints: int) -> nn.Conv2d:
    layer = nn.Conv2d(channels, joints, 1)
    nn.init.normal_(layer.weight, std=0.001)
    nn.init.constant_(layer.get_parameter("bias"), 0)
    return layer


def spread(cells: int, bins: int) -> Tensor:
    """Weights ``[bins, cells]`` that interpolate a row of cells at bins of the same length.

    >>> spread(2, 4)
    tensor([[1.0000, 0.0000],
            [0.7500, 0.2500],
            [0.2500, 0.7500],
            [0.0000, 1.0000]])
    """
    places = Grid.over(cells, bins).places().clamp(0, cells - 1)
    return (1 - (places.unsqueeze(1) - torch.arange(cells)).abs()).clamp_min(0)


def halves(stride: int) -> list[int]:
    """A stride and what doubling the map's size makes of it.

    >>> halves(16), halves(14)
    ([16, 8, 4, 2, 1], [14, 7])
    """
    found = [stride]
    while found[-1] % 2 == 0:
        found.append(found[-1] // 2)
    return found


def enlarge(channels: int, width: int) -> nn.Sequential:
    """A deconvolution to twice the size, ``[B, channels, h, w] -> [B, width, 2h, 2w]``."""
    layer = nn.ConvTranspose2d(channels, width, 4, stride=2, padding=1, bias=False)
    nn.init.normal_(layer.weight, std=0.001)
    return nn.Sequential(layer, nn.BatchNorm2d(width), nn.ReLU(inplace=True))


HEADS: dict[str, type[HeatmapHead] | type[SimCCHead]] = {
    "heatmap": HeatmapHead,
    "simcc": SimCCHead,
}
