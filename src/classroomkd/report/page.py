"""One self-contained HTML file about one or more runs: it loads nothing, and prints."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from classroomkd.report import words
from classroomkd.report.facts import environment_facts, protocol_facts
from classroomkd.report.figures import DASHES, learning_curves, mentor_charts
from classroomkd.report.read import RunRecord, read_runs
from classroomkd.report.table import (
    DASH,
    Cell,
    StudentRow,
    result_name,
    student_rows,
    what_differs,
)
from classroomkd.report.template import fill, replace_page
from classroomkd.svg import LIGHT
from classroomkd.tasks import result_title

PICTURES = "pictures.json"


@dataclass(frozen=True)
class Key:
    """An entry of a legend."""

    label: str
    color: int
    dashes: str


@dataclass(frozen=True)
class RunSection:
    """A run with mentors: its charts, its mentors at the last epoch, and what to know of them."""

    record: RunRecord
    charts: list[Markup]
    legend: list[Key]
    mentors: list[tuple[str, ...]]
    notes: list[str]


def write_report(runs: Sequence[Path | str], out: Path | str) -> Path:
    """Write the report on finished runs.

    The page depends on the run folders alone: written twice, it is the same to the byte.

    Args:
        runs: run folders.
        out: the HTML file, or a folder for ``report.html``; an earlier report is replaced.

    Returns:
        The file.

    Raises:
        ClassroomError: if a folder is not a finished run, or the page cannot be written.
    """
    page = render(read_runs(runs))
    path = Path(out) / "report.html" if Path(out).is_dir() else Path(out)
    replace_page(path, page)
    return path


def render(records: Sequence[RunRecord]) -> str:
    """The page as text."""
    rows = student_rows(records)
    looks = _looks(records, rows)
    # drawn by this package, with every label escaped: charts alone are not escaped again
    others = list(dict.fromkeys(name for record in records for name in record.results))
    curves = [Markup(svg) for svg in learning_curves(records, looks)]
    return fill(
        "page.html.j2",
        title=_title(records),
        compared=words.compared(rows),
        verdicts=words.verdicts(rows),
        rows=rows,
        result=result_name(records),
        others=[(name, result_title(name)) for name in others],
        missing=Cell(float("nan")),
        units=_units(others),
        several_seeds=any(len(row.records) > 1 for row in rows),
        caveats=_caveats(rows),
        records=records,
        curves=curves,
        legend=[_key(r.label, *look) for r, look in zip(records, looks, strict=True)],
        sections=_sections(records),
        albums=_albums(records),
        protocol=protocol_facts(records),
        environment=environment_facts(records),
    )


def _units(results: Sequence[str]) -> str:
    """The units of a table with these results beside the first."""
    percent = "Results and differences"
    percent += ", and ECE (calibration error)," if "ece" in results else " are"
    nll = "; NLL (negative log-likelihood) in nats" if "nll" in results else ""
    return f"{percent} in percent{nll}."


def _title(records: Sequence[RunRecord]) -> str:
    if len(records) == 1:
        return f"ClassroomKD report: {records[0].label}"
    return f"ClassroomKD report: {len(records)} runs"


def _caveats(rows: Sequence[StudentRow]) -> list[str]:
    """How the student alone was trained otherwise, for each row with an asterisk."""
    caveats = []
    for row in rows:
        if row.alone and (keys := what_differs(row.first, row.alone.first)):
            caveats.append(f"{row.first.label} against {row.alone.first.label}: {', '.join(keys)}")
    return caveats


def _sections(records: Sequence[RunRecord]) -> list[RunSection]:
    taught = [record for record in records if record.classroom]
    slots: dict[str, int] = {}
    for record in taught:
        for mentor in record.mentor_rows():
            slots.setdefault(mentor, len(slots))
    return [_section(record, f"run{n}", slots) for n, record in enumerate(taught)]


def _albums(records: Sequence[RunRecord]) -> list[tuple[RunRecord, list[Markup]]]:
    """The pictures of each run that has any."""
    shown = [(r, f"album{n}") for n, r in enumerate(records) if (r.path / PICTURES).is_file()]
    if not shown:
        return []
    from classroomkd.tasks.registry import USUAL, task_class  # tasks need torch

    drawn = ((r, task_class(r.recipe.get("task", USUAL)).figures(r.path, at)) for r, at in shown)
    return [(record, [Markup(svg) for svg in pictures]) for record, pictures in drawn]


def _section(record: RunRecord, prefix: str, slots: dict[str, int]) -> RunSection:
    mentors = record.mentor_rows()
    return RunSection(
        record=record,
        charts=[Markup(svg) for svg in mentor_charts(record, prefix, slots)],
        legend=[_key(name, slots[name], slots[name]) for name in mentors],
        mentors=[_last_epoch(record, name, rows[-1]) for name, rows in mentors.items()],
        notes=words.mentor_notes(mentors),
    )


def _last_epoch(record: RunRecord, name: str, row: dict[str, Any]) -> tuple[str, ...]:
    def cell(key: str, scale: float = 1.0, digits: int = 3) -> str:
        value = scale * words.number(row.get(key))
        return DASH if value != value else f"{value:.{digits}f}"

    return (
        name,
        record.roles.get(name, DASH),
        cell("active_share", 100, 1),
        cell("weight"),
        cell("gap"),
        cell("temperature", digits=2),
        cell("score"),
    )


def _key(label: str, hue: int, dash: int) -> Key:
    dashes = " ".join(f"{length:g}" for length in DASHES[dash % len(DASHES)])
    return Key(label, hue % len(LIGHT), dashes or "none")


def _looks(records: Sequence[RunRecord], rows: Sequence[StudentRow]) -> list[tuple[int, int]]:
    """Hue and dash of each run's line: seeds of one row share the hue."""
    several = any(len(row.records) > 1 for row in rows)
    looks = {
        record.path: (n, seed if several else n)
        for n, row in enumerate(rows)
        for seed, record in enumerate(row.records)
    }
    return [looks[record.path] for record in records]
