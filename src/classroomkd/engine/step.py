"""One training step in plain torch; the Trainer and any other loop call the same function.

Shapes: ``M`` mentors, ``B`` samples.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from classroomkd.core import Lesson
from classroomkd.data import Batch
from classroomkd.engine.devices import SINGLE_PROCESS, DistContext
from classroomkd.engine.mentor_outputs import outputs
from classroomkd.engine.precision import autocast
from classroomkd.errors import ClassroomError
from classroomkd.mentors import Mentor
from classroomkd.methods import Method, Outputs


def training_step(
    student: nn.Module,
    mentors: Sequence[Mentor],
    method: Method,
    batch: Batch,
    precision: str = "fp32",
    hear: Callable[[Batch], list[Outputs]] | None = None,
    team: DistContext = SINGLE_PROCESS,
    made: AbstractContextManager[Any] | None = None,
) -> Lesson:
    """Show a batch to the student and to its mentors, and let the method make a lesson of it.

    Networks run in the given precision, the method in float32. Nothing is read back to the host.
    Where mentors train along, the lesson's ``loss`` contains theirs.

    Args:
        student: images in [0, 1] to logits ``[B, C]``; gets gradients from ``lesson.loss``.
        mentors: may be empty.
        method: what is learnt from them.
        batch: images, target and index, on the networks' device.
        precision: ``"fp32"`` or ``"bf16"`` (autocast).
        hear: what the mentors say about a batch; None to ask each of them.
        team: with others, ``batch`` is this process's part, and the lesson is that of the whole
            batch, the same for all.
        made: entered while the method makes the lesson.
    """
    batch = team.complete(batch, method.views)
    with autocast(batch.images.device, precision):
        taught = hear(batch) if hear else [outputs(m, batch.images, method, team) for m in mentors]
        learnt = outputs(student, batch.images, method, team)
    with made or nullcontext():
        lesson = method(learnt, taught, batch.target, batch.index)
    if method.bilevel:
        if team.size > 1:
            raise ClassroomError(
                f"the method '{method.name}' trains the student ahead of its own step, which"
                " several processes cannot do together: run it in one"
            )

        def ask(images: Tensor) -> list[Outputs]:
            return [outputs(m, images, method) for m in mentors]

        method.outer_step(student, ask, batch.images, batch.target, learnt.logits)
    trained = [place for place, mentor in enumerate(mentors) if mentor.learns]
    if not trained:
        return lesson
    peers = method.peer_loss(learnt, taught, trained, batch.target)
    return replace(lesson, loss=lesson.loss + peers)
