"""Images a second of the whole training step: this engine, its Trainer, and the textbook loop.

The variants take turns within each round, so that whatever else the machine does meets all of
them; ratios are taken within rounds. All are timed alike, from the first step's loss to the last
one's: this leaves out start-up and contains ``steps`` whole steps.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import torch
import typer

from benchmarks.format import describe
from benchmarks.pieces import measure_bank, measure_loss
from benchmarks.roofline import measure_roofline, peak_memory
from benchmarks.scaling import measure_scaling
from benchmarks.subprocess_timer import SubprocessTimer
from benchmarks.timing import ratios as quotients
from benchmarks.timing import whole_steps
from benchmarks.variants import (
    TITLES,
    Settings,
    build_bench,
    build_mentors,
    build_variants,
)
from classroomkd.engine.memory import keep_freed_memory
from classroomkd.engine.places import choose_device
from classroomkd.engine.runs import environment
from classroomkd.engine.timer import PARTS, StepTimer, time_steps
from classroomkd.errors import ClassroomError, unknown_name
from classroomkd.mentors import Mentor
from classroomkd.models import canonical_name, list_models

Values = dict[str, list[float]]  # by name, one a round

GOALS = {
    "engine_vs_textbook": {"at_least": 3.5},
    "trainer_overhead_percent": {"at_most": 5.0},
    "banked_vs_alone": {"at_least": 0.95},
    "banked_most_vs_least": {"at_most": 1.05},
    "loss_percent_of_student": {"at_most": 3.0},
    "bank_vs_fastest_student": {"at_least": 5.0},
}
"""What the ratios should be on two cores."""


def run_benchmark(
    out: Path | None = None,
    *,
    say: Callable[[str], None] = print,
    settings: Settings | None = None,
) -> dict[str, Any]:
    """Measure images a second of a whole training step, and say how the variants compare.

    A step is: views of the batch, mentors, student forward and backward, loss, optimizer.

    Args:
        out: also write the numbers there, as JSON.
        say: told the results.
        settings: another classroom than the usual one.

    Returns:
        What the JSON holds: ``ratios`` (medians over rounds), ``spans`` (least and greatest round)
        and ``goals`` of them, ``images_per_second`` (medians) and ``rounds`` (in each),
        ``milliseconds`` and ``shares`` of the parts of the engine's step, ``scaling`` (time of a
        step with so many mentors over that of the student alone, live and banked), ``loss`` (its
        milliseconds, and the student's step in the same batch size), ``bank`` (samples a second,
        beside those that fast students take), ``roofline`` (operations a second of each network,
        and of this machine's fastest matrix product), ``peak_memory`` in bytes, ``settings`` and
        ``environment``.

    Raises:
        ClassroomError: for a model that is not of the zoo, before anything is measured.
    """
    settings = _checked(settings or Settings())
    device = choose_device("auto")
    circumstances = environment(device)
    if hasattr(os, "getloadavg"):
        circumstances["load_before"] = round(os.getloadavg()[0], 2)
    if device.type == "cpu":
        keep_freed_memory()
    say(f"{settings.rounds} rounds of {settings.steps} steps; this takes some minutes on a CPU")
    count = len(settings.mentors)
    everyone = build_mentors(settings.with_mentors(max(count, *settings.counts)), device)
    mentors = everyone[:count]
    rates = _measure(settings, mentors, device)
    parts = _parts(time_steps(build_bench(settings, device, mentors), settings.steps))
    fewer = replace(settings, rounds=max(settings.rounds // 2, 1))
    scaling = measure_scaling(fewer, everyone, device)
    loss = measure_loss(settings, device)
    with TemporaryDirectory() as folder:
        bank = measure_bank(settings, device, Path(folder))
    most, least = max(scaling["banked"]), min(scaling["banked"])
    ratios = _ratios(rates) | {
        "banked_most_vs_least": quotients(scaling["banked"][most], scaling["banked"][least]),
        "loss_percent_of_student": [100 * q for q in quotients(loss["loss"], loss["student"])],
        "bank_vs_fastest_student": bank.pop("ratios"),
    }
    result = {
        "ratios": _medians(ratios),
        "spans": {name: [min(values), max(values)] for name, values in ratios.items()},
        "goals": GOALS,
        "images_per_second": _medians(rates),
        "milliseconds": {name: 1000 * seconds for name, seconds in parts.items()},
        "shares": {name: seconds / sum(parts.values()) for name, seconds in parts.items()},
        "scaling": {
            kind: {count: median(values) for count, values in row.items()}
            for kind, row in scaling.items()
        },
        "loss": {name: 1000 * value for name, value in _medians(loss).items()},
        "bank": bank,
        "roofline": measure_roofline(settings, mentors, device),
        "peak_memory": peak_memory(device),
        "rounds": rates,
        "settings": asdict(settings),
        "environment": circumstances,
    }
    describe(result, say)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=2) + "\n")
    return result


def _checked(settings: Settings) -> Settings:
    """The same with the models' full names, if all are the zoo's."""
    names, zoo = [], list_models()
    for name in (settings.student, *settings.mentors):
        try:
            names.append(canonical_name(name))
        except ValueError as error:
            raise ClassroomError(str(error)) from None
        if names[-1] not in zoo:
            raise ClassroomError(unknown_name("model", name, zoo))
    return replace(settings, student=names[0], mentors=tuple(names[1:]))


def _medians(rows: Values) -> dict[str, float]:
    return {name: median(values) for name, values in rows.items()}


def _measure(settings: Settings, mentors: Sequence[Mentor], device: torch.device) -> Values:
    timer = StepTimer(device)
    with TemporaryDirectory() as folder, SubprocessTimer(settings, device) as textbooks:
        variants = build_variants(settings, mentors, device, Path(folder))
        for _ in range(settings.rounds + 1):
            for name in TITLES:
                if name in variants:
                    variants[name](whole_steps(timer, name, settings.steps))
                else:
                    timer.seconds.setdefault(name, []).append(textbooks.seconds(name))
    images = settings.steps * settings.batch_size  # the first round is warm-up, and fills the bank
    return {name: [images / taken for taken in timer.seconds[name][1:]] for name in TITLES}


def _parts(timer: StepTimer) -> dict[str, float]:
    """Seconds of the parts of the engine's step, medians."""
    seconds = {name: median(timer.seconds[name][1:]) for name in PARTS}
    return {
        "student": seconds["student"] + seconds["update"],
        "mentors": seconds["mentors"],
        "loss": seconds["loss"],
        "data": seconds["views"],
    }


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


def main(
    out: Annotated[Path | None, typer.Option(help="Also write the numbers as JSON.")] = None,
    student: Annotated[
        str | None, typer.Option(metavar="MODEL", help="The student; MobileNetV2 if left out.")
    ] = None,
    mentor: Annotated[
        list[str] | None,
        typer.Option(metavar="MODEL", help="A mentor; may be repeated. Six if left out."),
    ] = None,
    tuned: Annotated[
        bool, typer.Option(help="Whether mentors are folded and compiled, as in a long run.")
    ] = True,
) -> None:
    """Measure images a second of the whole training step, against a textbook loop.

    A student with several mentors, of the zoo; all variants in one run,
    interleaved, medians, ratios first.
    """
    given = {"student": student, "mentors": tuple(mentor or ()) or None, "tuned": tuned}
    run_benchmark(out, settings=Settings(**{k: v for k, v in given.items() if v is not None}))


if __name__ == "__main__":
    typer.run(main)
