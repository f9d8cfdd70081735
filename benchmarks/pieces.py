"""Two pieces of the step, each beside a student: the classroom's loss, and reading the bank.

Both take turns with the student within each round, and ratios are taken within rounds.

Shapes: ``M`` mentors, ``B`` samples, ``C`` classes.
"""

from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.timing import ratios, take_turns
from benchmarks.variants import (
    Settings,
    StudentSteps,
    build_bench,
    example_outputs,
    labels,
)
from classroomkd.data import Batch
from classroomkd.engine.mentor_outputs import MentorOutputs
from classroomkd.mentors import StoredMentor
from classroomkd.mentors.bank import Bank, Shard, encode
from classroomkd.methods import create_method

FAST = ("resnet8", "vgg8", "MobileNetV2")
"""Students of the zoo of which one is the fastest, depending on what a machine does well."""


def measure_loss(settings: Settings, device: torch.device) -> dict[str, list[float]]:
    """Seconds of the classroom's loss, forward and backward, and of the student's step.

    The logits have the shape of ``settings.loss``, and so have the student's batch and classes. The
    gradient goes down to the student's logits.

    Returns:
        ``loss`` and ``student``, a value for each round.
    """
    mentors, samples, classes = settings.loss
    alone = replace(settings, batch_size=samples, classes=classes, steps=1)
    classroom = build_bench(alone, device, ())
    half = classroom.recipe.train.precision == "bf16"
    dtype = torch.bfloat16 if half else torch.float32  # as the networks' logits have it
    chance = torch.Generator().manual_seed(0)
    said = 2 * torch.randn(1 + mentors, samples, classes, generator=chance).to(device, dtype)
    student, taught = said[0].requires_grad_(), list(said[1:].detach())
    batch, method = next(iter(classroom.train)), create_method("classroom").to(device)

    def learn() -> None:
        student.grad = None
        method(student, taught, batch.target).loss.backward()

    jobs = {"loss": learn, "student": StudentSteps(classroom, batch)}
    repeats = dict.fromkeys(jobs, settings.steps)
    return take_turns(jobs, settings.rounds, device, repeats=repeats)


def measure_bank(settings: Settings, device: torch.device, folder: Path) -> dict[str, Any]:
    """Samples a second that a bank gives, and that fast students of the zoo take.

    The bank has as many mentors as the classroom, with all classes in float16. What is timed is an
    epoch of reading it: opening the shards, checksums included, and recalling all mentors' logits
    of each batch, in a shuffled order. Files are in the system's cache.

    Returns:
        ``samples_per_second`` of the ``bank`` and of each student; the ``fastest`` of these;
        ``ratios`` of the bank to it, a value for each round.
    """
    students = {}
    for name in FAST:
        classroom = build_bench(replace(settings, student=name, steps=1), device, ())
        students[name] = StudentSteps(classroom, next(iter(classroom.train)))
    jobs = {"bank": _Epochs(settings, device, folder), **students}
    samples = {"bank": settings.stored} | dict.fromkeys(students, settings.batch_size)
    repeats = {"bank": 1} | dict.fromkeys(students, settings.steps)
    seconds = take_turns(jobs, settings.rounds, device, repeats=repeats)
    rates = {name: [samples[name] / taken for taken in row] for name, row in seconds.items()}
    medians = {name: median(row) for name, row in rates.items()}
    fastest = max(students, key=medians.__getitem__)
    return {
        "samples_per_second": medians,
        "fastest": fastest,
        "ratios": ratios(rates["bank"], rates[fastest]),
    }


class _Epochs:
    """A bank of random logits, and an epoch of reading it at each call."""

    def __init__(self, settings: Settings, device: torch.device, folder: Path) -> None:
        self.device, chance = device, torch.Generator().manual_seed(0)
        count, classes = settings.stored, settings.classes
        target = torch.randint(0, classes, (count,), generator=chance)
        self.index = torch.randperm(count, generator=chance)
        places = self.index.split(settings.batch_size)
        images = torch.empty(0, device=device)  # nobody is asked
        self.batches = [Batch(images, target[i].to(device), i.to(device)) for i in places]
        bank, mentors, stores = Bank(folder, {"views": "of the benchmark"}), [], []
        for place, name in enumerate(settings.mentors):
            store = bank.mentor(f"{place}-{name}", {"weights": "random"})
            logits = 2 * torch.randn(count, classes, generator=chance)
            store.save(0, Shard(torch.arange(count), encode(logits, target)))
            mentors.append(StoredMentor(name, "peer", store.folder))
            stores.append(store)
        method = create_method("classroom")
        self.mentor_outputs = MentorOutputs(
            mentors, method, example_outputs(classes, device), labels, stores
        )

    def __call__(self) -> None:
        self.mentor_outputs.begin(0, self.index)
        for batch in self.batches:
            self.mentor_outputs(batch)
