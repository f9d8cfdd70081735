"""Run a suite: every run of every seed, in order, as far as it is not done already."""

import os
import shlex
import subprocess
import sys
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from enum import StrEnum
from pathlib import Path

from classroomkd.config.schema import RunRecipe
from classroomkd.config.search import shortened
from classroomkd.config.suite import PlannedRun, Suite, recipes_of
from classroomkd.engine.run import train
from classroomkd.engine.runs import RunFolder
from classroomkd.errors import ClassroomError, unknown_name
from classroomkd.methods import create_method
from classroomkd.suite.records import write_records
from classroomkd.suite.search import options_of, resolved

Say = Callable[[str], None]


class State(StrEnum):
    """What is in a run's folder, in words that say what becomes of it."""

    NEW = "begins"
    BEGUN = "goes on"
    STALE = "begins anew"
    DONE = "is done"


def run_suite(
    suite: Suite,
    out: Path,
    *,
    only: Sequence[str] = (),
    seeds: Sequence[int] = (),
    jobs: int = 1,
    overwrite: bool = False,
    say: Say = print,
) -> dict[str, str]:
    """Train what is not trained yet, each run into ``<out>/<name>-s<seed>``.

    A finished run of the same recipe is kept, an interrupted one goes on after its last epoch. A
    run that fails stops none but those that refer to it; a trial that fails is out of its search.
    ``runs.csv`` and ``search.csv`` in `out` are written anew after each.

    Args:
        suite: checked.
        out: folder for the runs.
        only: names of the runs to look at; all if empty.
        seeds: of runs that have some of these, only they; runs that have none are left whole.
        jobs: how many trainings at once. Above 1 each has a process and one thread of its own.
        overwrite: replace runs whose recipe, or a run that they refer to, has changed.
        say: told about the progress, with the run's name before each line.

    Returns:
        Why runs failed, by the name of their folder; empty if all went well.

    Raises:
        ClassroomError: before anything is trained, if a run must be replaced, or refers to one
            that is not there.
    """
    planned = suite.planned(out)
    states = _states(planned)
    chosen = choose(suite, planned, only, seeds)
    _check(chosen, states, overwrite=overwrite)
    due = _unsettled(chosen, states)
    say(_announcement(suite, chosen, len(due), out))

    def record() -> None:
        write_records(suite, out)

    try:
        return _train_all(due, states, jobs, say, overwrite=overwrite, record=record)
    except KeyboardInterrupt:
        raise ClassroomError("interrupted: the same command goes on from here") from None


def foresee(
    suite: Suite, out: Path, *, only: Sequence[str] = (), seeds: Sequence[int] = ()
) -> list[str]:
    """A line for each run and trial: the epochs that are left of it, and its command.

    Where a search is yet to choose, the command says from which trials instead of the options.
    """
    planned = suite.planned(out)
    states, recipes = _states(planned), recipes_of(suite)
    lines, total = [], 0
    for run in choose(suite, planned, only, seeds):
        recipe, state = recipes[run.name], states[run.folder]
        epochs = _epochs_left(run, recipe, state)
        total += epochs
        lines.append(f"{epochs:4d} epochs  # {run.folder.name} {state.value}")
        if state is not State.DONE:
            lines.append(f"  {_command(run, recipe, state)}")
    return [*lines, f"{total:4d} epochs in all"]


def _epochs_left(run: PlannedRun, recipe: RunRecipe, state: State) -> int:
    if state is State.DONE:
        return 0
    done = RunFolder(run.folder).read_csv("metrics.csv") if state is State.BEGUN else ()
    epochs = run.epochs or recipe.train.epochs
    extra = create_method(recipe.method.name, **recipe.method.options).extra_epochs
    before = max(1, round(extra * epochs / recipe.train.epochs)) if extra else 0
    return before + epochs - len({row["epoch"] for row in done})


def _command(run: PlannedRun, recipe: RunRecipe, state: State) -> str:
    overrides = list(run.overrides)
    try:
        overrides += options_of(run)
    except ClassroomError:
        rung = run.after[0].folder.name.rpartition("-")[0]
        overrides.append(f"<options of {rung}, place {run.place + 1}>")
    if run.epochs is not None:
        overrides += [*shortened(recipe, run.epochs), "train.test=false"]
    arguments = [*_arguments(run, state), *overrides]
    return shlex.join(["classroomkd", *arguments])


def _arguments(run: PlannedRun, state: State) -> list[str]:
    """What ``classroomkd`` is given to train a run, its overrides aside."""
    flags = {State.BEGUN: ["--resume"], State.STALE: ["--overwrite"]}.get(state, [])
    return ["train", "--out", str(run.folder), *flags, "--", str(run.base)]


def choose(
    suite: Suite, planned: Sequence[PlannedRun], only: Sequence[str], seeds: Sequence[int]
) -> list[PlannedRun]:
    """The runs of these names and seeds, with the trials of their searches.

    Raises:
        ClassroomError: if there is no such name, or no such seed.
    """
    for name in only:
        if name not in suite.runs:
            raise ClassroomError(f"--only: {unknown_name('run', name, suite.runs)}")
    known = {seed for name in suite.runs for seed in suite.seeds_of(name)}
    if missing := [str(seed) for seed in seeds if seed not in known]:
        known_text = ", ".join(map(str, sorted(known)))
        raise ClassroomError(f"--seeds: no run has seed {missing[0]} (seeds: {known_text})")

    def wanted(run: PlannedRun) -> bool:
        if only and run.name not in only:
            return False
        some = set(seeds).intersection(suite.seeds_of(run.name))
        return run.epochs is not None or not some or run.seed in some

    return [run for run in planned if wanted(run)]


def _announcement(suite: Suite, chosen: Sequence[PlannedRun], due: int, out: Path) -> str:
    """How much there is, how much of it is done, and what each search may cost."""
    text = f"{len(chosen)} runs, {len(chosen) - due} of them done already, in {out}"
    searched = dict.fromkeys(run.name for run in chosen if run.epochs is not None)
    return f"{text}\nsearch of {', '.join(searched)}: {suite.search} each" if searched else text


def changed_runs(suite: Suite, out: Path) -> list[str]:
    """Finished runs in `out` that a suite, as it is now, would train otherwise."""
    states = _states(suite.planned(out))
    stale = [folder for folder, state in states.items() if state is State.STALE]
    return [folder.name for folder in stale if (folder / "summary.json").exists()]


def _states(planned: Sequence[PlannedRun]) -> dict[Path, State]:
    """What is in each run's folder; runs stand after those that they need."""
    states: dict[Path, State] = {}
    for run in planned:
        states[run.folder] = _state(run, states)
    return states


def _state(run: PlannedRun, states: Mapping[Path, State]) -> State:
    """What is in a run's folder, from what is in those of the runs before it."""
    ready = all(states[needed] is State.DONE for needed in run.needs)
    ready = ready and all(states[trial.folder] is not State.STALE for trial in run.after)
    finished = (run.folder / "summary.json").exists()
    if not finished and not RunFolder(run.folder).checkpoint.exists():
        return State.NEW
    if not (ready and _as_planned(run)):
        return State.STALE
    return State.DONE if finished else State.BEGUN


def _unsettled(chosen: Sequence[PlannedRun], states: Mapping[Path, State]) -> list[PlannedRun]:
    """The runs that are not done, or stand after such: a search may yet choose otherwise."""
    due: dict[Path, PlannedRun] = {}
    for run in chosen:
        before = (*run.needs, *(trial.folder for trial in run.after))
        if states[run.folder] is not State.DONE or any(folder in due for folder in before):
            due[run.folder] = run
    return list(due.values())


def _undecided(chosen: Sequence[PlannedRun], states: Mapping[Path, State]) -> set[Path]:
    """Folders of which nothing can be said before the trials that come first are over."""
    undecided: set[Path] = set()
    for run in chosen:
        open_trials = (states[trial.folder] in (State.NEW, State.BEGUN) for trial in run.after)
        before = (*run.needs, *(trial.folder for trial in run.after))
        if any(open_trials) or not undecided.isdisjoint(before):
            undecided.add(run.folder)
    return undecided


def _as_planned(run: PlannedRun) -> bool:
    """Whether a run was trained by its recipe, from the runs that are now in its needs' folders."""
    try:
        same = not RunFolder(run.folder).changes(resolved(run).recipe())
    except ClassroomError:  # of an older version, or its mentors, or its search, have gone
        return False
    return same and all(_started(needed) <= _started(run.folder) for needed in run.needs)


def _started(folder: Path) -> str:
    return RunFolder(folder).read_json("environment.json")["started"]  # ISO 8601, UTC


def _check(chosen: Sequence[PlannedRun], states: Mapping[Path, State], *, overwrite: bool) -> None:
    """See that what the runs need will be there, and that nothing is replaced unasked."""
    there = {folder for folder, state in states.items() if state is State.DONE}
    there |= {run.folder for run in chosen}
    for run in chosen:
        for needed in run.needs:
            if needed not in there:
                name = needed.name.rpartition("-s")[0]
                raise ClassroomError(
                    f"{run.folder.name} needs {needed.name}, which is not trained by this suite's "
                    f"recipe: add --only {name}"
                )
    undecided = _undecided(chosen, states)
    stale = [
        str(run.folder)
        for run in chosen
        if states[run.folder] is State.STALE and run.folder not in undecided
    ]
    if stale and not overwrite:
        raise ClassroomError(
            f"trained by another recipe, or from mentors that have changed: {', '.join(stale)}. "
            "Replace them with --overwrite, or choose another folder with --out"
        )


class _Here(Executor):
    """An executor for one job at a time: in this thread, at once."""

    def submit(self, fn: Callable, /, *args: object, **kwargs: object) -> Future:
        future: Future = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def _train_all(
    due: Sequence[PlannedRun],
    states: dict[Path, State],
    jobs: int,
    say: Say,
    *,
    overwrite: bool,
    record: Callable[[], None],
) -> dict[str, str]:
    """Train runs in order, up to `jobs` at once, each after those that it needs or stands after."""
    failures: dict[str, str] = {}
    waiting, running = list(due), dict[Future, PlannedRun]()
    work, executor = (
        (_train_here, _Here()) if jobs == 1 else (_train_apart, ThreadPoolExecutor(jobs))
    )
    with executor:
        while waiting or running:
            pending = {run.folder for run in (*waiting, *running.values())}
            ready = [
                run
                for run in waiting
                if pending.isdisjoint((*run.needs, *(trial.folder for trial in run.after)))
            ]
            for run in ready[: jobs - len(running)]:
                waiting.remove(run)
                if lacking := [need.name for need in run.needs if need.name in failures]:
                    failures[run.folder.name] = f"not begun, as {lacking[0]} failed"
                    continue
                if stale := [t for t in run.after if states[t.folder] is State.STALE]:
                    # What it came to is there, but not with the options that are now its own.
                    name = stale[0].folder.name
                    failures[run.folder.name] = f"not begun, as {name} is of an earlier search"
                    continue
                try:
                    complete = resolved(run)
                except ClassroomError as error:
                    failures[run.folder.name] = str(error)
                    continue
                state = states[run.folder] = _state(run, states)  # a search may have chosen anew
                if state is State.DONE:
                    continue
                if state is State.STALE and not overwrite:
                    failures[run.folder.name] = (
                        f"{run.folder} was trained with other options than its search has now"
                        " found: replace it with --overwrite"
                    )
                    continue
                say(f"{run.folder.name} {state.value}{_told_options(complete, run)}")
                running[executor.submit(work, complete, state, say)] = run
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                run = running.pop(future)
                if reason := future.result():
                    failures[run.folder.name] = reason
                    say(f"{run.folder.name} failed: {reason}")
                else:
                    states[run.folder] = State.DONE
                record()
    return failures


def _told_options(complete: PlannedRun, run: PlannedRun) -> str:
    found = complete.overrides[len(run.overrides) :]
    return f" ({', '.join(found)})" if found else ""


def _train_here(run: PlannedRun, state: State, say: Say) -> str:
    """Train in this process; returns why it failed, or nothing."""
    try:
        train(
            run.recipe(),
            run.folder,
            resume=state is State.BEGUN,
            overwrite=state is State.STALE,
            say=lambda line: say(f"{run.folder.name}: {line}"),
        )
    except (ClassroomError, OSError) as error:
        return str(error)
    except Exception as error:  # whatever it is, the other runs do not depend on it
        say(traceback.format_exc())
        return f"{type(error).__name__}: {error}"
    return ""


def _train_apart(run: PlannedRun, state: State, say: Say) -> str:
    """Train with ``classroomkd train`` in a process with one thread, like `_train_here`."""
    program = [sys.executable, "-c", "from classroomkd.cli import main; main()"]
    process = subprocess.Popen(
        [*program, *_arguments(run, state), *run.overrides],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
    )
    last: deque[str] = deque(maxlen=20)
    with process:
        for line in process.stdout or ():
            say(f"{run.folder.name}: {line.rstrip()}")
            last.append(line.rstrip())
    if process.returncode == 0:
        return ""
    text = "\n".join(last)
    return text.rpartition("error: ")[2] or f"ended with code {process.returncode}"
