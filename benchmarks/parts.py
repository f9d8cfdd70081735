"""The parts of the engine's step, timed apart."""

from statistics import median

import torch

from classroomkd.engine.classroom import Classroom
from classroomkd.engine.optim import build_optimizer, build_schedule
from classroomkd.engine.step import training_step
from classroomkd.engine.watch import Watch


def measure_parts(classroom: Classroom, device: torch.device) -> dict[str, float]:
    """Seconds of ``student``, ``mentors``, ``loss`` and ``data``: medians over an epoch's steps."""
    train = classroom.recipe.train
    optimizer = build_optimizer(classroom.student.parameters(), train)
    schedule = build_schedule(optimizer, train, len(classroom.train))
    seconds: dict[str, list[float]] = {"student": [], "mentors": [], "loss": [], "data": []}
    classroom.begin_epoch(0)
    batches = iter(classroom.train)
    for _ in range(len(classroom.train)):
        watch = Watch(device)
        batch = next(batches)
        watch.lap("data")
        lesson = training_step(classroom, batch, watch.lap)
        optimizer.zero_grad()
        lesson.loss.backward()
        optimizer.step()
        schedule.step()
        watch.lap("update")
        laps = {name: watch.seconds[name][0] for name in ("data", "mentors", "loss")}
        laps["student"] = watch.seconds["student"][0] + watch.seconds["update"][0]
        for name, value in laps.items():
            seconds[name].append(value)
    return {name: median(values[1:]) for name, values in seconds.items()}
