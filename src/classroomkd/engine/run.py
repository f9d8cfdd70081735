"""One run: from a recipe to a run folder with a trained student."""

import math
import sys
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

from classroomkd.config import RunRecipe
from classroomkd.config.published import published_notes
from classroomkd.core import Lesson
from classroomkd.engine.balance import FirstLesson
from classroomkd.engine.build import build_classroom
from classroomkd.engine.classroom import Classroom
from classroomkd.engine.devices import SINGLE_PROCESS, DistContext, join, must_start, start
from classroomkd.engine.evaluate_run import evaluate_together
from classroomkd.engine.meter import EpochMeter
from classroomkd.engine.runs import RunFolder, environment
from classroomkd.engine.trainer import fit
from classroomkd.engine.tuning import tune_mentors
from classroomkd.errors import ClassroomError
from classroomkd.models import Network
from classroomkd.tasks import result_title

Say = Callable[[str], None]
LAG = 0.05  # share of an epoch above which waiting for images is worth a word


def train(
    recipe: RunRecipe,
    folder: Path | str,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool | None = None,
    say: Say = print,
) -> dict[str, Any]:
    """Train a recipe's student and leave a run folder that explains itself.

    Where the recipe asks for several devices, a process is started for each; under ``torchrun``,
    its processes train together. The first of them writes and speaks, the others return when it
    has finished.

    The checkpoint is chosen on the development split; the test set is looked at once, at the end,
    for the last epoch's student and for the chosen one; with ``train.test: false``, never.

    Args:
        recipe: checked.
        folder: of the run; it must be new or empty.
        resume: continue after the last epoch that was completed.
        overwrite: replace an earlier run.
        progress: whether to show a bar; by default where somebody is watching.
        say: told about each epoch.

    Returns:
        What ``summary.json`` holds.

    Raises:
        ClassroomError: if the folder is taken, data or weights do not fit, or one of several
            processes dies.
    """
    run = RunFolder(folder)
    shown = sys.stdout.isatty() if progress is None else progress
    if must_start(recipe.train):
        run.check(recipe, resume=resume, overwrite=overwrite)
        start(recipe.train.devices, _train, (recipe, run, resume, overwrite, shown), say)
        return run.read_json("summary.json")
    return _train(recipe, run, resume, overwrite, shown, say)


def _train(
    recipe: RunRecipe, run: RunFolder, resume: bool, overwrite: bool, progress: bool, say: Say
) -> dict[str, Any]:
    """Train in this process, with the others of its team if there are any."""
    with join(recipe.train) as team, _held(run, recipe, resume, overwrite, team):
        return _train_together(recipe, run, resume, progress, say, team)


def _train_together(
    recipe: RunRecipe, run: RunFolder, resume: bool, progress: bool, say: Say, team: DistContext
) -> dict[str, Any]:
    """Train as one of a team. Nothing that it builds outlives it, and so nothing the team."""
    say = say if team.first else _nothing
    for note in published_notes(recipe):
        say(note)
    if not recipe.data.dev:
        say("no development split (data.dev is 0): the student that counts is the last epoch's")
    with team.first_ahead():
        classroom = build_classroom(recipe, say, team)
    if team.first:
        run.prepare(recipe, fresh=not resume)
    tuned = dict(ChainMap(*team.all_gather(tune_mentors(classroom))))  # each knows of its own
    circumstances = _circumstances(classroom, team) | {"mentors": tuned}
    if team.first and not resume:
        run.write_json("environment.json", circumstances)
        say(_sizes(circumstances))
    meter = EpochMeter([mentor.name for mentor in classroom.mentors])
    divided = team.size > 1 and recipe.train.student_placement == "shard"  # so are its gradients
    record = _Record(run, classroom, meter, say, SINGLE_PROCESS if divided else team)
    first = FirstLesson(recipe, classroom.student, classroom.method, say)
    classroom.first = None if resume or divided else first

    def on_lesson(lesson: Lesson) -> None:
        if classroom.first:
            first.look(lesson)
        meter.add(lesson)

    try:
        fit(
            classroom,
            on_lesson=on_lesson,
            on_epoch=record.epoch,
            checkpoint=run.checkpoint,
            resume=resume,
            progress=progress and team.first,
            team=team,
        )
    finally:
        classroom.mentor_outputs.close()
    return summarize(run, classroom)


@contextmanager
def _held(
    run: RunFolder, recipe: RunRecipe, resume: bool, overwrite: bool, team: DistContext
) -> Iterator[None]:
    """Check and lock the folder, once for the team."""
    if not team.first:
        yield
        return
    run.check(recipe, resume=resume, overwrite=overwrite)
    with run.claim():
        run.check(recipe, resume=resume, overwrite=overwrite)  # nobody has been here meanwhile
        yield


def _nothing(*_: object) -> None:
    """What all processes but the first say and write."""


def _sizes(circumstances: Mapping[str, Any]) -> str:
    """The effective batch and learning rate, in words.

    >>> _sizes({"processes": 2, "batch_size": 64, "batch_per_process": 32, "learning_rate": 0.05})
    'batches of 64 (32 in each of 2 processes), learning rate 0.05'
    """
    count, each = circumstances["processes"], circumstances["batch_per_process"]
    shared = f" ({each} in each of {count} processes)" if count > 1 else ""
    rate = circumstances["learning_rate"]
    return f"batches of {circumstances['batch_size']}{shared}, learning rate {rate:g}"


def _circumstances(classroom: Classroom, team: DistContext) -> dict[str, Any]:
    train = classroom.recipe.train
    return {
        **environment(classroom.device),
        "seed": classroom.recipe.seed,
        "learning_rate": train.optimizer.lr,
        "batch_size": train.batch_size,
        "processes": team.size,
        "batch_per_process": train.batch_size // team.size,
        "steps_per_epoch": len(classroom.train),
        **classroom.data_facts(),
    }


class _Record:
    """Evaluates the student after each epoch; the first process writes, and keeps the best so far.

    Args:
        run: written to.
        classroom: whose student it is.
        meter: of the epoch's lessons.
        say: told about each epoch.
        team: the processes that evaluate together: the first alone where only it has the student
            whole.
    """

    def __init__(
        self, run: RunFolder, classroom: Classroom, meter: EpochMeter, say: Say, team: DistContext
    ) -> None:
        self.run, self.classroom, self.meter, self.say = run, classroom, meter, say
        self.team = team
        self.headline = f"dev_{classroom.headline}"
        self.begun = perf_counter()
        self.extra = classroom.method.extra_epochs
        self.epochs = classroom.epochs

    def epoch(self, number: int, student: Network, lr: float) -> None:
        row, mentors = self.meter.read()
        if skip_schedule := self.classroom.mentor_outputs.skip_schedule:
            for mentor, share in zip(mentors, skip_schedule.shares(), strict=True):
                mentor["asked"] = share
        row["lr"] = lr
        if (waited := self.classroom.train.waited) is not None:
            row["waited"] = waited
        if not math.isfinite(row["loss"]):
            raise ClassroomError(
                f"epoch {number + 1}: the loss is no longer finite (learning rate {lr:.2g}). "
                "Lower train.optimizer.lr, set train.clip=1, or look at the mentors with "
                "`classroomkd doctor`"
            )
        dev = self.classroom.dev
        if dev is not None:
            results = evaluate_together(self.classroom.task, student, dev, self.team)
            row |= {f"dev_{name}": value for name, value in results.items()}
        if not self.team.first:
            return
        result = row.get(self.headline)
        if result is not None and math.isnan(result):  # nobody to judge by
            result = None
        best = max((r[self.headline] for r in self._earlier(number)), default=-1.0)
        self.run.append("metrics.csv", number, [row])
        self.run.append("classroom.csv", number, mentors)
        self._save(student, self.run.last, number, result)
        if result is None or result > best:
            self._save(student, self.run.path, number, result)
        own = number + 1 - self.extra  # the schedule's, which a recipe counts
        if own in self.classroom.recipe.train.snapshot_epochs:
            self._save(student, self.run.snapshot(own), number, result)
        self._count_time()
        self.say(self._line(number, row))

    def _save(self, student: Network, folder: Path, number: int, result: float | None) -> None:
        dataset = self.classroom.train.dataset
        self.classroom.task.save(student, folder, dataset, number, result)

    def _count_time(self) -> None:
        """Add the time since the last epoch to the run's, which a resumed run goes on with."""
        begun, self.begun = self.begun, perf_counter()
        facts = self.run.read_json("environment.json")
        facts["seconds"] = round(facts.get("seconds", 0) + self.begun - begun, 2)
        self.run.write_json("environment.json", facts)

    def _earlier(self, number: int) -> list[dict[str, Any]]:
        rows = self.run.read_csv("metrics.csv")
        judged = [row for row in rows if not math.isnan(row.get(self.headline, math.nan))]
        return [row for row in judged if row["epoch"] < number]

    def _line(self, number: int, row: dict[str, float]) -> str:
        name = result_title(self.classroom.headline)
        line = f"epoch {number + 1}/{self.epochs}  loss {row['loss']:.3f}"
        if self.headline in row:
            line += f"  dev {name} {row[self.headline]:5.2f} %"
        if row.get("waited", 0) > LAG:
            line += f"  ({100 * row['waited']:.0f} % of the time waiting for images)"
        return line


def summarize(run: RunFolder, classroom: Classroom) -> dict[str, Any]:
    """Write ``summary.json``: the last and the chosen student, judged on the test set if it may.

    All processes of the classroom's team judge; the first writes.
    """
    task, team, loader = classroom.task, classroom.team, None
    if classroom.recipe.train.test:
        with team.first_ahead():
            test_set = task.test_set()
        for note in test_set.notes if team.first else ():
            print(note, file=sys.stderr)
        loader = task.plain_loader(test_set)
    summary: dict[str, Any] = {
        "name": classroom.recipe.name,
        "task": task.name,
        "method": classroom.recipe.method.name,
        "student": classroom.student.name,
        "seed": classroom.recipe.seed,
        "mentors": [mentor.name for mentor in classroom.mentors],
        "headline": task.headline,
        "test_samples": len(loader.samples()) if loader else 0,
    }
    for key, folder in (("last", run.last), ("best", run.path)):
        saved = task.load(folder)
        student = saved.network.to(classroom.device)
        summary[key] = {"epoch": saved.epoch, f"dev_{task.headline}": saved.result}
        if loader is None:
            continue
        if key == "best" and team.first:
            task.illustrate(classroom, student, run.path)
        results = evaluate_together(task, student, loader, team)
        summary[key] |= {f"test_{name}": round(value, 4) for name, value in results.items()}
    if team.first:
        run.write_json("summary.json", summary)
    team.barrier()
    return summary
