"""The fastest way to run each frozen mentor of a classroom."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from torch import Tensor

from classroomkd.engine.classroom import Classroom
from classroomkd.mentors import Mentor
from classroomkd.mentors.tuning import (
    Choice,
    Variant,
    choose_variant,
    keep_freed_memory,
    list_variants,
)
from classroomkd.mentors.tuning.variants import Precision

WORTHWHILE = 1_000  # steps from which some seconds of measuring are soon regained
COMPILABLE = {"cpu": 10_000}  # steps from which compiling may be: a minute for some mentors, but
COMPILABLE_ELSEWHERE = 20_000  # a GPU's compiler takes longer


def tune_mentors(
    classroom: Classroom, chosen: Mapping[str, Any] | None = None
) -> dict[str, dict[str, Any]]:
    """Let each frozen mentor run in its fastest way, found by a short measurement or known before.

    Short runs, and mentors that the bank speaks for, stay as they are. On a CPU, memory that is
    freed is kept for the next step.

    Args:
        classroom: whose mentors are tuned.
        chosen: what this function gave when the run began, for one that is resumed.

    Returns:
        The variant of each tuned mentor, by its name.
    """
    if classroom.device.type == "cpu":
        keep_freed_memory()
    train = classroom.recipe.train
    steps = classroom.epochs * len(classroom.train)
    if not train.tune or steps < WORTHWHILE:
        return {}
    example = example_inputs(classroom)
    return tune(live_mentors(classroom), example, train.precision, steps, chosen)


def tune(
    mentors: Sequence[Mentor],
    example: Tensor,
    precision: Precision,
    steps: int,
    chosen: Mapping[str, Any] | None = None,
) -> dict[str, dict[str, Any]]:
    """Let mentors run in the fastest way for so many steps; the rest as for `tune_mentors`."""
    ways = {}
    for mentor in mentors:
        known = (chosen or {}).get(mentor.name)
        variant = Variant(**known) if known else choose(mentor, example, precision, steps).variant
        mentor.run_as(variant, example)
        ways[mentor.name] = asdict(variant)
    return ways


def live_mentors(classroom: Classroom) -> list[Mentor]:
    """The frozen mentors that may have to be run here, and stay on their device."""
    return [m for m in classroom.mentors if m.here and not m.learns and not m.offloaded]


def example_inputs(classroom: Classroom) -> Tensor:
    """Of the first batch of views."""
    return next(iter(classroom.train))[0]


def choose(mentor: Mentor, example: Tensor, precision: Precision, steps: int) -> Choice:
    """Measure the ways to run a mentor in a run of so many steps.

    In a long one, the fastest is measured against itself compiled, in either memory format.
    """
    eager = choose_variant(mentor.network, example, list_variants(precision))
    if steps < COMPILABLE.get(example.device.type, COMPILABLE_ELSEWHERE):
        return eager
    compiled = replace(eager.variant, compiled=True, folded=True)
    rivals = [eager.variant, *(replace(compiled, channels_last=last) for last in (True, False))]
    choice = choose_variant(mentor.network, example, rivals, steps_expected=steps)
    others = [timing for timing in eager.timings if timing.variant not in rivals]
    timings = sorted([*choice.timings, *others], key=lambda timing: timing.milliseconds)
    return replace(
        choice,
        timings=tuple(timings),
        rejected={**eager.rejected, **choice.rejected},
        cached=eager.cached and choice.cached,
    )
