"""One training step in plain torch; the Trainer and any other loop call the same function.

Shapes: ``M`` mentors, ``B`` samples.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from classroomkd.core import Lesson
from classroomkd.engine.classroom import Classroom
from classroomkd.engine.devices import DistContext
from classroomkd.engine.precision import autocast
from classroomkd.errors import ClassroomError
from classroomkd.methods import Method, Outputs
from classroomkd.tasks.base import Task


def training_step(
    classroom: Classroom, batch: Any, lap: Callable[[str], object] | None = None
) -> Lesson:
    """Show a batch to the student and to its mentors, and let the method make a lesson of it.

    Networks run in the recipe's precision, the method in float32. Nothing is read back to the host.
    Where mentors train along, the lesson's ``loss`` contains theirs.

    Args:
        classroom: the student gets gradients from ``lesson.loss``.
        batch: on the networks' device; of several processes, this one's part, while the lesson is
            that of the whole batch, the same for all.
        lap: told the name of each part of the step when it is done: mentors, student, loss.
    """
    room, method, team = classroom, classroom.method, classroom.team
    lap = lap or (lambda part: None)
    batch = _complete(batch, team, method.views)
    with autocast(room.device, room.precision):
        taught = room.mentor_outputs(batch)
        lap("mentors")
        learnt = student_outputs(room.task, room.student, batch[0], method, team)
        lap("student")
    with (room.first and room.first.made()) or nullcontext():
        lesson = method(room.task.signals(learnt, taught, batch))
    if method.bilevel:
        _outer_step(room, batch, learnt)
    if trained := [place for place, mentor in enumerate(room.mentors) if mentor.learns]:
        peers = method.peer_loss(
            learnt,
            taught,
            trained,
            getattr(batch, "target", batch.index),  # of classification; others have signals
            lambda own, others: room.task.signals(own, others, batch),
        )
        lesson = replace(lesson, loss=lesson.loss + peers)
    room.mentor_outputs.note(lesson)
    lap("loss")
    return lesson


def _outer_step(room: Classroom, batch: Any, learnt: Outputs) -> None:
    """Let the method learn from what the student would become."""
    method = room.method
    if room.team.size > 1:
        raise ClassroomError(
            f"the method '{method.name}' trains the student ahead of its own step, which"
            " several processes cannot do together: run it in one"
        )
    wanted = {"features": method.needs_features, "preactivations": method.needs_preactivations}
    method.outer_step(
        room.student,
        lambda inputs: [mentor.outputs(inputs, **wanted) for mentor in room.mentors],
        batch[0],
        batch.target,
        learnt.logits,
    )


def student_outputs(
    task: Task, student: nn.Module, inputs: Any, method: Method, team: DistContext
) -> Outputs:
    """What the student says about the whole batch, of which ``inputs`` are this process's part."""
    with team.normalising():
        said = task.student_outputs(
            student,
            inputs,
            features=method.needs_features,
            preactivations=method.needs_preactivations,
        )
    return said.map(partial(team.gather, views=method.views))


def _complete(batch: Any, team: DistContext, views: int) -> Any:
    """A batch with this process's inputs, and all else of all samples."""
    if team.size == 1:
        return batch
    return type(batch)(batch[0], *(team.gather(part, views) for part in batch[1:]))
