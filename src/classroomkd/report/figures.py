"""Small line charts as SVG for inlining: deterministic, and in the colours of the page around them.

Text and lines take their colours from the page (``currentColor``, ``--grid`` and ``--line-0`` to
``--line-6``), so that one drawing serves light, dark and paper.
"""

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from classroomkd.report.read import RunRecord
from classroomkd.report.words import number
from classroomkd.tasks import result_title

LIGHT = ("#0072b2", "#d55e00", "#00805d", "#b8508b", "#a67400", "#2e8fcb", "#666666")
"""After Okabe and Ito: told apart with any colour vision; darkened to read on white."""
DARK = ("#56b4f0", "#f58a4b", "#2dc79b", "#e79cc8", "#f0b93a", "#a5d4f7", "#b0b0b0")
DASHES = ((), (6, 2), (1.5, 1.5), (6, 1.5, 1.5, 1.5))
_INK, _GRID = "#010203", "#040506"
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "classroomkd",
    "font.size": 9,
    "text.color": _INK,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _INK,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "xtick.color": _GRID,
    "ytick.color": _GRID,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "lines.scale_dashes": False,
    "path.simplify": True,
}


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Attributes:
        label: what the legend calls it.
        hue: its place in the palette.
        dash: its place among the dashes.
        epochs: counted from 1.
        values: nan where there is nothing to show: a gap.
    """

    label: str
    hue: int
    dash: int
    epochs: Sequence[float]
    values: Sequence[float]

    @property
    def color(self) -> str:
        """Its colour on white."""
        return LIGHT[self.hue % len(LIGHT)]

    @property
    def dashes(self) -> tuple[float, ...]:
        """Its dashes, in points."""
        return DASHES[self.dash % len(DASHES)]


def learning_curves(records: Sequence[RunRecord], looks: Sequence[tuple[int, int]]) -> list[str]:
    """Training loss and the result on the development split over epochs, a line a run.

    Args:
        records: the runs.
        looks: hue and dash of each.
    """
    charts = []
    headlines = dict.fromkeys(record.headline for record in records)
    results = [(f"dev_{name}", f"Development {result_title(name)}, %") for name in headlines]
    for key, title in (("loss", "Training loss"), *results):
        lines = [
            _line(record.label, look, record.metrics, key)
            for record, look in zip(records, looks, strict=True)
        ]
        if any(math.isfinite(value) for line in lines for value in line.values):
            charts.append(chart(lines, title, f"curves-{key}", size=(5.0, 2.7), log=key == "loss"))
    return charts


def mentor_charts(record: RunRecord, prefix: str, slots: dict[str, int]) -> list[str]:
    """Active share, gap, temperature and weight over epochs, a line a mentor.

    Args:
        record: a run with mentors.
        prefix: begins every id; different for each run of a page.
        slots: the mentors' places in the palette.
    """
    panels = (
        ("active_share", "Active share, %", 100.0, (0, 104)),
        ("gap", "Mean gap", 1.0, (0, None)),
        ("temperature", "Mean temperature", 1.0, (0, None)),
        ("weight", "Mean weight", 1.0, (0, None)),
    )
    return [
        chart(
            [
                _line(mentor, (slots[mentor], slots[mentor]), rows, key, scale)
                for mentor, rows in record.mentor_rows().items()
            ],
            title,
            f"{prefix}-{key.replace('_', '-')}",
            limits=limits,
        )
        for key, title, scale, limits in panels
    ]


def chart(
    lines: Sequence[Line],
    title: str,
    prefix: str,
    *,
    size: tuple[float, float] = (2.6, 2.0),
    limits: tuple[float, float | None] | None = None,
    log: bool = False,
) -> str:
    """Draw lines over epochs.

    Args:
        lines: at least one.
        title: above the chart, and its text for who cannot see it.
        prefix: begins every id.
        size: in inches.
        limits: of the vertical axis.
        log: whether that axis may be logarithmic; it is if values span more than a factor of 20.

    Returns:
        An ``<svg>`` element.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        for line in lines:
            _draw(axes, line)
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
        _scale(axes, [v for line in lines for v in line.values if math.isfinite(v)], limits, log)
        buffer = io.StringIO()
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    names = ", ".join(line.label for line in lines)
    return _inline(buffer.getvalue(), prefix, f"{title} over epochs: {names}")


def _line(
    label: str,
    look: tuple[int, int],
    rows: Sequence[dict[str, object]],
    key: str,
    scale: float = 1.0,
) -> Line:
    epochs = [number(row["epoch"]) + 1 for row in rows]
    return Line(label, *look, epochs, [scale * number(row.get(key)) for row in rows])


def _draw(axes: Axes, line: Line) -> None:
    style = (0, line.dashes) if line.dashes else "-"
    axes.plot(line.epochs, line.values, color=line.color, linestyle=style, linewidth=1.6)
    padded = [math.nan, *line.values, math.nan]
    alone = [
        (epoch, value)
        for epoch, before, value, after in zip(
            line.epochs, padded, padded[1:], padded[2:], strict=False
        )
        if math.isfinite(value) and not math.isfinite(before) and not math.isfinite(after)
    ]
    if alone:  # between gaps there is no line to see
        axes.plot(*zip(*alone, strict=True), "o", color=line.color, markersize=3.5)


def _scale(
    axes: Axes, values: Sequence[float], limits: tuple[float, float | None] | None, log: bool
) -> None:
    if limits is not None:
        axes.set_ylim(*limits)
    elif log and values and min(values) > 0 and max(values) > 20 * min(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    if not values:
        axes.text(0.5, 0.5, "nobody taught", transform=axes.transAxes, ha="center")


def _inline(svg: str, prefix: str, description: str) -> str:
    """Make a stand-alone SVG document an element of a page that has others."""
    svg = svg[svg.index("<svg") :]
    for part in (
        r"<metadata>.*?</metadata>",
        r"<style.*?</style>",
        r"<!--.*?-->",
        r"<defs>\s*</defs>",
    ):
        svg = re.sub(part, "", svg, flags=re.DOTALL)
    box = re.search(r'viewBox="[^"]*"', svg)
    opening = f'<svg role="img" aria-label="{escape(description)}" {box.group() if box else ""}>'
    body = svg[svg.index(">") + 1 :].replace("xlink:href", "href")
    body = re.sub(r'\b(id="|href="#|url\(#)', rf"\1{prefix}-", body)
    body = re.sub(r"<[^>]*>", lambda tag: _rounded(tag.group()), body)
    body = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", body)
    for color, name in ((_INK, "currentColor"), (_GRID, "var(--grid)")):
        body = body.replace(color, name)
    for slot, color in enumerate(LIGHT):
        body = body.replace(color, f"var(--line-{slot})")
    return re.sub(r"\s*\n\s*", "\n", opening + body).strip()


def _rounded(tag: str) -> str:
    """A tag with its coordinates to a hundredth of a point, a long line's to a tenth."""
    digits = 1 if len(tag) > 1500 else 2
    return re.sub(r"\d+\.\d{2,}", lambda found: f"{float(found.group()):.{digits}f}", tag)
