"""Frozen mentors made faster, where a run is long enough."""

from torch import Tensor

from classroomkd.engine.classroom import Classroom
from classroomkd.engine.memory import keep_freed_memory
from classroomkd.mentors import Mentor

FOLDED = 1_000  # steps from which folding soon is regained
COMPILED = {"cpu": 10_000}  # and compiling, which can take a minute for all mentors; a GPU's
COMPILED_ELSEWHERE = 20_000  # compiler takes longer


def tune_mentors(classroom: Classroom) -> dict[str, str]:
    """Fold the batch normalisation of frozen mentors and, in long runs, compile them.

    Both are worth what docs/results.md says. Short runs, and mentors that the bank speaks for, stay
    as they are. On a CPU, memory that is freed is kept for the next step.

    Returns:
        What was done, by the mentors' names.
    """
    if classroom.device.type == "cpu":
        keep_freed_memory()
    steps = classroom.epochs * len(classroom.train)
    if not classroom.recipe.train.tune or steps < FOLDED:
        return {}
    compiled = steps >= COMPILED.get(classroom.device.type, COMPILED_ELSEWHERE)
    example = example_inputs(classroom)
    for mentor in (mentors := live_mentors(classroom)):
        mentor.speed_up(example, compiled=compiled)
    return {mentor.name: "folded, compiled" if compiled else "folded" for mentor in mentors}


def live_mentors(classroom: Classroom) -> list[Mentor]:
    """The frozen mentors that may have to be run here, and stay on their device."""
    return [m for m in classroom.mentors if m.here and not m.learns and not m.offloaded]


def example_inputs(classroom: Classroom) -> Tensor:
    """Of the first batch of views."""
    return next(iter(classroom.train))[0]
