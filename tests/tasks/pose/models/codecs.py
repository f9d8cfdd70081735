"""Codecs of every kind of head and grid, for an input size (H, W)."""

import torch

from classroomkd.tasks.pose.models import Grid, HeatmapCodec, SimCCCodec, heatmap_codec, simcc_codec


def _udp(size, **options):
    height, width = size
    x, y = (Grid.corner_to_corner(side, side // 4) for side in (width, height))
    return HeatmapCodec(x, y, **options)


def _rtmpose(size, **options):
    height, width = size
    return SimCCCodec(Grid(2 * width, 0.5, 0.0), Grid(2 * height, 0.5, 0.0), **options)


def _logits(size):
    height, width = size
    x, y = Grid.over(width, 56), Grid.over(height, 56)
    return HeatmapCodec(x, y, sigma=1.0, beta=1.0, log=True)


CODECS = {
    "heatmap": heatmap_codec,
    "narrow": lambda size: heatmap_codec(size, sigma=1.0),
    "wide": lambda size: heatmap_codec(size, sigma=3.0),
    "stride2": lambda size: heatmap_codec(size, stride=2),
    "udp": _udp,
    "logits": _logits,
    "simcc": simcc_codec,
    "simcc1": lambda size: simcc_codec(size, split=1.0),
    "simcc6": lambda size: simcc_codec(size, sigma=(6.0, 6.0)),
    "rtmpose": _rtmpose,
}
SIZES = [(64, 64), (96, 72), (256, 192), (32, 48)]


def points_in(size, count=200, seed=0):
    """Points ``[1, count, 2]`` all over an input, its corners and centre among them."""
    height, width = size
    shares = torch.rand(1, count, 2, generator=torch.Generator().manual_seed(seed))
    shares[0, :5] = torch.tensor([[0, 0], [1, 0], [0, 1], [1, 1], [0.5, 0.5]])
    return shares * torch.tensor([width, height]) - 0.5
