"""What a run will take, measured on some steps before anything is trained."""

import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from classroomkd.config import RunRecipe
from classroomkd.engine.build import build_classroom
from classroomkd.engine.classroom import Classroom
from classroomkd.engine.precision import autocast
from classroomkd.engine.stores import plan_bank
from classroomkd.engine.timer import EVALUATION, PARTS, StepTimer, evaluation_samples, time_steps
from classroomkd.engine.tuning import choose, example_inputs, live_mentors
from classroomkd.mentors import Mentor
from classroomkd.mentors.bank import size_text
from classroomkd.mentors.tuning import keep_freed_memory


@dataclass(frozen=True)
class Part:
    """A part of the step.

    Attributes:
        name: of the network, or what is done.
        milliseconds: a step.
        memory: bytes of the weights, and of a GPU's memory in a pass where it is known.
        note: how a mentor is run, and the next best way.
    """

    name: str
    milliseconds: float
    memory: int = 0
    note: str = ""


def plan_run(recipe: RunRecipe, say: Callable[[str], object] = print) -> list[Part]:
    """Measure the parts of a recipe's step, and say what the run will take, live and banked.

    Ways to run mentors are measured and kept for the training (see `tune_mentors`).

    Args:
        recipe: checked.
        say: told the plan.

    Returns:
        The parts: views, the student, the loss, then each mentor.
    """
    classroom = build_classroom(recipe, say)
    if classroom.device.type == "cpu":
        keep_freed_memory()
    steps = classroom.epochs * len(classroom.train)
    timer = time_steps(classroom)
    shared, mentors = _shared(classroom, timer), _mentors(classroom, steps)
    judging = _evaluations(classroom, timer)
    _describe(classroom, shared, mentors, judging, say)
    return [*shared, *mentors]


def forecast(classroom: Classroom) -> str:
    """What a run will take as it is, in words: faster ways to run mentors are not looked for.

    Measured on some steps, in which the student learns, and on an evaluation.
    """
    if classroom.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(classroom.device)
    timer, epochs = time_steps(classroom), classroom.epochs
    parts = {name: timer.milliseconds(name) for name in PARTS}
    step = sum(parts.values())
    shares = ", ".join(f"{name} {100 * part / step:.0f} %" for name, part in parts.items())
    seconds = epochs * len(classroom.train) * step / 1000
    judging = f", and evaluations {_duration(_evaluations(classroom, timer))}"
    return (
        f"{epochs} epochs of {len(classroom.train)} steps take {_duration(seconds)} as it is"
        f" ({step:.1f} ms a step: {shares}){judging if classroom.dev else ''}, at most; memory so"
        f" far: {_memory(classroom.device)}"
    )


def _evaluations(classroom: Classroom, timer: StepTimer) -> float:
    """Seconds in which the student is run on the development split, over all epochs.

    Its images come at the pace of the views.
    """
    if classroom.dev is None:
        return 0.0
    count = len(classroom.dev.dataset)
    run = min(timer.seconds[EVALUATION]) / evaluation_samples(classroom)
    show = timer.milliseconds("views") / 1000 / classroom.recipe.train.batch_size
    return classroom.epochs * count * (run + show)


def _memory(device: torch.device) -> str:
    """The peak of what was used until now: of the GPU, or of this process on a CPU."""
    if device.type == "cuda":
        return f"{size_text(torch.cuda.max_memory_allocated(device))} of the GPU's"
    try:
        import resource
    except ImportError:  # no Unix
        return "unknown"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size_text(peak * (1 if sys.platform == "darwin" else 1024))


def _shared(classroom: Classroom, timer: StepTimer) -> list[Part]:
    """What every step does, whoever teaches."""
    student, method = classroom.student, classroom.method
    moments = 1 if classroom.recipe.train.optimizer.name == "sgd" else 2
    memory = (2 + moments) * sum(p.nbytes for p in student.parameters())  # with the gradients
    loss = timer.milliseconds("loss") + timer.milliseconds("update")
    return [
        Part("views", timer.milliseconds("views")),
        Part(f"{student.name} (student)", timer.milliseconds("student"), memory),
        Part(f"loss ({method.name})", loss, note="with all gradients, and the update"),
    ]


def _mentors(classroom: Classroom, steps: int) -> list[Part]:
    example, tuned, parts = example_inputs(classroom), live_mentors(classroom), []
    for mentor in classroom.mentors:
        if mentor not in tuned:
            parts += [_as_it_is(mentor, classroom, example)] if mentor.here else []
            continue
        choice = choose(mentor, example, classroom.recipe.train.precision, steps)
        best = next((t for t in choice.timings if t.variant == choice.variant), None)
        if best is None:
            continue
        plain = max(choice.timings, key=lambda timing: timing.milliseconds)
        memory = best.peak_bytes or sum(p.nbytes for p in mentor.network.parameters())
        gain = f"{plain.milliseconds / best.milliseconds:.1f} x as fast as {plain.variant}"
        parts.append(Part(mentor.name, best.milliseconds, memory, f"{best.variant}: {gain}"))
    return parts


def _as_it_is(mentor: Mentor, classroom: Classroom, example: Tensor) -> Part:
    """A mentor that runs in one way alone: one that trains along, or that is offloaded."""
    timer = StepTimer(classroom.device)
    for _ in range(3):
        with autocast(classroom.device, classroom.recipe.train.precision):
            mentor.outputs(example)
        timer.lap(mentor.name)
    memory = sum(p.nbytes for p in mentor.network.parameters())
    note = "what it learns is part of the loss" if mentor.learns else "offloaded"
    return Part(mentor.name, timer.milliseconds(mentor.name), memory, note)


def _describe(
    classroom: Classroom,
    shared: list[Part],
    mentors: list[Part],
    judging: float,
    say: Callable[[str], object],
) -> None:
    steps = classroom.epochs * len(classroom.train)
    recipe, data = classroom.recipe, classroom.train.dataset
    say(
        f"{recipe.name}: {classroom.epochs} epochs of {len(classroom.train)} steps of"
        f" {recipe.train.batch_size} {classroom.task.samples}, on {classroom.device} with"
        f" {torch.get_num_threads()} threads"
    )
    for part in (*shared, *mentors):
        memory = size_text(part.memory) if part.memory else ""
        line = f"  {part.name:28s}{part.milliseconds:9.2f} ms  {memory:>10s}  {part.note}"
        say(line.rstrip())
    alone = sum(part.milliseconds for part in shared)
    live = alone + sum(part.milliseconds for part in mentors)
    say(f"live:   {_duration(steps * live / 1000)} ({live:.1f} ms a step)")
    learning = any(mentor.learns for mentor in classroom.mentors)
    wants = classroom.method.needs_features or classroom.method.views > 1
    if mentors and not wants and not learning:
        blocks = classroom.mentor_outputs.block_shapes
        plan = plan_bank(recipe, len(data), blocks, len(mentors))
        build = plan.views * len(classroom.train) * (live - alone) / 1000
        say(
            f"banked: {_duration(steps * alone / 1000)} ({alone:.1f} ms a step), after"
            f" {_duration(build)} of building a bank of {size_text(plan.bytes)} once"
        )
    if classroom.device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(classroom.device)
        say(f"peak memory of the GPU so far: {size_text(peak)}")
    judged = f"{_duration(judging)} of evaluations on the development split, and "
    say(f"without {judged if judging else ''}saving; measured on a few steps")


def _duration(seconds: float) -> str:
    """A duration for people.

    >>> _duration(75), _duration(7300)
    ('1.2 min', '2.0 h')
    """
    for unit, name in ((3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds:.0f} s"
