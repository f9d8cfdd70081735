"""What a suite's search has found so far. It is read from the trials' folders alone."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from classroomkd.config.search import shortened
from classroomkd.config.suite import PlannedRun, Suite
from classroomkd.errors import ClassroomError
from classroomkd.tasks import headline_of


@dataclass(frozen=True)
class SearchTrial:
    """A candidate in a rung of a run's search.

    Attributes:
        run: the suite's line whose options are searched.
        rung: counted from 1.
        epochs: the length of its training.
        options: as overrides; empty as long as the rung before has not chosen them.
        dev: its result on the development split, in percent; None if it is not finished.
        kept: whether it went on to the next rung or, in the last, gave the run its options.
    """

    run: str
    rung: int
    epochs: int
    options: tuple[str, ...]
    dev: float | None
    kept: bool


def resolved(run: PlannedRun) -> PlannedRun:
    """The run with the options that its search found and, if it is a trial, of its rung's length.

    Raises:
        ClassroomError: if no candidate is left for it.
        RecipeError: if what it refers to is not trained.
    """
    overrides = (*run.overrides, *options_of(run))
    if run.epochs is not None:
        recipe = replace(run, overrides=overrides).recipe()
        overrides = (*overrides, *shortened(recipe, run.epochs), "train.test=false")
    return replace(run, overrides=overrides)


def options_of(run: PlannedRun) -> tuple[str, ...]:
    """The options that a search gives to a run, as overrides; none without a search.

    Raises:
        ClassroomError: if no candidate is left for it.
    """
    if not run.after:
        return run.candidate
    ranking = ranked(run.after)
    if run.place >= len(ranking):
        raise ClassroomError("no finished trial of its search is left to take its options from")
    return options_of(ranking[run.place])


def ranked(trials: Sequence[PlannedRun]) -> list[PlannedRun]:
    """The finished trials, the best on the development split first; equals in the list's order."""
    results = {trial.folder: result_of(trial) for trial in trials}
    finished = [trial for trial in trials if results[trial.folder] is not None]
    return sorted(finished, key=lambda trial: -(results[trial.folder] or 0.0))


def result_of(trial: PlannedRun) -> float | None:
    """A trial's result on the development split; None if it is not finished, or has none."""
    path = trial.folder / "summary.json"
    if not path.exists():
        return None
    summary = json.loads(path.read_text(encoding="utf-8"))
    result = summary["best"][f"dev_{headline_of(summary)}"]
    return None if result is None or math.isnan(result) else float(result)


def trials_of(suite: Suite, out: Path) -> list[SearchTrial]:
    """Every trial of every run of a suite, in the order of the file, rung by rung."""
    trials = []
    for name in suite.runs:
        rungs = suite.rungs(name, out)
        for number, rung in enumerate(rungs, start=1):
            going_on = len(rungs[number]) if number < len(rungs) else 1
            kept = ranked(rung)[:going_on]
            trials += [
                SearchTrial(
                    name, number, trial.epochs or 0, _known(trial), result_of(trial), trial in kept
                )
                for trial in rung
            ]
    return trials


def _known(run: PlannedRun) -> tuple[str, ...]:
    """The options of a run as far as its search has come."""
    try:
        return options_of(run)
    except ClassroomError:
        return ()
