"""The fastest way to run each frozen mentor of a classroom."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from torch import Tensor

from classroomkd.engine.build import Classroom
from classroomkd.mentors import Mentor, StoredMentor
from classroomkd.mentors.tuning import (
    Choice,
    Variant,
    choose_variant,
    keep_freed_memory,
    list_variants,
)
from classroomkd.mentors.tuning.variants import Precision

WORTHWHILE = 1_000  # steps from which some seconds of measuring are soon regained
COMPILABLE = 20_000  # steps from which a minute of compiling may be


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
    steps = train.epochs * len(classroom.train)
    if not train.tune or steps < WORTHWHILE:
        return {}
    example = example_images(classroom)
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
    """The frozen mentors that may have to be run here."""
    return [m for m in classroom.mentors if not m.learns and not isinstance(m, StoredMentor)]


def example_images(classroom: Classroom) -> Tensor:
    """The first batch of views."""
    return next(iter(classroom.train)).images


def choose(mentor: Mentor, example: Tensor, precision: Precision, steps: int) -> Choice:
    """Measure the ways to run a mentor in a run of so many steps."""
    candidates = list_variants(precision, compiled=steps >= COMPILABLE)
    return choose_variant(mentor.network, example, candidates, steps_expected=steps)
