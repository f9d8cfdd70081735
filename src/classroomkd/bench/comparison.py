"""The table of a suite: its runs over their seeds, beside the baseline. Run folders alone are read.

Results on the test set, which the task chooses (top-1 in classification), are in percent; the
*chosen* epoch is the one that was best on the development split.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from classroomkd.bench.statistics import Difference, Sample, paired_difference
from classroomkd.config.suite import Suite, run_folder
from classroomkd.engine.runs import RunFolder
from classroomkd.tasks import headline_of, result_title

HEAD = ("run", "student", "method", "n", "last", "chosen", "vs baseline", "95 %", "active")

_CAPTION = (
    "test {result}, %: last epoch, and the one chosen on the development split, mean ± standard "
    "deviation over n seeds; differences of the chosen to the baseline's, paired by seed"
)


@dataclass(frozen=True)
class Row:
    """One line of a suite over the seeds that are finished.

    Attributes:
        run: its name.
        student: the student's model; None if no seed is finished.
        method: the method's name; None likewise.
        result: what it was judged by, such as ``top1``; None likewise.
        seeds: the finished ones.
        last: the result of the last epoch.
        chosen: that of the chosen epoch.
        difference: points of the chosen epoch over the baseline, paired by seed; None for the
            baseline itself, for another student model than its, and without a common seed.
        active: share of samples that a mentor taught in the last epoch, mean over mentors and
            seeds; None if there are fewer than two mentors.
    """

    run: str
    student: str | None
    method: str | None
    result: str | None
    seeds: tuple[int, ...]
    last: Sample
    chosen: Sample
    difference: Difference | None
    active: float | None

    def cells(self) -> tuple[str, ...]:
        """The row as text, in the order of `HEAD`."""
        points, interval = self.difference.parts() if self.difference else (None, None)
        active = None if self.active is None else f"{self.active:.2f}"
        given = (self.student, self.method, len(self.seeds), self.last, self.chosen)
        cells = (self.run, *given, points, interval, active)
        return tuple("–" if cell is None else str(cell) for cell in cells)


def compare(suite: Suite, out: Path) -> list[Row]:
    """The rows of a suite whose runs are in `out`, in the order of the file.

    Raises:
        ClassroomError: if a finished run's files cannot be read.
    """
    summaries = {name: _summaries(suite, name, out) for name in suite.runs}
    return [_row(suite, name, summaries, out) for name in suite.runs]


def _caption(rows: list[Row]) -> str:
    names = {row.result for row in rows if row.result}
    return _CAPTION.format(result=result_title(names.pop()) if len(names) == 1 else "result")


def to_table(rows: list[Row]) -> Table:
    """The table for the terminal, without the student: print it with a rich console."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True, caption=_caption(rows))
    table.add_column("run", min_width=8, overflow="fold")
    table.add_column("method", min_width=6, overflow="fold")
    for name, width in zip(HEAD[3:], (1, 5, 5, 8, 9, 6), strict=True):
        table.add_column(name, min_width=width, justify="right", no_wrap=name in ("last", "chosen"))
    for row in rows:
        run, _, *rest = map(Text, row.cells())
        table.add_row(run, *rest)
    return table


def to_markdown(rows: list[Row]) -> str:
    """The table in Markdown."""
    lines = [HEAD, ("---",) * len(HEAD), *(row.cells() for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + f"\n{_caption(rows)}\n"


def to_json(suite: Suite, rows: list[Row]) -> dict[str, Any]:
    """The table as plain values."""

    def plain(row: Row) -> dict[str, Any]:
        samples = {
            key: {"values": list(s.values), "mean": s.mean, "spread": s.spread}
            for key, s in (("last", row.last), ("chosen", row.chosen))
        }
        of = row.difference
        difference = of and {"mean": of.mean, "interval": of.interval and list(of.interval)}
        return asdict(row) | samples | {"seeds": list(row.seeds), "difference": difference}

    return {"suite": suite.name, "baseline": suite.baseline, "runs": [plain(row) for row in rows]}


def write_comparison(
    suite: Suite, rows: list[Row], *, markdown: Path | None = None, as_json: Path | None = None
) -> Table:
    """Write the table to files, where they are given, and return it for the terminal."""
    values = json.dumps(to_json(suite, rows), indent=2) + "\n"
    for path, text in ((markdown, to_markdown(rows)), (as_json, values)):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return to_table(rows)


Summaries = Mapping[int, dict[str, Any]]  # by seed


def _summaries(suite: Suite, name: str, out: Path) -> Summaries:
    """What is in ``summary.json`` of the seeds that are finished."""
    folders = {seed: run_folder(out, name, seed) for seed in suite.seeds_of(name)}
    return {
        seed: RunFolder(folder).read_json("summary.json")
        for seed, folder in folders.items()
        if (folder / "summary.json").exists()
    }


def _row(suite: Suite, name: str, summaries: Mapping[str, Summaries], out: Path) -> Row:
    own = summaries[name]
    first = next(iter(own.values()), {})
    shares = [_active_share(run_folder(out, name, seed)) for seed in own]
    return Row(
        run=name,
        student=first.get("student"),
        method=first.get("method"),
        result=headline_of(first) if first else None,
        seeds=tuple(own),
        last=Sample(tuple(_result(summary, "last") for summary in own.values())),
        chosen=Sample(tuple(_result(summary, "best") for summary in own.values())),
        difference=None if name == suite.baseline else _over(own, summaries[suite.baseline]),
        active=fmean(given) if (given := [s for s in shares if s is not None]) else None,
    )


def _over(own: Summaries, baseline: Summaries) -> Difference | None:
    """Points over the baseline, on the seeds that both have; of equal students only."""
    seeds = [
        seed
        for seed in own
        if seed in baseline and own[seed]["student"] == baseline[seed]["student"]
    ]
    if not seeds:
        return None
    one, other = ([_result(run[seed], "best") for seed in seeds] for run in (own, baseline))
    return paired_difference(one, other)


def _result(summary: dict[str, Any], epoch: str) -> float:
    return summary[epoch][f"test_{headline_of(summary)}"]


def _active_share(folder: Path) -> float | None:
    """Mean over mentors of the share of samples that they taught in the last epoch."""
    rows = RunFolder(folder).read_csv("classroom.csv")
    shares = [row["active_share"] for row in rows if row["epoch"] == rows[-1]["epoch"]]
    return fmean(shares) if len(shares) > 1 else None
