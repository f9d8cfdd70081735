"""A suite's result in one sentence, no stronger than its data, and what to know of it."""

from collections.abc import Mapping, Sequence

from classroomkd.statistics import (
    LEVEL,
    Difference,
    interval_text,
    paired_difference,
    signed,
)
from classroomkd.suite.comparison import Compared, Row
from classroomkd.tasks import result_title


def answer(rows: Sequence[Row], baseline: str) -> str:
    """Which run is best, by how much over the baseline and the references, and whether it is known.

    A difference counts as settled where Holm's p, over all runs beside that reference, is below
    0.05: the best is picked from all of them.
    """
    finished = [row for row in rows if row.chosen.values]
    if not finished:
        return "No run has a result yet."
    first = next((row for row in finished if row.run == baseline), None)
    best = next((row for row in rows if row.best), None)
    if first is None:
        top = max(finished, key=_mean)
        return (
            f"Nothing can be said yet: the baseline {baseline} has no result; the highest so far is"
            f" {_result(top)} of {top.run}."
        )
    if best is None:
        return (
            f"Nothing can be said yet: beside the baseline {baseline}, with {_result(first)}, no "
            "run of the same student has a result."
        )
    if best is first:
        return _baseline_ahead(rows, first)
    if not best.against:
        return f"{best.run} is highest, with {_result(best)}, but shares no seed with {baseline}."
    parts = [
        _points(compared.difference, f"the baseline {name}" if name == baseline else name)
        for name, compared in best.against.items()
    ]
    return f"{best.run} is best, with {_result(best)}: {_listed(parts)}; {_settled(best.against)}."


def remarks(rows: Sequence[Row], baseline: str) -> list[str]:
    """What to know of the sentence: who comes next, and what its numbers are not."""
    best = next((row for row in rows if row.best), None)
    if best is None:
        return []
    found = []
    rivals = [
        row
        for row in rows
        if row.student == best.student and row.run not in (best.run, *best.against)
    ]
    if rivals:
        found.append(_next(best, max(rivals, key=_mean)))
    count = len(rivals) + len(best.against) + 1
    if count > 2:
        found.append(
            f"The best of {count} runs is picked by the same test results that it is shown with: "
            "it looks better than it would with new seeds."
        )
    over = best.against.get(baseline)
    needed = over.difference.seeds_to_show() if over else None
    if over and needed and needed > len(over.difference.values):
        found.append(
            f"With {_seeds(over.difference)}, a difference of half a point to {baseline} would be "
            f"overlooked: it takes about {needed}."
        )
    others = [row.run for row in rows if row.student not in (None, best.student)]
    if others:
        found.append(f"Of another student model, and not compared: {', '.join(others)}.")
    return found


def is_settled(compared: Compared) -> bool:
    """Whether the difference is no chance by the seed, at 5 %, among all beside the reference."""
    return compared.p_holm is not None and compared.p_holm < 1 - LEVEL


def _baseline_ahead(rows: Sequence[Row], first: Row) -> str:
    beside = [row for row in rows if first.run in row.against]
    if not beside:
        return f"The baseline {first.run} is highest, with {_result(first)}."
    rival = max(beside, key=_mean)
    compared = rival.against[first.run]
    return (
        f"No run is ahead of the baseline {first.run}, with {_result(first)}: {rival.run} comes "
        f"next with {_points(compared.difference, 'it')}; {_settled({first.run: compared})}."
    )


def _next(best: Row, rival: Row) -> str:
    common = [seed for seed in best.seeds if seed in rival.seeds]
    if not common or any(len(row.seeds) != len(row.chosen.values) for row in (best, rival)):
        return f"Next is {rival.run}, with {_result(rival)}."
    one, other = (
        [dict(zip(row.seeds, row.chosen.values, strict=True))[seed] for seed in common]
        for row in (rival, best)
    )
    difference = paired_difference(one, other)
    ends = difference.interval
    apart = ends is not None and not ends[0] <= 0 <= ends[1]
    told = "" if apart else ": the two are not told apart"
    return f"Next is {rival.run}, with {_result(rival)}, {_points(difference, best.run)}{told}."


def _points(difference: Difference, reference: str) -> str:
    """Such as ``+1.20 points over kd (95 % interval [+0.80, +1.60])``, or ``−0.10 against``."""
    ends = difference.interval
    known = f" (95 % interval {interval_text(ends)})" if ends else ""
    side = "over" if difference.mean > 0 else "against"
    return f"{signed(difference.mean)} points {side} {reference}{known}"


def _settled(against: Mapping[str, Compared]) -> str:
    single = [name for name, c in against.items() if len(c.difference.values) == 1]
    if len(single) == len(against):
        return "one seed has no interval, so the data settle nothing"
    count = _listed(dict.fromkeys(_seeds(c.difference) for c in against.values()))
    settled = [name for name, compared in against.items() if is_settled(compared)]
    unsettled = [name for name in against if name not in settled]
    if not unsettled:
        return f"{count} settle this (Holm's p < 0.05)"
    if not settled:
        return f"{count} do not settle this (Holm's p ≥ 0.05)"
    return (
        f"{count} settle the difference to {_listed(settled)}, but not that to {_listed(unsettled)}"
    )


def _result(row: Row) -> str:
    return f"{row.chosen} % test {result_title(row.result or 'result')}"


def _seeds(difference: Difference) -> str:
    count = len(difference.values)
    return "1 seed" if count == 1 else f"{count} seeds"


def _mean(row: Row) -> float:
    return float("-inf") if row.chosen.mean is None else row.chosen.mean


def _listed(parts: Sequence[str] | dict[str, None]) -> str:
    *most, last = parts
    return f"{', '.join(most)} and {last}" if most else last
