"""From points to what a pose network gives, and back.

A network's outputs, its codec and the target meet in one space: a gaussian with peak 1 around each
joint. ``beta`` times that are logits, so that every joint is a classification over bins.

Shapes: ``B`` persons, ``U`` joints (units), ``K`` bins. Points are ``[B, U, 2]``, x then y, in
pixels of the network's input (see :mod:`~classroomkd.tasks.pose.models.grid`).
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from classroomkd.core.signals import Blocks
from classroomkd.tasks.pose.models.grid import Grid
from classroomkd.tasks.pose.models.peaks import map_peak, row_peak


@dataclass(frozen=True)
class Codec(ABC):
    """What a kind of head says about points; see `HeatmapCodec` and `SimCCCodec`.

    Attributes:
        x: bins along the width.
        y: bins along the height.
        sigma: of the gaussian, in bins; of two for SimCC.
        beta: from outputs to logits.
    """

    x: Grid
    y: Grid
    sigma: Any
    beta: float

    def __post_init__(self) -> None:
        if min(self.x.bins, self.y.bins) < 3:
            raise ValueError(f"a pose needs 3 bins an axis, got {self.x.bins} and {self.y.bins}")
        if not self.beta > 0:
            raise ValueError(f"beta must be positive, got {self.beta}")
        if not all(sigma > 0 for sigma in _pair(self.sigma)):
            raise ValueError(f"sigma must be positive, got {self.sigma}")

    @abstractmethod
    def encode(self, points: Tensor) -> Blocks:
        """What a perfect network gives for points ``[B, U, 2]``.

        Points beyond the bins are taken for the nearest place within one bin of them; such that
        are not numbers for bin 0. Neither should have a weight.
        """

    @abstractmethod
    def logits(self, outputs: Blocks) -> Blocks:
        """``beta`` times the outputs, as blocks ``[B, U, K]``."""

    @abstractmethod
    def decode(self, outputs: Blocks) -> tuple[Tensor, Tensor]:
        """Points ``[B, U, 2]`` in float32, and how sure each is, ``[B, U]`` in [0, 1].

        Between bins by the parabola of the logarithm (see
        :mod:`~classroomkd.tasks.pose.models.peaks`): what was encoded is found again.
        """

    def target(self, points: Tensor) -> Blocks:
        """Probabilities ``[B, U, K]`` of each block: what logits are taught."""
        return tuple(block.softmax(-1) for block in self.logits(self.encode(points)))

    def _exponents(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Logarithms ``[B, U, Kx]`` and ``[B, U, Ky]`` of the gaussians along both axes."""
        sigma_x, sigma_y = _pair(self.sigma)
        return (
            _exponent(self.x, points[..., 0], sigma_x),
            _exponent(self.y, points[..., 1], sigma_y),
        )


@dataclass(frozen=True)
class HeatmapCodec(Codec):
    """One map for each joint: outputs ``([B, U, Ky, Kx],)``, logits of ``Ky * Kx`` bins.

    The gaussian is not rounded to bins. The confidence is the largest value of the map.

    Args:
        x: bins along the width.
        y: bins along the height.
        sigma: of the gaussian, in bins.
        beta: from outputs to logits.
        log: whether the network gives logarithms: logits of a softmax over the map. Then the
            confidence is the probability of the 3 x 3 bins around the largest.

    Example:
        >>> codec = heatmap_codec((64, 48))
        >>> points = torch.tensor([[[20.3, 41.8]]])
        >>> [tuple(block.shape) for block in codec.encode(points)]
        [(1, 1, 16, 12)]
        >>> codec.decode(codec.encode(points))[0].round(decimals=2)
        tensor([[[20.3000, 41.8000]]])
    """

    sigma: float = 2.0
    beta: float = 10.0
    log: bool = False

    def encode(self, points: Tensor) -> Blocks:
        """What a perfect network gives: ``([B, U, Ky, Kx],)``."""
        x, y = self._exponents(points)
        exponent = y.unsqueeze(-1) + x.unsqueeze(-2)
        return (exponent if self.log else exponent.exp(),)

    def logits(self, outputs: Blocks) -> Blocks:
        """``beta`` times the map, row by row: ``([B, U, Ky * Kx],)``."""
        (heat,) = outputs
        return (self.beta * heat.flatten(-2),)

    def decode(self, outputs: Blocks) -> tuple[Tensor, Tensor]:
        """Points ``[B, U, 2]`` and confidences ``[B, U]``."""
        (heat,) = outputs
        heat = heat.detach().float()
        bins, peak = map_peak(heat, _reach(self.sigma, self.x, self.y), log=self.log)
        points = torch.stack((self.x.to_pixels(bins[..., 0]), self.y.to_pixels(bins[..., 1])), -1)
        return points, (self._mass(heat) if self.log else peak).clamp(0, 1)

    def _mass(self, heat: Tensor) -> Tensor:
        """The probability of the 3 x 3 bins around the largest."""
        shape = heat.shape
        share = self.logits((heat.nan_to_num(),))[0].softmax(-1)
        top = share.argmax(-1, keepdim=True)
        box = torch.nn.functional.avg_pool2d(
            share.view(-1, 1, *shape[-2:]), 3, stride=1, padding=1, divisor_override=1
        )
        return box.view(share.shape).gather(-1, top).squeeze(-1)


@dataclass(frozen=True)
class SimCCCodec(Codec):
    """A row for each axis and joint: outputs and logits ``([B, U, Kx], [B, U, Ky])``.

    The confidence is the lesser of the largest values of both axes.

    Args:
        x: bins along the width.
        y: bins along the height.
        sigma: of the gaussians, in bins: along x and along y.
        beta: from outputs to logits.

    Example:
        >>> codec = simcc_codec((64, 48))
        >>> points = torch.tensor([[[20.3, 41.8]]])
        >>> [tuple(block.shape) for block in codec.encode(points)]
        [(1, 1, 96), (1, 1, 128)]
        >>> codec.decode(codec.encode(points))[0].round(decimals=2)
        tensor([[[20.3000, 41.8000]]])

    Reference: Li et al., SimCC, ECCV 2022, arXiv:2107.03332.
    """

    sigma: tuple[float, float] = (6.0, 6.0)
    beta: float = 10.0

    def encode(self, points: Tensor) -> Blocks:
        """What a perfect network gives: ``([B, U, Kx], [B, U, Ky])``."""
        x, y = self._exponents(points)
        return x.exp(), y.exp()

    def logits(self, outputs: Blocks) -> Blocks:
        """``beta`` times the rows."""
        x, y = outputs
        return self.beta * x, self.beta * y

    def decode(self, outputs: Blocks) -> tuple[Tensor, Tensor]:
        """Points ``[B, U, 2]`` and confidences ``[B, U]``."""
        places, peaks = [], []
        for grid, sigma, row in zip((self.x, self.y), self.sigma, outputs, strict=True):
            bins, peak = row_peak(row.detach().float(), _reach(sigma, grid))
            places.append(grid.to_pixels(bins))
            peaks.append(peak)
        return torch.stack(places, -1), torch.minimum(*peaks).clamp(0, 1)


def heatmap_codec(
    input_size: tuple[int, int], stride: int = 4, *, sigma: float = 2.0, beta: float = 10.0
) -> HeatmapCodec:
    """Maps of an input ``(H, W)`` with a bin for ``stride`` pixels."""
    height, width = input_size
    x, y = Grid.over(width, width // stride), Grid.over(height, height // stride)
    return HeatmapCodec(x, y, sigma, beta)


def simcc_codec(
    input_size: tuple[int, int],
    split: float = 2.0,
    *,
    sigma: Sequence[float] | None = None,
    beta: float = 10.0,
) -> SimCCCodec:
    """Rows of an input ``(H, W)`` with ``split`` bins for a pixel.

    Args:
        input_size: height and width.
        split: bins for a pixel.
        sigma: along x and y, in bins; as RTMPose if left out, the root of an eighth of the input's
            width and height (4.9 and 5.7 bins for 256 x 192).
        beta: from outputs to logits.
    """
    height, width = input_size
    x, y = Grid.over(width, round(split * width)), Grid.over(height, round(split * height))
    sigma_x, sigma_y = sigma or ((width / 8) ** 0.5, (height / 8) ** 0.5)
    return SimCCCodec(x, y, (sigma_x, sigma_y), beta)


def codec_to_dict(codec: Codec) -> dict[str, Any]:
    """A codec for JSON.

    >>> codec_to_dict(heatmap_codec((64, 48)))["x"]
    {'bins': 12, 'step': 4.0, 'offset': 1.5}
    """
    kind = next(name for name, cls in _KINDS.items() if isinstance(codec, cls))
    return {"kind": kind, **asdict(codec)}


def codec_from_dict(said: dict[str, Any]) -> Codec:
    """What `codec_to_dict` told of.

    Raises:
        ValueError: for a kind that is not known.

    >>> codec = simcc_codec((64, 48))
    >>> codec_from_dict(codec_to_dict(codec)) == codec
    True
    """
    said = dict(said)
    kind = said.pop("kind", None)
    if kind not in _KINDS:
        raise ValueError(f"unknown kind of codec '{kind}' (known: {', '.join(_KINDS)})")
    said.update(x=Grid(**said["x"]), y=Grid(**said["y"]))
    if isinstance(said["sigma"], list):
        said["sigma"] = tuple(said["sigma"])
    return _KINDS[kind](**said)


_KINDS: dict[str, type[HeatmapCodec] | type[SimCCCodec]] = {
    "heatmap": HeatmapCodec,
    "simcc": SimCCCodec,
}


def _pair(sigma: float | tuple[float, float]) -> tuple[float, float]:
    return sigma if isinstance(sigma, tuple) else (sigma, sigma)


def _exponent(grid: Grid, pixels: Tensor, sigma: float) -> Tensor:
    """``-d**2 / (2 sigma**2)`` with d the distance of each bin from a point, ``[..., K]``."""
    centre = grid.to_bins(pixels.float().nan_to_num(grid.offset)).clamp(-1, grid.bins)
    bins = torch.arange(grid.bins, device=pixels.device, dtype=torch.float32)
    return -0.5 * ((bins - centre.unsqueeze(-1)) / sigma) ** 2


def _reach(sigma: float, *grids: Grid) -> int:
    """Half a gaussian's width, as whole bins that fit."""
    return max(1, min(round(sigma / 2), *((grid.bins - 1) // 2 for grid in grids)))
