"""Images a second of the whole training step: this engine, its Trainer, and the textbook loop.

The contenders take turns within each round, so that whatever else the machine does meets all of
them; ratios are taken within rounds. All are timed alike, from the first step's loss to the last
one's: this leaves out start-up and contains ``steps`` whole steps.
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import torch

from classroomkd.bench.contenders import TITLES, Settings, build_bench, build_contenders
from classroomkd.engine.build import Classroom, choose_device
from classroomkd.engine.hearing import outputs
from classroomkd.engine.optim import build_optimizer, build_schedule
from classroomkd.engine.precision import autocast
from classroomkd.engine.runs import environment

Values = dict[str, list[float]]  # by name, one a round


class _Clock:
    """A tick that notes the time of its first call, and of the one ``steps`` later."""

    def __init__(self, device: torch.device, steps: int) -> None:
        self.device, self.steps = device, steps
        self.calls, self.start, self.end = 0, 0.0, 0.0

    def __call__(self, _: object) -> None:
        if self.calls == 0:
            self.start = now(self.device)
        elif self.calls == self.steps:
            self.end = now(self.device)
        self.calls += 1

    def seconds(self) -> float:
        if self.calls != self.steps + 1:
            raise RuntimeError(f"{self.calls} steps were run instead of {self.steps + 1}")
        return self.end - self.start


def run_benchmark(
    out: Path | None = None,
    *,
    say: Callable[[str], None] = print,
    settings: Settings | None = None,
) -> dict[str, Any]:
    """Measure images a second of a whole training step, and say how the contenders compare.

    A step is: views of the batch, mentors, student forward and backward, loss, optimizer.

    Args:
        out: also write the numbers there, as JSON.
        say: told the results.
        settings: another classroom than the usual one.

    Returns:
        What the JSON holds: ``ratios`` and ``images_per_second`` (medians over rounds), ``rounds``
        (images a second in each), ``milliseconds`` and ``shares`` of the parts of the engine's
        step, ``settings`` and ``environment``.
    """
    settings = settings or Settings()
    device = choose_device("auto")
    circumstances = environment(device)
    if hasattr(os, "getloadavg"):
        circumstances["load_before"] = round(os.getloadavg()[0], 2)
    say(f"{settings.rounds} rounds of {settings.steps} steps; this takes some minutes on a CPU")
    rates = _measure(settings, device)
    ratios = _ratios(rates)
    parts = _parts(build_bench(settings, device), device)
    result = {
        "ratios": {name: median(values) for name, values in ratios.items()},
        "images_per_second": {name: median(values) for name, values in rates.items()},
        "milliseconds": {name: 1000 * seconds for name, seconds in parts.items()},
        "shares": {name: seconds / sum(parts.values()) for name, seconds in parts.items()},
        "rounds": rates,
        "settings": asdict(settings),
        "environment": circumstances,
    }
    _describe(result, ratios, say)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=2) + "\n")
    return result


def _measure(settings: Settings, device: torch.device) -> Values:
    contenders = build_contenders(settings, device)
    rates: Values = {name: [] for name in contenders}
    for number in range(settings.rounds + 1):
        for name, contender in contenders.items():
            clock = _Clock(device, settings.steps)
            contender(clock)
            if number:  # the first round is warm-up
                rates[name].append(settings.steps * settings.batch_size / clock.seconds())
    return rates


def _ratios(rates: Values) -> Values:
    def quotient(one: str, other: str) -> list[float]:
        return [a / b for a, b in zip(rates[one], rates[other], strict=True)]

    return {
        "engine_vs_textbook": quotient("engine", "textbook"),
        "trainer_overhead_percent": [100 * (q - 1) for q in quotient("engine", "trainer")],
        "engine_vs_alone": quotient("engine", "engine_alone"),
        "alone_vs_textbook_alone": quotient("engine_alone", "textbook_alone"),
    }


def _parts(classroom: Classroom, device: torch.device) -> dict[str, float]:
    """Seconds of the parts of the engine's step, timed apart: medians over an epoch's steps."""
    train = classroom.recipe.train
    student, method = classroom.student, classroom.method
    optimizer = build_optimizer(student.parameters(), train)
    schedule = build_schedule(optimizer, train, len(classroom.train))
    seconds: Values = {"student": [], "mentors": [], "loss": [], "data": []}
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


def _describe(result: dict[str, Any], ratios: Values, say: Callable[[str], None]) -> None:
    settings, where = result["settings"], result["environment"]
    rounds = f"medians of {settings['rounds']} rounds of {settings['steps']} steps"
    low = {name: min(values) for name, values in ratios.items()}
    high = {name: max(values) for name, values in ratios.items()}

    def ratio(text: str, name: str, unit: str, sign: str = "") -> None:
        span = f"{low[name]:{sign}.2f} to {high[name]:{sign}.2f}"
        say(f"  {text:50s}{result['ratios'][name]:{sign}7.2f} {unit}  ({span})")

    say(f"ratios of images a second, {rounds} (least to greatest round):")
    ratio("this engine / textbook loop", "engine_vs_textbook", "x")
    ratio(
        "time that the Trainer adds to the engine's plain loop",
        "trainer_overhead_percent",
        "%",
        "+",
    )
    count = len(settings["mentors"])
    ratio(f"this engine, with {count} mentors / student alone", "engine_vs_alone", "x")
    ratio("student alone: this engine / textbook loop", "alone_vs_textbook_alone", "x")
    say(f"images a second, {rounds}:")
    for name, value in result["images_per_second"].items():
        say(f"  {TITLES[name]:50s}{value:7.0f}")
    say(f"share of the engine's step, parts timed apart, medians of {settings['steps']} steps:")
    for name, share in result["shares"].items():
        say(f"  {name:50s}{100 * share:7.1f} %  ({result['milliseconds'][name]:.1f} ms)")
    say(
        f"{settings['student']} from {', '.join(settings['mentors'])}; batch of "
        f"{settings['batch_size']}, random weights and images of 32 x 32 in memory"
    )
    load = f", load average {where['load_before']} before" if "load_before" in where else ""
    say(
        f"{where['hardware']} ({where['device']}), {where['threads']} threads, "
        f"torch {where['packages']['torch']}, lightning {where['packages']['lightning']}{load}"
    )


def now(device: torch.device) -> float:
    """The time in seconds, once the device has done what it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
