"""The table of students: runs that differ in their seed only make one row."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from classroomkd.report.read import RunRecord, read_runs
from classroomkd.statistics import Difference, Sample, paired_difference, signed
from classroomkd.tasks import result_title

DASH = "–"


@dataclass(frozen=True)
class Cell:
    """A number over the seeds of a row.

    Attributes:
        mean: nan if there is none.
        spread: standard deviation over seeds (of a sample: ``n - 1``), None for one run.
    """

    mean: float
    spread: float | None = None

    def text(self, digits: int = 2) -> str:
        """The number, with ``±`` its spread if there is one."""
        return " ".join(self.parts(digits))

    def parts(self, digits: int = 2) -> list[str]:
        """The number and, if there is one, ``±`` its spread."""
        if self.mean != self.mean:
            return [DASH]
        spread = [] if self.spread is None else [f"± {self.spread:.{digits}f}"]
        return [f"{self.mean:.{digits}f}", *spread]


@dataclass(frozen=True)
class StudentRow:
    """A student, what it learned from and how, and what it came to over the seeds.

    Results are in percent, but for the negative log-likelihood in nats; which one comes first, the
    task says. All but ``last`` are of the chosen epoch: the one that is best on the development
    split.

    Attributes:
        records: its runs, one a seed.
        last: the first result on the test set, of the last epoch.
        chosen: that of the chosen epoch.
        dev: that on the development split.
        others: further results on the test set, by name.
        alone: the row of the same student and data without mentors, if there is one.
    """

    records: tuple[RunRecord, ...]
    last: Cell
    chosen: Cell
    dev: Cell
    others: dict[str, Cell]
    alone: "StudentRow | None" = None

    @property
    def first(self) -> RunRecord:
        """The run that stands for the row in all but its seed."""
        return self.records[0]

    @property
    def mentors(self) -> str:
        """The mentors and their roles."""
        return ", ".join(f"{name} ({role})" for name, role in self.first.roles.items()) or DASH

    @property
    def difference(self) -> float | None:
        """Points of the first result (chosen epoch) over the student alone, if that is there."""
        return None if self.alone is None else self.chosen.mean - self.alone.chosen.mean

    def beside(self, other: "StudentRow") -> Difference | None:
        """Points of the first result (chosen epoch) over another row's, on the seeds of both."""
        name = f"test_{self.first.headline}"
        own, others = (
            {record.seed: record.summary["best"].get(name) for record in row.records}
            for row in (self, other)
        )
        seeds = [seed for seed, result in own.items() if None not in (result, others.get(seed))]
        if not seeds:
            return None
        return paired_difference([own[s] for s in seeds], [others[s] for s in seeds])

    @property
    def difference_text(self) -> str:
        """The difference with its sign; ``*`` if the student alone was trained otherwise."""
        if self.difference is None or self.alone is None:
            return "alone" if self.first.method == "none" else DASH
        mark = "*" if what_differs(self.first, self.alone.first) else ""
        return signed(self.difference) + mark


def students(runs: Sequence[Path | str]) -> list[StudentRow]:
    """The rows of the table, in the order of the runs.

    Raises:
        ClassroomError: if a folder is not a finished run.
    """
    return student_rows(read_runs(runs))


def student_rows(records: Sequence[RunRecord]) -> list[StudentRow]:
    """The rows of runs that have been read."""
    groups: dict[str, list[RunRecord]] = {}
    for record in records:
        groups.setdefault(_group(record), []).append(record)
    rows = [_row(group) for group in groups.values()]
    return [replace(row, alone=_alone(row, rows)) for row in rows]


def student_table(runs: Sequence[Path | str]) -> Table:
    """The table for the terminal: print it with a rich console.

    Raises:
        ClassroomError: if a folder is not a finished run.
    """
    rows = students(runs)
    result = result_name([row.first for row in rows])
    caption = f"test {result}, %: last epoch, and the one chosen on the development split"
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True, caption=caption)
    for name, width in (("student", 8), ("method", 9), ("mentors", 7), ("seeds", 5)):
        table.add_column(name, min_width=width, overflow="fold")
    for name in ("last", "chosen", "vs alone"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        names = (row.first.student, row.first.method_text, ", ".join(row.first.roles) or DASH)
        seeds = ", ".join(str(record.seed) for record in row.records)
        cells = (*names, seeds, row.last.text(), row.chosen.text(), row.difference_text)
        table.add_row(*map(Text, cells))
    return table


def result_name(records: Sequence[RunRecord]) -> str:
    """What the first result of all these runs is called; ``result`` if they have different ones."""
    names = {result_title(record.headline) for record in records}
    return names.pop() if len(names) == 1 else "result"


def what_differs(run: RunRecord, other: RunRecord) -> list[str]:
    """The recipe's keys by which two runs were not trained alike, methods and mentors aside."""
    one, two = dict(_leaves(protocol(run))), dict(_leaves(protocol(other)))
    return [key for key in {**one, **two} if one.get(key) != two.get(key)]


def protocol(record: RunRecord) -> dict[str, Any]:
    """The part of the recipe that should be equal where methods are compared."""
    recipe = record.recipe
    train = {key: value for key, value in recipe["train"].items() if key != "device"}
    return {"data": recipe["data"], "student": recipe["student"], "train": train}


def _group(record: RunRecord) -> str:
    heard = list(record.roles)
    mentors = (record.recipe.get("mentors") or []) if heard else []
    return json.dumps([protocol(record), record.recipe["method"], heard, mentors], sort_keys=True)


def _row(group: Sequence[RunRecord]) -> StudentRow:
    def over_seeds(epoch: str, name: str) -> Cell:
        return _value(record.summary[epoch].get(name) for record in group)

    first = group[0].headline
    return StudentRow(
        records=tuple(group),
        last=over_seeds("last", f"test_{first}"),
        chosen=over_seeds("best", f"test_{first}"),
        dev=over_seeds("best", f"dev_{first}"),
        others={name: over_seeds("best", f"test_{name}") for name in group[0].results},
    )


def _value(numbers: Iterable[float | None]) -> Cell:
    given = [float("nan") if number is None else float(number) for number in numbers]
    if any(number != number for number in given):
        return Cell(float("nan"))
    sample = Sample(tuple(given))
    return Cell(sample.mean or 0.0, sample.spread)


def _alone(row: StudentRow, rows: Sequence[StudentRow]) -> StudentRow | None:
    """The same student without mentors on the same data: of several, the one trained most alike."""
    if row.first.method == "none":
        return None
    candidates = [
        other
        for other in rows
        if other.first.method == "none"
        and (other.first.student, other.first.data) == (row.first.student, row.first.data)
    ]
    return min(
        candidates,
        key=lambda other: (len(what_differs(row.first, other.first)), -len(other.records)),
        default=None,
    )


def _leaves(value: Any, path: str = "") -> Iterable[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, below in value.items():
            yield from _leaves(below, f"{path}.{key}" if path else str(key))
    else:
        yield path, value
