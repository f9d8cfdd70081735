"""Drawings of a suite: differences with their intervals, curves, cost and the search."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from classroomkd.report.answer import is_settled
from classroomkd.statistics import Sample, signed
from classroomkd.suite.comparison import Compared
from classroomkd.suite.search import SearchTrial
from classroomkd.svg import LIGHT, STYLE, to_svg

GREY = LIGHT[-1]
WIDTH = 4.2  # inches: text stays legible on a telephone, where drawings are as wide as the page
_LINE = 0.21  # inches from one run's line to the next


@dataclass(frozen=True)
class Curve:
    """A run's result on the development split over epochs.

    Attributes:
        run: its name.
        epochs: counted from 1.
        results: of the seeds that came so far, epoch by epoch.
    """

    run: str
    epochs: Sequence[int]
    results: Sequence[Sequence[float]]


def forest(reference: str, against: Mapping[str, Compared], prefix: str) -> str:
    """Each run's points over a reference: seeds, their mean and its 95 % interval."""
    order = sorted(against, key=lambda name: against[name].difference.mean)
    with matplotlib.rc_context(STYLE):
        figure, axes = _canvas(len(order))
        low, high = _window([against[name] for name in order])
        axes.set_xlim(low, high)
        axes.axvline(0, color=STYLE["text.color"], linewidth=0.8)
        for place, name in enumerate(order):
            _forest_line(axes, place, against[name])
        _name_lines(axes, order)
        axes.set_xlabel(f"points over {reference}, test, selected epoch")
        return to_svg(
            figure, prefix, f"Points over {reference}, with 95 % intervals: {_spoken(against)}"
        )


def _forest_line(axes: Axes, place: int, compared: Compared) -> None:
    difference = compared.difference
    hue = GREY if not is_settled(compared) else LIGHT[0 if difference.mean > 0 else 1]
    low, high = axes.get_xlim()
    if ends := difference.interval:
        axes.plot(
            [max(ends[0], low), min(ends[1], high)],
            [place, place],
            color=hue,
            linewidth=2,
            solid_capstyle="butt",
        )
        for end, limit, marker in ((ends[0], low, "<"), (ends[1], high, ">")):
            if (end < limit) if marker == "<" else (end > limit):
                axes.plot(limit, place, marker, color=hue, markersize=5, clip_on=False)
    if ends:
        seeds = difference.values
        marks = [place] * len(seeds)
        axes.plot(seeds, marks, "|", color=hue, markersize=6, markeredgewidth=0.8)
    filled = hue if ends else "none"
    axes.plot(
        difference.mean, place, "o", color=hue, markerfacecolor=filled, markersize=6, zorder=3
    )
    axes.annotate(
        signed(difference.mean),
        (1, place),
        xycoords=("axes fraction", "data"),
        xytext=(8, 0),
        textcoords="offset points",
        va="center",
    )


def _window(compared: Sequence[Compared]) -> tuple[float, float]:
    """Limits that show every seed and zero; intervals far beyond are cut, with an arrow."""
    points = [0.0, *(value for c in compared for value in c.difference.values)]
    margin = 0.5 * (max(points) - min(points)) or 1.0
    ends = [end for c in compared for end in c.difference.interval or ()]
    low = max(min(points) - margin, min([*ends, *points]))
    high = min(max(points) + margin, max([*ends, *points]))
    return low - 0.1 * margin, high + 0.1 * margin


def learning(curves: Sequence[Curve], shown: Sequence[str], title: str) -> str:
    """Means over seeds with bands of a standard deviation; `shown` in colour, with their names."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
        axes = figure.add_subplot()
        last: dict[str, tuple[float, float]] = {}
        for curve in sorted(curves, key=lambda curve: curve.run in shown):
            samples = [Sample(tuple(values)) for values in curve.results]
            means = [sample.mean or 0.0 for sample in samples]
            known = curve.run in shown
            hue = _hue(curve.run, shown) if known else GREY
            width, alpha = (1.7, 1.0) if known else (0.8, 0.5)
            marker = "o" if len(means) == 1 else None
            axes.plot(
                curve.epochs, means, color=hue, linewidth=width, alpha=alpha, marker=marker,
                markersize=4,
            )  # fmt: skip
            spreads = [sample.spread or 0.0 for sample in samples]
            if known and any(spreads):
                low, high = (
                    [mean + sign * spread for mean, spread in zip(means, spreads, strict=True)]
                    for sign in (-1, 1)
                )
                axes.fill_between(curve.epochs, low, high, color=hue, alpha=0.16, linewidth=0)
            if known and means:
                last[curve.run] = (curve.epochs[-1], means[-1])
        end = max(epoch for curve in curves for epoch in curve.epochs)
        _name_ends(axes, last, shown, end)
        axes.set_ylabel(title)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
        return to_svg(figure, "curves", f"{title} over epochs, in colour: {', '.join(last)}")


def cost(points: Mapping[str, tuple[Sample, Sample]], shown: Sequence[str], title: str) -> str:
    """Seconds of training against the result, a point for each run.

    Args:
        points: seconds and results over seeds, by run.
        shown: runs in colour and with their names.
        title: of the result.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
        axes = figure.add_subplot()
        places: dict[str, tuple[float, float]] = {}
        seconds = {run: own[0].mean or 0.0 for run, own in points.items()}
        unit, size = _unit(max(seconds.values()))
        for run, (_, result) in points.items():
            known = run in shown
            place = (seconds[run] / size, result.mean or 0.0)
            axes.errorbar(
                *place,
                yerr=result.spread if known else None,
                fmt="o",
                color=_hue(run, shown) if known else GREY,
                markersize=6 if known else 4,
                alpha=1.0 if known else 0.6,
                elinewidth=1,
            )
            if known:
                places[run] = place
        axes.margins(0.08)
        axes.set_xlim(left=0)
        _name_ends(axes, places, shown, axes.get_xlim()[1])
        axes.set_xlabel(f"{unit} of training, mean over seeds")
        axes.set_ylabel(title)
        return to_svg(figure, "cost", f"{title} by {unit} of training: {', '.join(points)}")


def tried(trials: Sequence[SearchTrial]) -> str:
    """What each run's search tried: a mark for each trial's result on the development split."""
    runs = list(dict.fromkeys(t.run for t in trials if t.dev is not None))
    best = {run: max(t.dev or 0.0 for t in trials if t.run == run) for run in runs}
    order = sorted(runs, key=lambda run: best[run])
    with matplotlib.rc_context(STYLE):
        figure, axes = _canvas(len(order))
        for trial in trials:
            if trial.dev is None:
                continue
            hue = LIGHT[(trial.rung - 1) % len(LIGHT)]
            filled = hue if trial.kept else "none"
            axes.plot(
                trial.dev, order.index(trial.run), "o", color=hue, markerfacecolor=filled,
                markersize=5,
            )  # fmt: skip
        _name_lines(axes, order)
        axes.set_xlabel("trials on the development split, %; filled: kept")
        return to_svg(figure, "search", f"Trials of {', '.join(reversed(order))}")


def _canvas(lines: int) -> tuple[Figure, Axes]:
    """A figure for a line a run, whose grid is vertical."""
    figure = Figure(figsize=(WIDTH, 0.65 + _LINE * lines), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(visible=False, axis="y")
    axes.grid(visible=True, axis="x")
    axes.spines["left"].set_visible(False)
    return figure, axes


def _name_lines(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), [_short(name) for name in names])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(-0.7, len(names) - 0.3)


def _name_ends(
    axes: Axes, places: Mapping[str, tuple[float, float]], shown: Sequence[str], end: float
) -> None:
    """Write names at the right, each as near to its place as the others leave room for."""
    if not places:
        return
    low, high = axes.get_ylim()
    step = (high - low) / 17  # about a line of text
    heights: dict[str, float] = {}
    for name in sorted(places, key=lambda name: places[name][1]):
        heights[name] = max(places[name][1], max(heights.values(), default=-math.inf) + step)
    # What was pushed over the top comes down, and pushes on what is below it.
    roof = high
    for name in reversed(list(heights)):
        heights[name] = min(heights[name], roof)
        roof = heights[name] - step
    axes.set_ylim(low, high)
    axes.set_xlim(axes.get_xlim()[0], end)
    for name, (x, y) in places.items():
        hue = _hue(name, shown)
        axes.annotate(
            _short(name),
            (x, y),
            xytext=(1.05, heights[name]),
            textcoords=axes.get_yaxis_transform(),
            color=hue,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": hue, "linewidth": 0.6, "alpha": 0.7,
                        "shrinkA": 1, "shrinkB": 3},
        )  # fmt: skip


def _hue(name: str, shown: Sequence[str]) -> str:
    return LIGHT[list(shown).index(name) % (len(LIGHT) - 1)]


def _unit(seconds: float) -> tuple[str, float]:
    units = (("hours", 3600.0), ("minutes", 60.0))
    return next((unit for unit in units if seconds >= 3 * unit[1]), ("seconds", 1.0))


def _spoken(against: Mapping[str, Compared]) -> str:
    return ", ".join(f"{name} {signed(c.difference.mean)}" for name, c in against.items())


def _short(name: str) -> str:
    """A name that leaves room for the drawing; tables have it in full."""
    return name if len(name) <= 24 else f"{name[:23]}…"
