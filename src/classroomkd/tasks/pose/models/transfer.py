"""A mentor's opinion on the bins of its student: other heads, other resolutions, other grids.

Mentor and student look at the same crop, each at its own size, so that places are compared as
shares of the crop. Two steps lead from a mentor's bins to those of its student, along each axis:

* outputs are smooth, their probabilities often narrower than a bin: so it is logits that are
  interpolated, by cubic curves, at places about as far apart as the mentor's bins, one or more for
  each bin of the student;
* a place between two bins of the student shares out its probability by its distances from them:
  neither mass nor the mean place is lost where the student is coarser.

On the same bins nothing changes. Opinions stay as narrow as the mentor's are: where its gaussian is
not the student's, a perfect mentor is not the student's target.

Shapes: ``B`` persons, ``U`` joints (units), ``K`` bins, ``F`` places between them.
"""

from functools import lru_cache

import torch
from torch import Tensor

from classroomkd.core.signals import Blocks
from classroomkd.tasks.pose.models.codec import Codec, HeatmapCodec
from classroomkd.tasks.pose.models.grid import Grid

Size = tuple[int, int]


def to_codec(
    outputs: Blocks, mentor: Codec, mentor_size: Size, student: Codec, student_size: Size
) -> Blocks:
    """Say in the student's bins what a mentor gave in its own.

    Heatmaps become rows by their marginals along x and y; rows become heatmaps by their product,
    as if x and y were independent.

    Args:
        outputs: what the mentor's network gave.
        mentor: its codec.
        mentor_size: ``(H, W)`` of its input.
        student: the codec of the student.
        student_size: ``(H, W)`` of the student's input: the same crop.

    Returns:
        Logits, blocks of ``[B, U, K]``: the mentor's own where its bins are those of the student,
        else logarithms of probabilities, in float32.

    Example:
        >>> from classroomkd.tasks.pose.models.codec import heatmap_codec, simcc_codec
        >>> points = torch.tensor([[[100.0, 50.0]]])
        >>> mentor, student = heatmap_codec((256, 192)), simcc_codec((128, 96))
        >>> x, y = to_codec(mentor.encode(points), mentor, (256, 192), student, (128, 96))
        >>> student.x.to_pixels(x.argmax(-1)), student.y.to_pixels(y.argmax(-1))
        (tensor([[49.7500]]), tensor([[24.7500]]))
    """
    logits = mentor.logits(outputs)
    mine, its = _shares(mentor, mentor_size), _shares(student, student_size)
    maps = isinstance(mentor, HeatmapCodec), isinstance(student, HeatmapCodec)
    if mine == its and maps[0] == maps[1]:
        return logits
    with torch.autocast(logits[0].device.type, enabled=False):
        logits = tuple(block.float() for block in logits)
        if all(maps):
            heat = logits[0].unflatten(-1, (mentor.y.bins, mentor.x.bins))
            return (_rebin_map(heat, mine, its).flatten(-2),)
        if maps[0]:
            logits = _marginals(logits[0].unflatten(-1, (mentor.y.bins, mentor.x.bins)))
        x, y = (_rebin_row(row, a, b) for row, a, b in zip(logits, mine, its, strict=True))
        return ((y.unsqueeze(-1) + x.unsqueeze(-2)).flatten(-2),) if maps[1] else (x, y)


def _shares(codec: Codec, size: Size) -> tuple[Grid, Grid]:
    """The bins along x and y, in shares of the crop."""
    height, width = size
    return codec.x.within(width), codec.y.within(height)


def _marginals(heat: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithms ``[B, U, Kx]`` and ``[B, U, Ky]`` of the marginals of ``[B, U, Ky, Kx]``."""
    return heat.logsumexp(-2), heat.logsumexp(-1)


def _rebin_row(logits: Tensor, old: Grid, new: Grid) -> Tensor:
    """Log-probabilities ``[B, U, K]`` of the new bins."""
    device = logits.device
    places = (logits @ interpolation(old, new, device).mT).log_softmax(-1)
    if places.shape[-1] == new.bins:
        return places
    return _log(places.exp() @ shares(new, places.shape[-1], device).mT)


def _rebin_map(logits: Tensor, old: tuple[Grid, Grid], new: tuple[Grid, Grid]) -> Tensor:
    """Log-probabilities ``[B, U, Ky, Kx]`` of the new bins."""
    device, (x, y) = logits.device, new
    places = interpolation(old[1], y, device) @ logits @ interpolation(old[0], x, device).mT
    rows, columns = places.shape[-2:]
    places = places.flatten(-2).log_softmax(-1).view(places.shape)
    if (rows, columns) == (y.bins, x.bins):
        return places
    return _log(shares(y, rows, device) @ places.exp() @ shares(x, columns, device).mT)


def _log(probability: Tensor) -> Tensor:
    return probability.clamp_min(1e-20).log()


@lru_cache(maxsize=128)
def interpolation(old: Grid, new: Grid, device: torch.device) -> Tensor:
    """Weights ``[F, K]`` of the old bins at places that share out the new ones.

    Every new bin has as many places around its middle as old bins fit into it. Weights are those of
    cubic curves (Catmull-Rom) and sum to 1 at each place; places beyond the outermost old bins are
    taken for these.

    >>> grid = Grid(bins=3, step=1.0, offset=0.0)
    >>> interpolation(grid, grid, torch.device("cpu")).equal(torch.eye(3))
    True
    """
    with torch.inference_mode(False):  # it is kept, and may be used in training later
        place = old.to_bins(new.to_pixels(_places(new, max(1, round(new.step / old.step)))))
        place = place.clamp(0, old.bins - 1)
        place = torch.where((place - place.round()).abs() < 1e-5, place.round(), place)
        before = place.floor()
        t = place - before
        curves = (
            (-t + 2 * t**2 - t**3) / 2,
            (2 - 5 * t**2 + 3 * t**3) / 2,
            (t + 4 * t**2 - 3 * t**3) / 2,
            (-(t**2) + t**3) / 2,
        )
        weights = torch.zeros(len(place), old.bins, dtype=torch.float64)
        for shift, weight in enumerate(curves, start=-1):
            column = (before + shift).clamp(0, old.bins - 1).long()
            weights.scatter_add_(1, column.unsqueeze(1), weight.unsqueeze(1))
        return weights.float().to(device)


@lru_cache(maxsize=128)
def shares(new: Grid, places: int, device: torch.device) -> Tensor:
    """Weights ``[K, F]`` of places on the new bins next to them: each column sums to 1.

    >>> shares(Grid(bins=2, step=1.0, offset=0.0), 4, torch.device("cpu"))
    tensor([[1.0000, 0.7500, 0.2500, 0.0000],
            [0.0000, 0.2500, 0.7500, 1.0000]])
    """
    with torch.inference_mode(False):
        place = _places(new, places // new.bins).clamp(0, new.bins - 1)
        bins = torch.arange(new.bins, dtype=torch.float64)
        return (1 - (bins.unsqueeze(1) - place).abs()).clamp_min(0).float().to(device)


def _places(grid: Grid, each: int) -> Tensor:
    """Where ``each`` places in every bin lie, counted in bins, ``[F]``."""
    return (torch.arange(grid.bins * each, dtype=torch.float64) + 0.5) / each - 0.5
