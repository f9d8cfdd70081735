"""The options of `classroom_loss`: what is ranked together, and the four choices they stand for."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Literal, get_args

from torch import Tensor

from classroomkd.core import official
from classroomkd.core.ensemble import MEANS
from classroomkd.core.filter import (
    GROUPS,
    Group,
    Scores,
    best,
    better_than_student,
    correct,
    everyone,
    score_weight,
    soft_gate,
    unit_weights,
)
from classroomkd.core.lesson import Choices, Divergence, Transform, identity, kl
from classroomkd.core.mentoring import dtkd_temperature, fixed_temperature, gap_temperature

Mentoring = Literal["gap", "dtkd", "fixed", "none"]
TaskWeight = float | Literal["student", "batch"]
Select = Literal["better", "all", "best", "soft"]
Weighting = Literal["score", "equal"] | Callable[[Scores], Tensor]
Mix = Literal["terms", "logits", "zscores", "probabilities"]
GATE_WIDTH = 0.1  # of the soft gate, in probability


def classroom_choices(
    *,
    temperature: float = 12.0,
    group: Group = "sample",
    filtering: bool = True,
    select: Select = "better",
    require_correct: bool = False,
    weighting: Weighting = "score",
    prior: Tensor | None = None,
    normalize: bool = False,
    mix: Mix = "terms",
    weight: float = 1.0,
    mentoring: Mentoring = "gap",
    task_weight: TaskWeight = "student",
    divergence: Divergence = kl,
    tau_squared: bool = True,
    transform: Transform = identity,
    compat: Literal["official"] | None = None,
) -> tuple[Group, Choices]:
    """What is ranked together, and the four choices that make ClassroomKD.

    Arguments and errors are those of `classroom_loss`.
    """
    _check_options(temperature, group, mentoring, task_weight)
    _check_mixture(filtering, select, weighting, mix, weight)
    if compat is not None:
        _check_compat(
            compat,
            filtering=filtering,
            select=select,
            require_correct=require_correct,
            weighting=weighting,
            prior=prior,
            normalize=normalize,
            mix=mix,
            mentoring=mentoring,
            task_weight=task_weight,
            divergence=divergence,
            tau_squared=tau_squared,
            transform=transform,
        )
        return "batch", replace(official.choices(temperature), total=weight)
    if not filtering:
        select, weighting = "all", "equal"
    choices = Choices(
        select=_selection(select, require_correct),
        weight=_weight(weighting, prior, soft=select == "soft"),
        temperature={
            "gap": partial(gap_temperature, scale=temperature),
            "dtkd": partial(dtkd_temperature, scale=temperature),
            "fixed": partial(fixed_temperature, value=temperature),
            "none": partial(fixed_temperature, value=1.0),
        }[mentoring],
        task_weight=_task_weight(task_weight),
        divergence=divergence,
        transform=transform,
        total=weight,
        normalize=normalize,
        mean=MEANS.get(mix),
        tau_squared=tau_squared,
    )
    return group, choices


OPTIONS: dict[str, object] = classroom_choices.__kwdefaults__ or {}
"""The defaults of the options, by name."""


def _selection(select: Select, require_correct: bool) -> Callable[[Scores], Tensor]:
    selected = {
        "better": better_than_student,
        "all": everyone,
        "best": best,
        "soft": everyone,
    }[select]
    if require_correct:
        return lambda scores: selected(scores) & correct(scores)
    return selected


def _weight(weighting: Weighting, prior: Tensor | None, soft: bool) -> Callable[[Scores], Tensor]:
    named = {"score": score_weight, "equal": unit_weights}
    weight = weighting if callable(weighting) else named[weighting]
    if prior is None and not soft:
        return weight

    def scaled(scores: Scores) -> Tensor:
        value = weight(scores)
        if prior is not None:
            if prior.shape != value.shape[:1]:
                raise ValueError(f"prior has shape {tuple(prior.shape)} for {len(value)} mentors")
            value = value * prior.to(value).view(-1, 1, 1)
        return value * soft_gate(scores, GATE_WIDTH) if soft else value

    return scaled


def _task_weight(task_weight: TaskWeight) -> Callable[[Scores], Tensor | float]:
    if task_weight == "student":
        return lambda scores: scores.student_score
    if task_weight == "batch":
        return lambda scores: scores.batch_score
    return lambda scores: float(task_weight)


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


def _check_mixture(
    filtering: bool, select: Select, weighting: Weighting, mix: Mix, weight: float
) -> None:
    for name, value, known in (
        ("select", select, get_args(Select)),
        ("weighting", weighting, ("score", "equal")),
        ("mix", mix, get_args(Mix)),
    ):
        if value not in known and not callable(value):
            raise ValueError(f"{name} must be one of {known}, got {value!r}")
    if not filtering and (select, weighting) != ("better", "score"):
        raise ValueError(
            "filtering=False stands for select='all' and weighting='equal': leave it out to choose"
            " these by themselves"
        )
    if not 0 <= weight < math.inf:
        raise ValueError(f"weight must be 0 or more and finite, got {weight}")


def _check_compat(compat: str, **options: object) -> None:
    if compat != "official":
        raise ValueError(f"compat must be 'official' or None, got {compat!r}")
    if changed := [
        name
        for name, value in options.items()
        if isinstance(value, Tensor) or value != OPTIONS[name]
    ]:
        raise ValueError(f"compat='official' decides {', '.join(changed)}: leave the default")
