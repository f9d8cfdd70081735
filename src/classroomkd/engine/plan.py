"""What a run will take, measured on some steps before anything is trained."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from statistics import median
from time import perf_counter

import torch

from classroomkd.config import Recipe
from classroomkd.engine.build import build_classroom
from classroomkd.engine.classroom import Classroom
from classroomkd.engine.hearing import outputs
from classroomkd.engine.optim import build_optimizer
from classroomkd.engine.precision import autocast
from classroomkd.engine.shelves import plan_bank
from classroomkd.engine.tuning import choose, example_images, live_mentors
from classroomkd.mentors.bank import size_text
from classroomkd.mentors.tuning import keep_freed_memory
from classroomkd.methods import Outputs

STEPS = 7  # that are timed


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


def plan_run(recipe: Recipe, say: Callable[[str], object] = print) -> list[Part]:
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
    steps = recipe.train.epochs * len(classroom.train)
    shared, mentors = _shared(classroom), _mentors(classroom, steps)
    _describe(classroom, shared, mentors, steps, say)
    return [*shared, *mentors]


def forecast(classroom: Classroom) -> str:
    """What a run will take as it is, in words: faster ways to run mentors are not looked for.

    Measured on some steps, in which the student learns.
    """
    watch, train = _watch_steps(classroom), classroom.recipe.train
    parts = {name: watch.milliseconds(name) for name in ("views", "mentors", "student", "loss")}
    step = sum(parts.values())
    shares = ", ".join(f"{name} {100 * part / step:.0f} %" for name, part in parts.items())
    seconds = train.epochs * len(classroom.train) * step / 1000
    return (
        f"{train.epochs} epochs of {len(classroom.train)} steps take {_duration(seconds)} as it is"
        f" ({step:.1f} ms a step: {shares}), at most; memory so far: {_memory(classroom.device)}"
    )


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


class _Watch:
    """Times of the laps of several rounds, by name."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds = device, dict[str, list[float]]()
        self.mark = self._now()

    def lap(self, name: str) -> None:
        """The time since the lap before belongs to this name."""
        now = self._now()
        self.seconds.setdefault(name, []).append(now - self.mark)
        self.mark = now

    def milliseconds(self, name: str) -> float:
        return 1000 * median(self.seconds[name])

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return perf_counter()


def _watch_steps(classroom: Classroom) -> _Watch:
    """Hold some lessons: times of the views, the mentors, the student and the loss."""
    student, method, train = classroom.student, classroom.method, classroom.recipe.train
    optimizer = build_optimizer([*student.parameters(), *method.parameters()], train)
    classroom.begin_epoch(0)
    watch = _Watch(classroom.device)
    for batch in islice(classroom.train, STEPS):
        watch.lap("views")
        with autocast(classroom.device, train.precision):
            taught = classroom.hearing(batch)
        watch.lap("mentors")
        with autocast(classroom.device, train.precision):
            learnt = outputs(student, batch.images, method)
        learnt.logits.float().logsumexp(1).mean().backward(retain_graph=True)
        optimizer.step()
        optimizer.zero_grad()
        watch.lap("student")
        features = {name: f.detach().requires_grad_() for name, f in learnt.features.items()}
        shown = Outputs(learnt.logits.detach().requires_grad_(), features)
        method(shown, taught, batch.target, batch.index).loss.backward()
        watch.lap("loss")
    return watch


def _shared(classroom: Classroom) -> list[Part]:
    """What every step does, whoever teaches."""
    watch, student, method = _watch_steps(classroom), classroom.student, classroom.method
    memory = 3 * sum(p.nbytes for p in student.parameters())  # weights, gradients, momentum
    return [
        Part("views", watch.milliseconds("views")),
        Part(f"{student.name} (student)", watch.milliseconds("student"), memory),
        Part(f"loss ({method.name})", watch.milliseconds("loss")),
    ]


def _mentors(classroom: Classroom, steps: int) -> list[Part]:
    example, parts = example_images(classroom), []
    for mentor in live_mentors(classroom):
        choice = choose(mentor, example, classroom.recipe.train.precision, steps)
        best = next((t for t in choice.timings if t.variant == choice.variant), None)
        if best is None:
            continue
        plain = max(choice.timings, key=lambda timing: timing.milliseconds)
        memory = best.peak_bytes or sum(p.nbytes for p in mentor.network.parameters())
        gain = f"{plain.milliseconds / best.milliseconds:.1f} x as fast as {plain.variant}"
        parts.append(Part(mentor.name, best.milliseconds, memory, f"{best.variant}: {gain}"))
    return parts


def _describe(
    classroom: Classroom,
    shared: list[Part],
    mentors: list[Part],
    steps: int,
    say: Callable[[str], object],
) -> None:
    recipe, data = classroom.recipe, classroom.train.image_set
    say(
        f"{recipe.name}: {recipe.train.epochs} epochs of {len(classroom.train)} steps of"
        f" {recipe.train.batch_size} images, on {classroom.device} with {torch.get_num_threads()}"
        " threads"
    )
    for part in (*shared, *mentors):
        memory = size_text(part.memory) if part.memory else ""
        line = f"  {part.name:28s}{part.milliseconds:9.2f} ms  {memory:>10s}  {part.note}"
        say(line.rstrip())
    alone = sum(part.milliseconds for part in shared)
    live = alone + sum(part.milliseconds for part in mentors)
    say(f"live:   {_duration(steps * live / 1000)} ({live:.1f} ms a step)")
    if mentors and not classroom.method.needs_features and classroom.method.views == 1:
        plan = plan_bank(recipe, len(data), len(data.classes), len(mentors))
        build = plan.views * len(classroom.train) * (live - alone) / 1000
        say(
            f"banked: {_duration(steps * alone / 1000)} ({alone:.1f} ms a step), after"
            f" {_duration(build)} of building a bank of {size_text(plan.bytes)} once"
        )
    if classroom.device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(classroom.device)
        say(f"peak memory of the GPU so far: {size_text(peak)}")
    say("without evaluation on the development split and saving; measured on a few steps")


def _duration(seconds: float) -> str:
    """A duration for people.

    >>> _duration(75), _duration(7300)
    ('1.2 min', '2.0 h')
    """
    for unit, name in ((3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds:.0f} s"
