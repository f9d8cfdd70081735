"""Run a suite: every run of every seed, in order, as far as it is not done already."""

import os
import subprocess
import sys
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from enum import StrEnum
from pathlib import Path

from classroomkd.config.suite import PlannedRun, Suite
from classroomkd.engine.run import train
from classroomkd.engine.runs import RunFolder
from classroomkd.errors import ClassroomError, RecipeError, unknown_name

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
    jobs: int = 1,
    overwrite: bool = False,
    say: Say = print,
) -> dict[str, str]:
    """Train what is not trained yet, each run into ``<out>/<name>-s<seed>``.

    A finished run of the same recipe is kept, an interrupted one goes on after its last epoch. A
    run that fails stops none but those that refer to it.

    Args:
        suite: checked.
        out: folder for the runs.
        only: names of the runs to look at; all if empty.
        jobs: how many trainings at once. Above 1 each has a process and one thread of its own.
        overwrite: replace runs whose recipe, or a run that they refer to, has changed.
        say: told about the progress, with the run's name before each line.

    Returns:
        Why runs failed, by the name of their folder; empty if all went well.

    Raises:
        ClassroomError: before anything is trained, if a run must be replaced, or refers to one
            that is not there.
    """
    for name in only:
        if name not in suite.runs:
            raise ClassroomError(f"--only: {unknown_name('run', name, suite.runs)}")
    planned = suite.planned(out)
    states = _states(planned)
    chosen = [run for run in planned if not only or run.name in only]
    _check(chosen, states, overwrite=overwrite)
    due = [run for run in chosen if states[run.folder] is not State.DONE]
    say(f"{len(chosen)} runs, {len(chosen) - len(due)} of them done already, in {out}")
    try:
        return _train_all(due, states, jobs, say)
    except KeyboardInterrupt:
        raise ClassroomError("interrupted: the same command goes on from here") from None


def changed_runs(suite: Suite, out: Path) -> list[str]:
    """Finished runs in `out` that a suite, as it is now, would train otherwise."""
    states = _states(suite.planned(out))
    stale = [folder for folder, state in states.items() if state is State.STALE]
    return [folder.name for folder in stale if (folder / "summary.json").exists()]


def _states(planned: Sequence[PlannedRun]) -> dict[Path, State]:
    """What is in each run's folder; runs stand after those that they need."""
    states: dict[Path, State] = {}
    for run in planned:
        ready = all(states[needed] is State.DONE for needed in run.needs)
        finished = (run.folder / "summary.json").exists()
        if not finished and not RunFolder(run.folder).checkpoint.exists():
            states[run.folder] = State.NEW
        elif not (ready and _as_planned(run)):
            states[run.folder] = State.STALE
        else:
            states[run.folder] = State.DONE if finished else State.BEGUN
    return states


def _as_planned(run: PlannedRun) -> bool:
    """Whether a run was trained by its recipe, from the runs that are now in its needs' folders."""
    try:
        same = not RunFolder(run.folder).changes(run.recipe())
    except RecipeError:  # of an older version, or its mentors have gone
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
    stale = [str(run.folder) for run in chosen if states[run.folder] is State.STALE]
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
    due: Sequence[PlannedRun], states: Mapping[Path, State], jobs: int, say: Say
) -> dict[str, str]:
    """Train runs in order, up to `jobs` at once, each after those that it needs."""
    failures: dict[str, str] = {}
    waiting, running = list(due), dict[Future, PlannedRun]()
    work, executor = (
        (_train_here, _Here()) if jobs == 1 else (_train_apart, ThreadPoolExecutor(jobs))
    )
    with executor:
        while waiting or running:
            pending = {run.folder for run in (*waiting, *running.values())}
            ready = [run for run in waiting if pending.isdisjoint(run.needs)]
            for run in ready[: jobs - len(running)]:
                waiting.remove(run)
                if lacking := [need.name for need in run.needs if need.name in failures]:
                    failures[run.folder.name] = f"not begun, as {lacking[0]} failed"
                    continue
                state = states[run.folder]
                say(f"{run.folder.name} {state.value}")
                running[executor.submit(work, run, state, say)] = run
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                run = running.pop(future)
                if reason := future.result():
                    failures[run.folder.name] = reason
                    say(f"{run.folder.name} failed: {reason}")
    return failures


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
    flags = {State.BEGUN: ["--resume"], State.STALE: ["--overwrite"]}.get(state, [])
    program = [sys.executable, "-c", "from classroomkd.cli import main; main()"]
    command = [*program, "train", "--out", str(run.folder), *flags, "--", str(run.base)]
    process = subprocess.Popen(
        [*command, *run.overrides],
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
