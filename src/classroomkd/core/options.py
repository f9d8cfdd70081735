"""The options of `classroom_loss`: what is ranked together, and the four choices they stand for."""

import math
from collections.abc import Callable
from functools import partial
from typing import Literal, get_args

from torch import Tensor

from classroomkd.core import filter as knowledge
from classroomkd.core import mentoring as pace
from classroomkd.core import official
from classroomkd.core.filter import GROUPS, Group, Standing
from classroomkd.core.lesson import Choices, Divergence, Transform, as_they_are, kl

Mentoring = Literal["gap", "dtkd", "fixed", "none"]
TaskWeight = float | Literal["student", "batch"]


def classroom_choices(
    *,
    temperature: float = 12.0,
    group: Group = "sample",
    filtering: bool = True,
    require_correct: bool = False,
    mentoring: Mentoring = "gap",
    task_weight: TaskWeight = "student",
    divergence: Divergence = kl,
    transform: Transform = as_they_are,
    compat: Literal["official"] | None = None,
) -> tuple[Group, Choices]:
    """What is ranked together, and the four choices that make ClassroomKD.

    Arguments and errors are those of `classroom_loss`.
    """
    _check_options(temperature, group, mentoring, task_weight)
    if compat is not None:
        _check_compat(
            compat,
            filtering=filtering,
            require_correct=require_correct,
            mentoring=mentoring,
            task_weight=task_weight,
            divergence=divergence,
            transform=transform,
        )
        return "batch", official.choices(temperature)
    choose = knowledge.better_than_student if filtering else knowledge.everyone
    choices = Choices(
        choose=(lambda now: choose(now) & knowledge.correct(now)) if require_correct else choose,
        weigh=knowledge.score_weight if filtering else knowledge.unit_weights,
        temper={
            "gap": partial(pace.gap_temperature, scale=temperature),
            "dtkd": partial(pace.dtkd_temperature, scale=temperature),
            "fixed": partial(pace.fixed_temperature, value=temperature),
            "none": partial(pace.fixed_temperature, value=1.0),
        }[mentoring],
        task_weight=_task_weight(task_weight),
        divergence=divergence,
        transform=transform,
    )
    return group, choices


OPTIONS: dict[str, object] = classroom_choices.__kwdefaults__ or {}
"""The defaults of the options, by name."""


def _task_weight(task_weight: TaskWeight) -> Callable[[Standing], Tensor | float]:
    if task_weight == "student":
        return lambda now: now.student_score
    if task_weight == "batch":
        return lambda now: now.batch_score
    return lambda now: float(task_weight)


def _check_options(
    temperature: float, group: Group, mentoring: Mentoring, task_weight: TaskWeight
) -> None:
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature must be 0 or more and finite, got {temperature}")
    if group not in GROUPS:
        raise ValueError(f"group must be one of {GROUPS}, got {group!r}")
    if mentoring not in get_args(Mentoring):
        raise ValueError(f"mentoring must be one of {get_args(Mentoring)}, got {mentoring!r}")
    if mentoring in ("fixed", "dtkd") and temperature == 0:
        raise ValueError(f"mentoring={mentoring!r} needs a temperature above 0")
    known = ("student", "batch")
    if task_weight not in known if isinstance(task_weight, str) else not math.isfinite(task_weight):
        raise ValueError(f"task_weight must be 'student', 'batch' or a number, got {task_weight!r}")


def _check_compat(compat: str, **options: object) -> None:
    if compat != "official":
        raise ValueError(f"compat must be 'official' or None, got {compat!r}")
    if changed := [name for name, value in options.items() if value != OPTIONS[name]]:
        raise ValueError(f"compat='official' decides {', '.join(changed)}: leave the default")
