"""One run: from a recipe to a run folder with a trained student."""

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from classroomkd.config import Recipe
from classroomkd.engine.build import Classroom, build_classroom, heard_mentors
from classroomkd.engine.ledger import Ledger
from classroomkd.engine.runs import RunFolder, environment
from classroomkd.engine.trainer import fit
from classroomkd.engine.tuning import tune_mentors
from classroomkd.errors import ClassroomError
from classroomkd.models import Network
from classroomkd.tasks import headline_title

Say = Callable[[str], None]


def train(
    recipe: Recipe,
    folder: Path | str,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool | None = None,
    say: Say = print,
) -> dict[str, Any]:
    """Train a recipe's student and leave a run folder that explains itself.

    The checkpoint is chosen on the development split; the test set is looked at once, at the end,
    for the last epoch's student and for the chosen one.

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
        ClassroomError: if the folder is taken, or data or weights do not fit.
    """
    run = RunFolder(folder)
    run.check(recipe, resume=resume, overwrite=overwrite)
    with run.claim():
        run.check(recipe, resume=resume, overwrite=overwrite)  # nobody has been here meanwhile
        classroom = build_classroom(recipe, say)
        run.prepare(recipe, fresh=not resume)
        begun = run.read_json("environment.json") if resume else {}
        ways = tune_mentors(classroom, begun.get("mentors"))
        if not resume:
            circumstances = _circumstances(classroom) | {"mentors": ways}
            run.write_json("environment.json", circumstances)
        ledger = Ledger([name for _, name in heard_mentors(recipe)])
        record = _Record(run, classroom, ledger, say)
        fit(
            classroom,
            on_lesson=ledger.add,
            on_epoch=record.epoch,
            checkpoint=run.checkpoint,
            resume=resume,
            progress=sys.stdout.isatty() if progress is None else progress,
        )
        return summarize(run, classroom)


def _circumstances(classroom: Classroom) -> dict[str, Any]:
    train = classroom.recipe.train
    return {
        **environment(classroom.device),
        "seed": classroom.recipe.seed,
        "learning_rate": train.optimizer.lr,
        "batch_size": train.batch_size,
        "steps_per_epoch": len(classroom.train),
        "training_samples": len(classroom.train.image_set),
        "development_samples": len(classroom.dev.image_set) if classroom.dev else 0,
        "fingerprint": classroom.train.image_set.fingerprint,
    }


class _Record:
    """Writes down each epoch: its row, its student, and the best student so far."""

    def __init__(self, run: RunFolder, classroom: Classroom, ledger: Ledger, say: Say) -> None:
        self.run, self.classroom, self.ledger, self.say = run, classroom, ledger, say
        self.headline = f"dev_{classroom.headline}"

    def epoch(self, number: int, student: Network, lr: float) -> None:
        row, mentors = self.ledger.read()
        if attendance := self.classroom.hearing.attendance:
            for mentor, share in zip(mentors, attendance.shares(), strict=True):
                mentor["asked"] = share
        row["lr"] = lr
        if not math.isfinite(row["loss"]):
            raise ClassroomError(
                f"epoch {number + 1}: the loss is no longer finite (learning rate {lr:.2g}). "
                "Lower train.optimizer.lr, set train.clip=1, or look at the mentors with "
                "`classroomkd doctor`"
            )
        dev = self.classroom.dev
        if dev is not None:
            results = self.classroom.evaluate(student, dev)
            row |= {f"dev_{name}": value for name, value in results.items()}
        result = row.get(self.headline)
        best = max((r[self.headline] for r in self._earlier(number)), default=-1.0)
        self.run.append("metrics.csv", number, [row])
        self.run.append("classroom.csv", number, mentors)
        self.classroom.save(student, self.run.last, number, result)
        if result is None or result > best:
            self.classroom.save(student, self.run.path, number, result)
        self.say(self._line(number, row))

    def _earlier(self, number: int) -> list[dict[str, Any]]:
        rows = self.run.read_csv("metrics.csv")
        return [row for row in rows if row["epoch"] < number and self.headline in row]

    def _line(self, number: int, row: dict[str, float]) -> str:
        name = headline_title(self.classroom.headline)
        dev = f"  dev {name} {row[self.headline]:5.2f} %" if self.headline in row else ""
        return (
            f"epoch {number + 1}/{self.classroom.recipe.train.epochs}  loss {row['loss']:.3f}{dev}"
        )


def summarize(run: RunFolder, classroom: Classroom) -> dict[str, Any]:
    """Judge the last and the chosen student on the test set, and write ``summary.json``."""
    loader = classroom.test_views()
    summary: dict[str, Any] = {
        "name": classroom.recipe.name,
        "method": classroom.recipe.method.name,
        "student": classroom.student.name,
        "seed": classroom.recipe.seed,
        "mentors": [mentor.name for mentor in classroom.mentors],
        "headline": classroom.headline,
        "test_samples": len(loader.image_set),
    }
    for key, folder in (("last", run.last), ("best", run.path)):
        student, epoch, result = classroom.load(folder)
        results = classroom.evaluate(student, loader)
        summary[key] = {
            "epoch": epoch,
            f"dev_{classroom.headline}": result,
            **{f"test_{name}": round(value, 4) for name, value in results.items()},
        }
    run.write_json("summary.json", summary)
    return summary
