"""What each method costs: its own forward and backward pass, beside the student's step.

The networks' outputs are given, so that what is timed is the method alone: the loss, its adapters
and memories, and the gradient down to the student's outputs. Methods take turns within each round,
and ratios are taken to the student's step of the same round.
"""

import json
from collections.abc import Callable
from dataclasses import asdict
from operator import truediv
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from benchmarks.timing import take_turns
from benchmarks.variants import Settings, StudentSteps, build_bench
from classroomkd.data import Batch
from classroomkd.engine.classroom import Classroom
from classroomkd.engine.places import choose_device
from classroomkd.engine.precision import autocast
from classroomkd.engine.runs import environment
from classroomkd.methods import Outputs, create_method, list_methods, method_class
from classroomkd.methods.base import read_outputs

SAMPLES = 50_000  # what methods with a memory remember: CIFAR-100's training set


def run_costs(
    out: Path | None = None,
    *,
    say: Callable[[str], None] = print,
    settings: Settings | None = None,
    names: list[str] | None = None,
) -> dict[str, Any]:
    """Measure what methods cost with their default options, and print a row for each.

    Methods of several mentors hear all of the settings' mentors, those of one the first.

    Args:
        out: also write the numbers there, as JSON.
        say: told the results.
        settings: another classroom than the usual one.
        names: of the methods; all if left out.

    Returns:
        What the JSON holds: for each method ``share`` (its time over the student's step, a median
        over rounds), ``milliseconds``, ``mentors`` and ``parameters``; ``student_milliseconds``,
        ``settings`` and ``environment``.
    """
    settings = settings or Settings(tuned=False)
    device = choose_device("auto")
    classroom = build_bench(settings, device)
    classroom.begin_epoch(0)
    batch = next(iter(classroom.train))
    lessons: dict[str, _Lessons] = {}
    for name in names or list_methods():
        try:
            lessons[name] = _Lessons(name, classroom, batch)
        except ValueError as error:  # such as kdsvd's, of stages that differ in width
            say(f"{name} is left out: {error}")
    student = StudentSteps(classroom, batch)
    seconds = take_turns({"student": student, **lessons}, settings.rounds, device, warm_up=2)
    result = {
        "methods": {
            name: {
                "share": median(map(truediv, seconds[name], seconds["student"])),
                "milliseconds": 1000 * median(seconds[name]),
                "mentors": len(lesson.mentors),
                "parameters": sum(p.numel() for p in lesson.method.parameters()),
            }
            for name, lesson in lessons.items()
        },
        "student_milliseconds": 1000 * median(seconds["student"]),
        "settings": asdict(settings),
        "environment": environment(device),
    }
    _describe(result, say)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=2) + "\n")
    return result


class _Lessons:
    """One method on given outputs: its loss and the gradient to the student and to itself."""

    def __init__(self, name: str, classroom: Classroom, batch: Batch) -> None:
        self.method, self.batch = create_method(name), batch
        heard = {0: 0, 1: 1, "many": len(classroom.mentors)}[method_class(name).num_mentors]
        precision = classroom.recipe.train.precision
        with torch.no_grad(), autocast(classroom.device, precision):
            wanted = {
                "features": self.method.needs_features,
                "preactivations": self.method.needs_preactivations,
            }
            student = read_outputs(classroom.student, batch.images, **wanted)
            said = [m.outputs(batch.images, **wanted) for m in classroom.mentors[:heard]]
            index = torch.arange(SAMPLES, device=classroom.device)
            self.method.on_train_set(index, index % len(classroom.train.dataset.classes))
        self.mentors = said
        self.student = _leaves(student)
        with torch.no_grad():
            self.method.setup(self.student, said)
        self.method.to(classroom.device)

    def __call__(self) -> None:
        batch = self.batch
        self.method(self.student, self.mentors, batch.target, batch.index).loss.backward()


def _leaves(outputs: Outputs) -> Outputs:
    def leaf(value: Tensor) -> Tensor:
        return value.detach().requires_grad_()

    features = {name: leaf(value) for name, value in outputs.features.items()}
    return Outputs(leaf(outputs.logits), features, outputs.classifier)


def _describe(result: dict[str, Any], say: Callable[[str], None]) -> None:
    settings, where = result["settings"], result["environment"]
    say(
        f"a method's forward and backward pass / the student's step ({settings['student']}, batch"
        f" of {settings['batch_size']}, {settings['classes']} classes), medians of"
        f" {settings['rounds']} rounds:"
    )
    rows = sorted(result["methods"].items(), key=lambda row: row[1]["share"])
    for name, row in rows:
        own = f", {row['parameters'] / 1e6:.2f} M parameters" if row["parameters"] else ""
        count = f"{row['mentors']} mentor{'' if row['mentors'] == 1 else 's'}"
        say(
            f"  {name:14s}{100 * row['share']:8.1f} %  ({row['milliseconds']:.1f} ms; {count}{own})"
        )
    say(f"{where['hardware']} ({where['device']}), {where['threads']} threads")


def main(
    out: Annotated[Path | None, typer.Option(help="Also write the numbers as JSON.")] = None,
) -> None:
    """Measure what each method's own computation costs, beside the student's step."""
    run_costs(out)


if __name__ == "__main__":
    typer.run(main)
