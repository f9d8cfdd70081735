"""The parts of the engine's step, timed apart."""

from statistics import median

import torch

from benchmarks.clock import now
from classroomkd.engine.classroom import Classroom
from classroomkd.engine.mentor_outputs import outputs
from classroomkd.engine.optim import build_optimizer, build_schedule
from classroomkd.engine.precision import autocast


def measure_parts(classroom: Classroom, device: torch.device) -> dict[str, float]:
    """Seconds of ``student``, ``mentors``, ``loss`` and ``data``: medians over an epoch's steps."""
    train = classroom.recipe.train
    student, method = classroom.student, classroom.method
    optimizer = build_optimizer(student.parameters(), train)
    schedule = build_schedule(optimizer, train, len(classroom.train))
    seconds: dict[str, list[float]] = {"student": [], "mentors": [], "loss": [], "data": []}
    classroom.begin_epoch(0)
    batches = iter(classroom.train)
    for _ in range(len(classroom.train)):
        marks = [now(device)]
        batch = next(batches)
        marks.append(now(device))
        with autocast(device, train.precision):
            taught = [outputs(mentor, batch.images, method) for mentor in classroom.mentors]
            marks.append(now(device))
            learnt = outputs(student, batch.images, method).logits
        marks.append(now(device))
        logits = learnt.detach().requires_grad_()
        method(logits, taught, batch.target).loss.backward()
        marks.append(now(device))
        optimizer.zero_grad()
        learnt.backward(logits.grad)
        optimizer.step()
        schedule.step()
        marks.append(now(device))
        data, mentors, forward, loss, rest = (
            end - start for start, end in zip(marks[:-1], marks[1:], strict=True)
        )
        for name, value in zip(seconds, (forward + rest, mentors, loss, data), strict=True):
            seconds[name].append(value)
    return {name: median(values[1:]) for name, values in seconds.items()}
