"""Pictures of poses as SVG for inlining: skeletons on images, who taught which joint, heatmaps.

Photographs lie inside the SVG as PNG; text and lines take their colours from the page, as those of
the charts do.

Shapes: ``N`` persons, ``U`` joints, ``M`` mentors. Points are ``[N, U, 2]``, x then y,
in pixels of the images, 0 at the centre of the leftmost pixel.
"""

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import matplotlib
import numpy as np
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from torch import Tensor

from classroomkd.svg import LIGHT, STYLE, to_svg
from classroomkd.tasks.pose.belief import JointHeatmaps

_TRUE, _GUESS = LIGHT[5], LIGHT[1]
_LONGEST = 192  # pixels of a photograph in the page
_PANEL = 1.5  # inches
_FULL_TINT = 0.6  # of a cell's colour at 100 %: the text on it stays readable


def skeletons(
    images: Tensor,
    predicted: Tensor,
    truth: Tensor,
    visible: Tensor,
    edges: Sequence[tuple[int, int]],
    prefix: str,
    *,
    titles: Sequence[str] = (),
    columns: int = 4,
) -> str:
    """Draw true and predicted skeletons over persons.

    Args:
        images: ``[N, 3, H, W]`` in [0, 1].
        predicted: ``[N, U, 2]``.
        truth: ``[N, U, 2]``.
        visible: ``[N, U]``, above 0 where the truth is labelled; other joints are not drawn of it.
        edges: pairs of joints to join, as of `JointSet`.
        prefix: begins every id; different for each picture of a page.
        titles: above each person.
        columns: persons in a row.

    Returns:
        An ``<svg>`` element.

    Raises:
        ValueError: if there is nobody to show.
    """
    count = len(images)
    if not count:
        raise ValueError("skeletons of nobody cannot be drawn")
    wide = min(columns, count)
    tall = math.ceil(count / wide)
    with _figure(wide * _width(images), tall * (_PANEL + 0.25 * bool(titles)) + 0.3) as figure:
        panels = list(figure.subplots(tall, wide, squeeze=False).flat)
        for axes in panels:
            axes.axis("off")
        for axes, title in zip(panels, titles, strict=False):
            axes.set_title(title, fontsize=8)
        for n, axes in enumerate(panels[:count]):
            _show(axes, images[n])
            _draw_skeleton(axes, truth[n], visible[n] > 0, edges, _TRUE, "-")
            _draw_skeleton(axes, predicted[n], predicted[n].isfinite().all(-1), edges, _GUESS, "--")
        handles = [
            Line2D([], [], color=_TRUE, linestyle="-", label="true"),
            Line2D([], [], color=_GUESS, linestyle="--", label="predicted"),
        ]
        figure.legend(handles=handles, loc="outside lower left", ncols=2, frameon=False)
        return to_svg(figure, prefix, f"true and predicted skeletons of {count} persons")


def who_taught(
    share: Tensor | np.ndarray | Sequence[Sequence[float]],
    mentors: Sequence[str],
    joints: Sequence[str],
    prefix: str,
) -> str:
    """Draw a table of how often each mentor taught each joint.

    Args:
        share: ``[M, U]`` in [0, 1] (see `classroomkd.tasks.pose.taught_joints`); nan where the
            mentor does not know the joint, or nobody had it labelled.
        mentors: ``M`` names.
        joints: ``U`` names.
        prefix: begins every id; different for each picture of a page.

    Returns:
        An ``<svg>`` element.

    Raises:
        ValueError: if the names do not go with the shares.
    """
    values = np.asarray(share, dtype=np.float64)
    if values.shape != (len(mentors), len(joints)):
        shape = (len(mentors), len(joints))
        raise ValueError(f"shares must be {shape} (mentors, joints), not {values.shape}")
    size = 1.6 + 0.42 * len(joints), 1.1 + 0.3 * len(mentors)
    with _figure(*size) as figure:
        axes = figure.add_subplot()
        axes.grid(False)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        for (row, column), value in np.ndenumerate(values):
            text = "–"
            if np.isfinite(value):
                text = f"{100 * value:.0f}"
                depth = _FULL_TINT * min(max(value, 0.0), 1.0)
                corner = (column - 0.5, row - 0.47)
                axes.add_patch(Rectangle(corner, 1, 0.94, facecolor=LIGHT[0], alpha=depth))
            axes.text(column, row, text, ha="center", va="center", fontsize=7.5)
        spoken = [joint.replace("_", " ") for joint in joints]
        axes.set_xticks(range(len(joints)), spoken, rotation=45, ha="right")
        axes.set_yticks(range(len(mentors)), mentors)
        axes.set_xlim(-0.5, len(joints) - 0.5)
        axes.set_ylim(len(mentors) - 0.5, -0.5)
        axes.set_title("Who taught which joint, % of the times it was labelled")
        return to_svg(figure, prefix, f"who taught which joint: {', '.join(mentors)}")


def heatmaps(
    image: Tensor,
    beliefs: Sequence[JointHeatmaps],
    joints: Sequence[int],
    names: Sequence[str],
    prefix: str,
    *,
    truth: Tensor | None = None,
    visible: Tensor | None = None,
) -> str:
    """Draw where networks believe the joints of one person to be: a row a network.

    Args:
        image: ``[3, H, W]`` in [0, 1], the crop that all networks saw.
        beliefs: the student's first, then the mentors'.
        joints: the places of those to show, a column each.
        names: of all ``U`` joints.
        prefix: begins every id; different for each picture of a page.
        truth: ``[U, 2]``, marked with a cross if given.
        visible: ``[U]``, above 0 where the truth is labelled; all if left out.

    Returns:
        An ``<svg>`` element.

    Raises:
        ValueError: if there is no network or no joint to show.
    """
    if not beliefs or not joints:
        raise ValueError("heatmaps need at least one network and one joint")
    height, width = image.shape[-2:]
    size = (_width(image[None]) * len(joints) + 1.0, _PANEL * len(beliefs) + 0.3)
    with _figure(*size) as figure:
        grid = figure.subplots(len(beliefs), len(joints), squeeze=False)
        for row, one in enumerate(beliefs):
            for axes, joint in zip(grid[row], joints, strict=True):
                _show(axes, image.mean(0, keepdim=True).expand(3, -1, -1))
                _tint(axes, one.maps[joint], one.edges(width, height))
                if truth is not None and (visible is None or visible[joint] > 0):
                    axes.plot(*truth[joint].tolist(), "x", color=_TRUE, markersize=5)
                axes.set_axis_on()
                axes.grid(False)
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set_visible(False)
                if row == 0:
                    axes.set_title(names[joint].replace("_", " "), fontsize=8)
            grid[row][0].set_ylabel(one.name, rotation=0, ha="right", va="center")
        shown = ", ".join(one.name for one in beliefs)
        return to_svg(figure, prefix, f"where joints are believed to be: {shown}")


@contextmanager
def _figure(width: float, height: float) -> Iterator[Figure]:
    """A figure in the style of the charts; names may hold any characters, ``$`` among them."""
    style = {**STYLE, "text.parse_math": False}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # the page's font has it
        yield Figure(figsize=(width, height), layout="constrained")


def _width(images: Tensor) -> float:
    """Of a panel, in inches."""
    height, width = images.shape[-2:]
    return _PANEL * min(max(width / height, 0.5), 2.0)


def _show(axes: Axes, image: Tensor) -> None:
    """A photograph, with the panel's coordinates in its pixels."""
    height, width = image.shape[-2:]
    shrink = _LONGEST / max(height, width)
    image = image.detach().float()
    if shrink < 1:
        small = max(round(height * shrink), 1), max(round(width * shrink), 1)
        image = F.interpolate(image[None], small, mode="bilinear", antialias=True)[0]
    pixels = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    axes.imshow(pixels, extent=extent, interpolation="none", aspect="equal")
    axes.set(xlim=extent[:2], ylim=extent[2:], autoscale_on=False)


def _tint(axes: Axes, values: np.ndarray, extent: tuple[float, float, float, float]) -> None:
    """A map in one colour, the more opaque the larger."""
    coloured = np.empty((*values.shape, 4))
    coloured[..., :3] = to_rgb(_GUESS)
    coloured[..., 3] = 0.85 * values
    axes.imshow(coloured, extent=extent, interpolation="none", aspect="equal")


def _draw_skeleton(
    axes: Axes,
    points: Tensor,
    known: Tensor,
    edges: Sequence[tuple[int, int]],
    color: str,
    dashes: Literal["-", "--"],
) -> None:
    """Joints that are known, and the edges between them."""
    x, y = points.detach().cpu().double().unbind(-1)
    for a, b in edges:
        if known[a] and known[b]:
            ends = [a, b]
            axes.plot(x[ends], y[ends], color=color, linestyle=dashes, linewidth=1.3)
    seen = known.cpu()
    axes.plot(x[seen], y[seen], "o", color=color, markersize=2.2)
