"""Images a second of the whole training step: this engine, its Trainer, and the textbook loop.

The contenders take turns within each round, so that whatever else the machine does meets all of
them; ratios are taken within rounds. All are timed alike, from the first step's loss to the last
one's: this leaves out start-up and contains ``steps`` whole steps.
"""

import json
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch

from classroomkd.bench.apart import Apart
from classroomkd.bench.clock import Clock, now
from classroomkd.bench.clock import ratios as quotients
from classroomkd.bench.contenders import (
    TITLES,
    Settings,
    build_bench,
    build_contenders,
    mentor_ways,
)
from classroomkd.bench.roofline import measure_roofline, peak_memory
from classroomkd.bench.scaling import measure_scaling
from classroomkd.engine.build import Classroom, choose_device
from classroomkd.engine.hearing import outputs
from classroomkd.engine.optim import build_optimizer, build_schedule
from classroomkd.engine.precision import autocast
from classroomkd.engine.runs import environment
from classroomkd.mentors.tuning import keep_freed_memory

Values = dict[str, list[float]]  # by name, one a round


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
        step, ``scaling`` (time of a step with so many mentors over that of the student alone, live
        and banked), ``roofline`` (operations a second of each network, and of this machine's
        fastest matrix product), ``peak_memory`` in bytes, ``settings`` and ``environment``.
    """
    settings = settings or Settings()
    device = choose_device("auto")
    circumstances = environment(device)
    if hasattr(os, "getloadavg"):
        circumstances["load_before"] = round(os.getloadavg()[0], 2)
    if device.type == "cpu":
        keep_freed_memory()
    say(f"{settings.rounds} rounds of {settings.steps} steps; this takes some minutes on a CPU")
    rates = _measure(settings, device)
    ratios = _ratios(rates)
    parts = _parts(build_bench(settings, device), device)
    scaling = measure_scaling(replace(settings, rounds=max(settings.rounds // 2, 1)), device)
    result = {
        "ratios": {name: median(values) for name, values in ratios.items()},
        "images_per_second": {name: median(values) for name, values in rates.items()},
        "milliseconds": {name: 1000 * seconds for name, seconds in parts.items()},
        "shares": {name: seconds / sum(parts.values()) for name, seconds in parts.items()},
        "scaling": {
            kind: {count: median(values) for count, values in row.items()}
            for kind, row in scaling.items()
        },
        "roofline": measure_roofline(settings, device),
        "peak_memory": peak_memory(device),
        "mentors": mentor_ways(settings, device),
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
    rates: Values = {name: [] for name in TITLES}
    with TemporaryDirectory() as folder, Apart(settings, device) as textbooks:
        contenders = build_contenders(settings, device, Path(folder))
        for number in range(settings.rounds + 1):
            for name in TITLES:
                if name in contenders:
                    clock = Clock(device, settings.steps)
                    contenders[name](clock)
                    seconds = clock.seconds()
                else:
                    seconds = textbooks.seconds(name)
                if number:  # the first round is warm-up, and fills the bank
                    rates[name].append(settings.steps * settings.batch_size / seconds)
    return rates


def _ratios(rates: Values) -> Values:
    def quotient(one: str, other: str) -> list[float]:
        return quotients(rates[one], rates[other])

    return {
        "engine_vs_textbook": quotient("engine", "textbook"),
        "trainer_overhead_percent": [100 * (q - 1) for q in quotient("engine", "trainer")],
        "engine_vs_alone": quotient("engine", "engine_alone"),
        "banked_vs_alone": quotient("banked", "engine_alone"),
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
    ratio("the same from the bank / student alone", "banked_vs_alone", "x")
    ratio("student alone: this engine / textbook loop", "alone_vs_textbook_alone", "x")
    say(f"images a second, {rounds}:")
    for name, value in result["images_per_second"].items():
        say(f"  {TITLES[name]:50s}{value:7.0f}")
    say(f"share of the engine's step, parts timed apart, medians of {settings['steps']} steps:")
    for name, share in result["shares"].items():
        say(f"  {name:50s}{100 * share:7.1f} %  ({result['milliseconds'][name]:.1f} ms)")
    say("time of a step / of the student alone, by the number of mentors:")
    counts = result["scaling"]["live"]
    say(f"  {'mentors':18s}" + "".join(f"{count:8d}" for count in counts))
    for kind, row in result["scaling"].items():
        cells = (f"{row[count]:8.2f}" if count in row else f"{'':8s}" for count in counts)
        say(f"  {kind:18s}" + "".join(cells))
    roofline = result["roofline"]
    say(
        f"operations a second, of {roofline['peak'] / 1e9:.0f} G of this machine's fastest matrix"
        f" product in {roofline['precision']}:"
    )
    for name, row in roofline["networks"].items():
        share = 100 * row["rate"] / roofline["peak"]
        say(f"  {name:50s}{share:7.1f} %  ({row['rate'] / 1e9:.1f} G)")
    say("ways to run the mentors: " + "; ".join(f"{n}: {w}" for n, w in result["mentors"].items()))
    say(f"peak memory of the benchmark: {result['peak_memory'] / 1e9:.2f} GB")
    say(
        f"{settings['student']} from {', '.join(settings['mentors'])}; batch of "
        f"{settings['batch_size']}, random weights and images of 32 x 32 in memory"
    )
    load = f", load average {where['load_before']} before" if "load_before" in where else ""
    say(
        f"{where['hardware']} ({where['device']}), {where['threads']} threads, "
        f"torch {where['packages']['torch']}, lightning {where['packages']['lightning']}{load}"
    )
