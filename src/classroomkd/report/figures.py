"""Small line charts as SVG for inlining: what happened over the epochs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from classroomkd.report.read import RunRecord
from classroomkd.report.words import number
from classroomkd.svg import LIGHT, STYLE, to_svg
from classroomkd.tasks import result_title

DASHES = ((), (6, 2), (1.5, 1.5), (6, 1.5, 1.5, 1.5))


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
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        for line in lines:
            _draw(axes, line)
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
        _scale(axes, [v for line in lines for v in line.values if math.isfinite(v)], limits, log)
        names = ", ".join(line.label for line in lines)
        return to_svg(figure, prefix, f"{title} over epochs: {names}")


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
