"""One self-contained HTML file about a suite: which run is best, how sure that is, at what cost.

It is made from the suite's records and, where run folders are still there, from their curves.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from markupsafe import Markup

from classroomkd.config.suite import Suite, run_folder
from classroomkd.engine.runs import RunFolder
from classroomkd.report import suite_figures as figures
from classroomkd.report.answer import answer, is_settled, remarks
from classroomkd.report.table import DASH
from classroomkd.report.template import fill, replace_page
from classroomkd.report.words import number
from classroomkd.statistics import Sample, interval_text, signed
from classroomkd.suite.comparison import Compared, Row, compare
from classroomkd.suite.records import kept_records, run_records, trials_or_kept
from classroomkd.suite.search import SearchTrial
from classroomkd.tasks import result_title

SHOWN = 3
"""So many of the best runs are drawn in colour, beside the references."""


@dataclass(frozen=True)
class ComparedRow:
    """A run in the tables, see `Row`.

    Attributes:
        seeds: of each seed the selected epoch's development result, the last's and the selected's
            on the test set; empty if some seed lacks one.
        against: points, interval and p as text, and whether they are settled, by reference.
    """

    run: str
    method: str
    is_baseline: bool
    best: bool
    count: int
    dev: Sample
    last: Sample
    chosen: Sample
    seeds: dict[int, list[float]]
    against: dict[str, tuple[str, str, str, bool]]


@dataclass(frozen=True)
class Share:
    """What a mentor did in a run, mean over seeds.

    Attributes:
        first: share of samples that it taught in the first epoch, in percent.
        last: in the last.
        weight: mean over the samples that it taught in the last epoch.
        part: of the weight of all mentors over all samples of the last epoch, in percent.
    """

    first: float
    last: float
    weight: float
    part: float


@dataclass(frozen=True)
class Tried:
    """A rung of a run's search.

    Attributes:
        run: its name.
        rung: such as ``6 of 5 epochs``.
        trials: options, result as text, and whether it was kept.
    """

    run: str
    rung: str
    trials: list[tuple[str, str, bool]]


def write_suite_report(
    suite: Suite,
    out: Path,
    path: Path | None = None,
    *,
    command: str = "",
    failures: Mapping[str, str] | None = None,
) -> Path:
    """Write the page of a suite, finished or not.

    Args:
        suite: checked.
        out: the folder of its runs and records.
        path: the HTML file; ``report.html`` in `out` if left out.
        command: that trains the suite, for the page.
        failures: why runs failed, by the name of their folder.

    Returns:
        The file.

    Raises:
        ClassroomError: if a run's files cannot be read, or the page cannot be written.
    """
    path = path or out / "report.html"
    replace_page(path, render(suite, out, command=command, failures=failures or {}))
    return path


def render(suite: Suite, out: Path, *, command: str, failures: Mapping[str, str]) -> str:
    """The page as text."""
    rows, trials = compare(suite, out), trials_or_kept(suite, out)
    records = [*run_records(suite, out), *kept_records(suite, out).values()]
    against = _by_reference(rows, suite.baseline)
    shown = _shown(rows, against)
    names = {row.result for row in rows if row.result}
    title = result_title(names.pop()) if len(names) == 1 else "result"
    planned = [(name, seed) for name in suite.runs for seed in suite.seeds_of(name)]
    shares = _shares(suite, out, rows)
    return fill(
        "suite.html.j2",
        suite=suite,
        answer=answer(rows, suite.baseline),
        remarks=remarks(rows, suite.baseline),
        finished=sum(len(row.seeds) for row in rows),
        planned=len(planned),
        missing=[row.run for row in rows if not row.seeds],
        failures=failures,
        result=title,
        forests=[
            Markup(figures.forest(name, own, f"forest{n}"))
            for n, (name, own) in enumerate(against.items())
        ],
        references=list(against),
        seeds=sorted({seed for row in rows for seed in row.seeds}),
        lines=[_line(suite, row) for row in sorted(rows, key=_descending)],
        curves=_curves(suite, out, rows, shown),
        shares=shares,
        mentors=_distinct(mentor for own in shares.values() for mentor in own),
        cost=_cost(rows, records, shown, f"test {title}, selected epoch, %"),
        tried=_tried(trials),
        trials_drawn=Markup(figures.tried(trials)) if _any_result(trials) else None,
        commits=_distinct(str(record["commit"] or DASH) for record in records),
        machines=_machines(suite, out, rows),
        command=command,
        recipes=[_recipe(suite, row) for row in rows],
    )


def _by_reference(rows: Sequence[Row], baseline: str) -> dict[str, dict[str, Compared]]:
    """The runs that are compared with each reference, the baseline first."""
    found: dict[str, dict[str, Compared]] = {baseline: {}}
    for row in rows:
        for reference, compared in row.against.items():
            found.setdefault(reference, {})[row.run] = compared
    return {reference: own for reference, own in found.items() if own}


def _shown(rows: Sequence[Row], references: Iterable[str]) -> list[str]:
    """The best runs of the baseline's student, then the references."""
    best = next((row for row in rows if row.best), None)
    peers = [row for row in rows if row.chosen.values and (not best or row.student == best.student)]
    leading = [row.run for row in sorted(peers, key=_descending)[:SHOWN]]
    return list(dict.fromkeys([*leading, *references]))


def _descending(row: Row) -> float:
    return math.inf if row.chosen.mean is None else -row.chosen.mean


def _line(suite: Suite, row: Row) -> ComparedRow:
    samples = (row.dev, row.last, row.chosen)
    complete = all(len(sample.values) == len(row.seeds) for sample in samples)
    by_seed = zip(row.seeds, *(sample.values for sample in samples), strict=complete)
    return ComparedRow(
        run=row.run,
        method=row.method or DASH,
        is_baseline=row.run == suite.baseline,
        best=row.best,
        count=len(row.seeds),
        dev=row.dev,
        last=row.last,
        chosen=row.chosen,
        seeds={seed: results for seed, *results in by_seed} if complete else {},
        against={name: _beside(compared) for name, compared in row.against.items()},
    )


def _beside(compared: Compared) -> tuple[str, str, str, bool]:
    difference = compared.difference
    ends = interval_text(difference.interval) if difference.interval else ""
    p = "" if compared.p_holm is None else f"p {compared.p_holm:.2g}"
    return signed(difference.mean), ends, p, is_settled(compared)


def _folders(suite: Suite, out: Path, row: Row) -> list[RunFolder]:
    """Those of a run's finished seeds that are still there."""
    folders = (run_folder(out, row.run, seed) for seed in row.seeds)
    return [RunFolder(folder) for folder in folders if folder.exists()]


def _curves(suite: Suite, out: Path, rows: Sequence[Row], shown: Sequence[str]) -> list[Markup]:
    """A chart for each result that runs are judged by."""
    found: dict[str, list[figures.Curve]] = {}
    for row in rows:
        results: dict[int, list[float]] = {}
        for folder in _folders(suite, out, row):
            for metrics in folder.read_csv("metrics.csv"):
                value = number(metrics.get(f"dev_{row.result}"))
                if math.isfinite(value):
                    results.setdefault(int(metrics["epoch"]) + 1, []).append(value)
        if results:
            epochs = sorted(results)
            curve = figures.Curve(row.run, epochs, [results[epoch] for epoch in epochs])
            found.setdefault(row.result or "", []).append(curve)
    return [
        Markup(figures.learning(curves, shown, f"development {result_title(name)}, %"))
        for name, curves in found.items()
    ]


def _shares(suite: Suite, out: Path, rows: Sequence[Row]) -> dict[str, dict[str, Share]]:
    """Who teaches what, in runs of several mentors."""
    found = {}
    for row in rows:
        folders = [folder.read_csv("classroom.csv") for folder in _folders(suite, out, row)]
        shares = _run_shares([lines for lines in folders if lines])
        if len(shares) > 1:
            found[row.run] = shares
    return found


def _run_shares(seeds: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Share]:
    """What each mentor did, from ``classroom.csv`` of each seed."""
    values: dict[str, list[tuple[float, float, float]]] = {}
    for lines in seeds:
        ends = min(line["epoch"] for line in lines), max(line["epoch"] for line in lines)
        by_place = {(line["epoch"], line["mentor"]): line for line in lines}
        for mentor in _distinct(str(line["mentor"]) for line in lines):
            first, last = (by_place.get((end, mentor), {}) for end in ends)
            active = _finite(first.get("active_share")), _finite(last.get("active_share"))
            values.setdefault(mentor, []).append((*active, _finite(last.get("weight"))))
    means = {mentor: tuple(map(fmean, zip(*own, strict=True))) for mentor, own in values.items()}
    taught = {m: fmean(last * weight for _, last, weight in own) for m, own in values.items()}
    total = sum(taught.values())
    parts = {mentor: 100 * own / total if total else 0.0 for mentor, own in taught.items()}
    return {
        mentor: Share(100 * first, 100 * last, weight, parts[mentor])
        for mentor, (first, last, weight) in means.items()
    }


def _finite(value: Any) -> float:
    """A cell as a number; of a mentor that taught nobody there is none, which counts as nothing."""
    found = number(value)
    return found if math.isfinite(found) else 0.0


def _cost(
    rows: Sequence[Row], records: Sequence[Mapping[str, Any]], shown: Sequence[str], title: str
) -> Markup | None:
    seconds: dict[str, list[float]] = {}
    for record in records:
        value = number(record.get("seconds"))
        if math.isfinite(value):
            seconds.setdefault(str(record["run"]), []).append(value)
    points = {
        row.run: (Sample(tuple(seconds[row.run])), row.chosen)
        for row in rows
        if row.run in seconds and row.chosen.values
    }
    return Markup(figures.cost(points, shown, title)) if points else None


def _any_result(trials: Sequence[SearchTrial]) -> bool:
    return any(trial.dev is not None for trial in trials)


def _tried(trials: Sequence[SearchTrial]) -> list[Tried]:
    rungs: dict[tuple[str, int], list[SearchTrial]] = {}
    for trial in trials:
        rungs.setdefault((trial.run, trial.rung), []).append(trial)
    return [
        Tried(
            run,
            f"{len(own)} of {own[0].epochs} epoch{'s' * (own[0].epochs != 1)}",
            [
                (
                    " ".join(trial.options) or DASH,
                    DASH if trial.dev is None else f"{trial.dev:.2f}",
                    trial.kept,
                )
                for trial in own
            ],
        )
        for (run, _), own in rungs.items()
    ]


def _recipe(suite: Suite, row: Row) -> tuple[str, str, str, str]:
    """A run's name, seeds, changes to its recipe, and what its search chose."""
    base = suite.runs[row.run].base or suite.base
    changes = " ".join((base.stem if base else "", *suite.runs[row.run].set))
    seeds = ", ".join(map(str, suite.seeds_of(row.run)))
    return row.run, seeds, changes, " ".join(row.options)


def _machines(suite: Suite, out: Path, rows: Sequence[Row]) -> list[str]:
    """Hardware and version of torch of the runs whose folders are there."""
    found = []
    for row in rows:
        for folder in _folders(suite, out, row):
            of = folder.read_json("environment.json")
            torch = (of.get("packages") or {}).get("torch")
            parts = (of.get("hardware"), of.get("device"), torch and f"torch {torch}")
            found.append(", ".join(str(part) for part in parts if part))
    return [text for text in _distinct(found) if text]


def _distinct(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts))
