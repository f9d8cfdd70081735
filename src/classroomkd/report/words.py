"""What the numbers say, in words: no more than they allow."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from classroomkd.report.table import StudentRow, what_differs
from classroomkd.statistics import signed
from classroomkd.tasks import result_title

NOISE = 0.5
"""Points within which one or two seeds show nothing."""


COARSE = 1.5
"""Points within which a test set may know an accuracy without a word about it."""


@dataclass(frozen=True)
class Verdict:
    """What came out for a student on a data set: a sentence, and what to add to it."""

    headline: str
    remarks: tuple[str, ...] = ()


def compared(rows: Sequence[StudentRow]) -> str:
    """What was compared, in a sentence."""
    records = [record for row in rows for record in row.records]
    runs = "1 run" if len(records) == 1 else f"{len(records)} runs"
    students = _listed(dict.fromkeys(record.student for record in records))
    data = _listed(dict.fromkeys(record.data for record in records))
    methods = _listed(
        dict.fromkeys("alone" if r.method == "none" else f"with {r.method}" for r in records)
    )
    return f"{runs} on {data}: {students}, trained {methods}."


def verdicts(rows: Sequence[StudentRow]) -> list[Verdict]:
    """For each student and data set: the best, what mentors added, and how sure that is."""
    places: dict[tuple[str, str], list[StudentRow]] = {}
    for row in rows:
        places.setdefault((row.first.student, row.first.data), []).append(row)
    taught = [place for place in places.values() if any(r.first.method != "none" for r in place)]
    if taught:
        return [_verdict(place) for place in taught]
    best = _best(rows)
    name = result_title(best.first.headline)
    return [
        Verdict(
            f"No run has mentors. The highest test {name} is {best.chosen.text()} %, "
            f"of {best.first.student} on {best.first.data} ({best.first.label}).",
        )
    ]


def _verdict(place: Sequence[StudentRow]) -> Verdict:
    with_mentors = [row for row in place if row.first.method != "none"]
    best = _best(with_mentors)
    remarks = []
    if best.alone is not None:
        last = best.last.mean - best.alone.last.mean
        remarks.append(f"At the last epoch instead of the chosen one, it is {signed(last)} points.")
    rest = [row for row in with_mentors if row is not best]
    ours = [row for row in rest if row.first.method == "classroom"]
    if best.first.method != "classroom" and ours:
        remarks += _loses(_best(ours), best)
    elif rest:
        second = _best(rest)
        first = _title(best, second)
        remarks.append(f"Next is {_title(second, best)}, {_against(second, best, first)}.")
    seeds = {record.seed for row in place for record in row.records}
    if len(seeds) == 1 or any(len(row.records) == 1 for row in (best, best.alone) if row):
        remarks.append("One seed: differences of a few tenths mean nothing.")
    if (margin := _margin(best)) > COARSE:
        remarks.append(
            f"The test set has {best.first.summary['test_samples']} images: each result on it is"
            f" known to about ±{margin:.1f} points (95 % interval)."
        )
    return Verdict(_headline(best), tuple(remarks))


def _margin(row: StudentRow) -> float:
    """Half the 95 % interval of an accuracy on so many images, in points; nan if it is no share."""
    count = row.first.summary.get("test_samples")
    if row.first.headline != "top1" or not count:
        return math.nan
    share = min(max(row.chosen.mean / 100, 1 / count), 1 - 1 / count)  # 0 and 1 are not certain
    return 196 * math.sqrt(share * (1 - share) / count)


def _headline(best: StudentRow) -> str:
    place = f"{best.first.student} on {best.first.data}"
    name = result_title(best.first.headline)
    result = f"{best.first.method_text} with {best.chosen.text()} % test {name}"
    if best.alone is None:
        return (
            f"{place}: the best is {result}. What mentors added cannot be told: "
            "the same student alone (method none) is not among the runs."
        )
    against = _against(best, best.alone, "the student alone")
    alone = f"the student alone ({best.alone.chosen.text()} %)"
    if round(best.chosen.mean - best.alone.chosen.mean, 2) <= 0:
        return f"{place}: no method beats {alone}. The best, {result}, is {against}."
    return f"{place}: the best, {result}, is {against.replace('the student alone', alone, 1)}."


def _loses(ours: StudentRow, best: StudentRow) -> list[str]:
    """What to say where another method is ahead of ClassroomKD."""
    name = ours.first.method_text
    behind = _against(ours, best, best.first.method_text)
    remarks = [f"ClassroomKD loses: {name} with {ours.chosen.text()} % is {behind}."]
    if ours.alone is not None:
        alone = _against(ours, ours.alone, "the student alone")
        remarks.append(f"Against the student alone, {name} is {alone}.")
    return remarks


def _against(row: StudentRow, other: StudentRow, name: str) -> str:
    """How far a row is above or below another, how sure that is, and what else differs."""
    difference = row.chosen.mean - other.chosen.mean
    side = "above" if difference > 0 else "below"
    size = f"{abs(difference):.2f}"
    text = f"equal to {name}" if size == "0.00" else f"{size} points {side} {name}"
    remarks = [remark] if (remark := _doubt(row, other, abs(difference))) else []
    if differs := what_differs(row.first, other.first):
        remarks.append(f"not trained alike: {', '.join(differs)}")
    return f"{text} ({'; '.join(remarks)})" if remarks else text


def _doubt(row: StudentRow, other: StudentRow, difference: float) -> str:
    """A remark on the difference's size beside chance, or nothing."""
    counts = [len({record.seed for record in r.records}) for r in (row, other)]
    if min(counts) == 1:
        return (
            "too little to mean anything with one seed" if difference < NOISE else "one seed only"
        )
    paired = row.beside(other)
    if paired is not None and paired.interval is not None:
        low, high = paired.interval
        return "no more than seeds differ among themselves" if low <= 0 <= high else ""
    spreads = (row.chosen.spread or 0, other.chosen.spread or 0)
    error = math.hypot(*(s / math.sqrt(n) for s, n in zip(spreads, counts, strict=True)))
    if difference < max(2 * error, NOISE if min(counts) < 3 else 0):
        return "no more than seeds differ among themselves"
    return ""


def _best(rows: Sequence[StudentRow]) -> StudentRow:
    return max(rows, key=lambda row: row.chosen.mean)


def mentor_notes(mentors: dict[str, list[dict[str, Any]]]) -> list[str]:
    """What to know of mentors that taught almost nobody, or nearly everybody.

    Args:
        mentors: the rows of ``classroom.csv`` by mentor.
    """
    if all(number(row.get("active_share")) == 1 for rows in mentors.values() for row in rows):
        return ["Every mentor taught on every sample of every epoch: nothing was filtered."]
    notes = [_note(name, number(rows[-1].get("active_share"))) for name, rows in mentors.items()]
    return [note for note in notes if note]


def _note(name: str, share: float) -> str:
    """A note on a mentor with this active share in the last epoch, or nothing."""
    if share < 0.01:
        return (
            f"{name} taught almost nobody ({100 * share:.2f} % of the samples in the last epoch): "
            "it costs time and gives nothing."
        )
    if share > 0.99:
        return (
            f"{name} taught on nearly every sample of the last epoch ({100 * share:.2f} %): "
            "the student is still behind it almost everywhere, and filtering changes little."
        )
    return ""


def number(value: Any) -> float:
    """A cell of a CSV file as a number, nan if it is none."""
    return float(value) if isinstance(value, int | float) else math.nan


def _title(row: StudentRow, other: StudentRow) -> str:
    """A row's method, and its mentors where the other's method is the same."""
    same = row.first.method_text == other.first.method_text
    return f"{row.first.method_text} from {row.mentors}" if same else row.first.method_text


def _listed(names: Sequence[str] | dict[str, None]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
