"""Where the bins of a pose head lie on its input.

Coordinates are in pixels with whole numbers at pixel centres: an input ``W`` wide spans
``[-0.5, W - 0.5]``. Shapes: ``K`` bins.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """Evenly spaced bins along one axis: bin ``b`` lies at ``offset + step * b``.

    Attributes:
        bins: ``K``.
        step: distance of neighbours, in input pixels.
        offset: where bin 0 lies, in input pixels.

    Raises:
        ValueError: without bins, or for a step that is not positive.

    Example:
        >>> Grid.over(64, bins=16)
        Grid(bins=16, step=4.0, offset=1.5)
        >>> Grid.corner_to_corner(64, bins=16)
        Grid(bins=16, step=4.2, offset=0.0)
    """

    bins: int
    step: float
    offset: float

    def __post_init__(self) -> None:
        if self.bins < 1 or not self.step > 0:
            raise ValueError(f"a grid needs at least 1 bin and a positive step, got {self}")

    @classmethod
    def over(cls, size: int, bins: int) -> "Grid":
        """Cut ``size`` pixels into equal bins, as strided convolutions do."""
        step = size / bins
        return cls(bins, step, (step - 1) / 2)

    @classmethod
    def corner_to_corner(cls, size: int, bins: int) -> "Grid":
        """First and last bin on the first and last pixel, as UDP heatmaps (ViTPose) have it.

        Reference: Huang et al., The Devil is in the Details, CVPR 2020, arXiv:1911.07524.
        """
        if bins < 2 or size < 2:
            raise ValueError(f"corners need 2 pixels and 2 bins, got {size} and {bins}")
        return cls(bins, (size - 1) / (bins - 1), 0.0)

    def places(self, device: torch.device | None = None) -> Tensor:
        """Coordinates ``[K]`` of the bins, in input pixels."""
        return self.to_pixels(torch.arange(self.bins, device=device, dtype=torch.float32))

    def to_bins(self, pixels: Tensor) -> Tensor:
        """Where input coordinates lie, counted in bins."""
        return (pixels - self.offset) / self.step

    def to_pixels(self, bins: Tensor) -> Tensor:
        """Input coordinates of (fractional) bins."""
        return self.offset + self.step * bins

    def within(self, size: int) -> "Grid":
        """The same bins in shares of the input: 0 is its left edge, 1 its right edge.

        >>> Grid.over(64, bins=16).within(64) == Grid.over(256, bins=16).within(256)
        True
        """
        # Rounded, so that grids that differ by floating point alone are equal.
        return Grid(self.bins, round(self.step / size, 9), round((self.offset + 0.5) / size, 9))

    def mirror(self, size: int) -> float:
        """The sum of a bin and its mirror image, in an input of ``size`` pixels.

        ``K - 1`` for grids that are symmetric in the input, which reversing the bins mirrors.

        >>> Grid.over(64, bins=16).mirror(64), Grid(bins=128, step=0.5, offset=0.0).mirror(64)
        (15.0, 126.0)
        """
        return round((size - 1 - 2 * self.offset) / self.step, 6)
