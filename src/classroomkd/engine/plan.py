"""What a run will take, measured on some steps before anything is trained."""

import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch

from classroomkd.config import RunRecipe
from classroomkd.engine.build import build_classroom
from classroomkd.engine.classroom import Classroom
from classroomkd.engine.memory import keep_freed_memory
from classroomkd.engine.precision import autocast
from classroomkd.engine.stores import plan_bank
from classroomkd.engine.timer import EVALUATION, PARTS, StepTimer, evaluation_samples, time_steps
from classroomkd.engine.tuning import example_inputs, tune_mentors
from classroomkd.mentors import Mentor
from classroomkd.mentors.bank import size_text


@dataclass(frozen=True)
class Part:
    """A part of the step.

    Attributes:
        name: of the network, or what is done.
        milliseconds: a step.
        memory: bytes of the weights, and of a GPU's memory in a pass where it is known.
        note: how a mentor is run.
    """

    name: str
    milliseconds: float
    memory: int = 0
    note: str = ""


def plan_run(recipe: RunRecipe, say: Callable[[str], object] = print) -> list[Part]:
    """Measure the parts of a recipe's step, and say what the run will take, live and banked.

    Mentors run as they will in the training (see `tune_mentors`).

    Args:
        recipe: checked.
        say: told the plan.

    Returns:
        The parts: views, the student, the loss, then each mentor.
    """
    classroom = build_classroom(recipe, say)
    if classroom.device.type == "cpu":
        keep_freed_memory()
    timer = time_steps(classroom)
    shared, mentors = _shared(classroom, timer), _mentors(classroom)
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


def _mentors(classroom: Classroom) -> list[Part]:
    """The mentors that are here, in the way in which they will be run."""
    example, here = example_inputs(classroom), [m for m in classroom.mentors if m.here]

    def milliseconds() -> dict[str, float]:
        timer = StepTimer(classroom.device)
        for mentor in here:
            for _ in range(4):  # the first may compile
                timer.start()
                with autocast(classroom.device, classroom.recipe.train.precision):
                    mentor.outputs(example)
                timer.lap(mentor.name)
        return {mentor.name: timer.milliseconds(mentor.name) for mentor in here}

    before, tuned = milliseconds(), tune_mentors(classroom)
    after = milliseconds() if tuned else before

    def note(mentor: Mentor) -> str:
        name = mentor.name
        if name in tuned:
            return f"{tuned[name]}: {before[name] / after[name]:.1f} x as fast"
        if mentor.learns:
            return "what it learns is part of the loss"
        return "offloaded" if mentor.offloaded else "as it is"

    memory = {m.name: sum(p.nbytes for p in m.network.parameters()) for m in here}
    return [Part(m.name, after[m.name], memory[m.name], note(m)) for m in here]


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
