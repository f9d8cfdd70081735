"""Maxima of rows and maps, finer than their bins.

Around the largest bin the logarithm of the values is taken for a parabola, which it is for a
gaussian: one Newton step leads to the summit. ``reach`` is how many bins apart the values lie that
the parabola is laid through; at a border it is laid through those next to it.

Shapes: ``...`` any leading axes, ``K`` bins.

Reference: Zhang et al., Distribution-Aware Coordinate Representation (DARK), CVPR 2020,
arXiv:1910.06278; here without its blur.
"""

import torch
from torch import Tensor

_FLOOR = 1e-4  # of the peak: what noise around zero is taken for
_FLAT = -1e-6


def row_peak(values: Tensor, reach: int = 1, *, log: bool = False) -> tuple[Tensor, Tensor]:
    """The summit of each row.

    Args:
        values: ``[..., K]``, at least ``2 * reach + 1`` bins.
        reach: see above.
        log: whether the values are logarithms already.

    Returns:
        Its place ``[...]`` in bins, at most 1 from the largest bin, and the largest value
        ``[...]``. Where no parabola opens downwards: a quarter bin towards the larger neighbour.

    Example:
        >>> place, peak = row_peak(torch.exp(-((torch.arange(9) - 3.3) ** 2) / 8))
        >>> round(float(place), 4)
        3.3
    """
    values = values.nan_to_num()
    peak, top = values.max(-1)
    centre = top.clamp(reach, values.shape[-1] - 1 - reach)
    offsets = torch.tensor((-reach, 0, reach), device=values.device)
    around = values.gather(-1, centre.unsqueeze(-1) + offsets)
    left, middle, right = _logarithm(around, peak.unsqueeze(-1), log).unbind(-1)
    slope, bend = (right - left) / 2, left - 2 * middle + right
    bent = bend < _FLAT
    step = -slope / bend.where(bent, 1) * reach
    quarter = _quarter(around[..., 2] - around[..., 0], centre == top)
    return torch.where(bent, _near(centre + step, top), top + quarter), peak


def map_peak(values: Tensor, reach: int = 1, *, log: bool = False) -> tuple[Tensor, Tensor]:
    """The summit of each map; see `row_peak`.

    Args:
        values: ``[..., Ky, Kx]``.
        reach: as in `row_peak`.
        log: as in `row_peak`.

    Returns:
        Its place ``[..., 2]`` in bins, x then y, and the largest value ``[...]``.
    """
    values = values.nan_to_num()
    rows, columns = values.shape[-2:]
    peak, top = values.flatten(-2).max(-1)
    top_x, top_y = top % columns, top // columns
    x, y = top_x.clamp(reach, columns - 1 - reach), top_y.clamp(reach, rows - 1 - reach)
    steps = torch.tensor((-reach, 0, reach), device=values.device)
    offsets = (steps.unsqueeze(-1) * columns + steps).flatten()
    around = values.flatten(-2).gather(-1, (y * columns + x).unsqueeze(-1) + offsets)
    step_x, step_y, bent = _newton(_logarithm(around, peak.unsqueeze(-1), log))
    quarter_x = _quarter(around[..., 5] - around[..., 3], x == top_x)
    quarter_y = _quarter(around[..., 7] - around[..., 1], y == top_y)
    best_x = torch.where(bent, _near(x + reach * step_x, top_x), top_x + quarter_x)
    best_y = torch.where(bent, _near(y + reach * step_y, top_y), top_y + quarter_y)
    return torch.stack((best_x, best_y), -1), peak


def _newton(patch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """From the middle of ``patch [..., 9]`` to its summit, in x and y, and whether it has one."""
    a, b, c, d, e, f, g, h, i = patch.unbind(-1)
    dx, dy = (f - d) / 2, (h - b) / 2
    dxx, dyy, dxy = d - 2 * e + f, b - 2 * e + h, (a - c - g + i) / 4
    det = dxx * dyy - dxy * dxy
    bent = (dxx < _FLAT) & (dyy < _FLAT) & (det > _FLAT**2)
    det = det.where(bent, 1)
    return (dxy * dy - dyy * dx) / det, (dxy * dx - dxx * dy) / det, bent


def _logarithm(values: Tensor, peak: Tensor, log: bool) -> Tensor:
    if log:
        return values - peak
    return (values / peak.clamp_min(1e-12)).clamp(_FLOOR, 1).log()


def _quarter(difference: Tensor, inside: Tensor) -> Tensor:
    return 0.25 * difference.sign() * inside


def _near(place: Tensor, top: Tensor) -> Tensor:
    return torch.maximum(torch.minimum(place, top + 1), top - 1)
