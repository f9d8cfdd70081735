"""One training step in plain torch; the Trainer and any other loop call the same function.

Shapes: ``M`` mentors, ``B`` samples.
"""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from classroomkd.core import Lesson
from classroomkd.data import Batch
from classroomkd.engine.precision import autocast
from classroomkd.mentors import Mentor
from classroomkd.methods import Method, Outputs


def hold_lesson(
    student: nn.Module,
    mentors: Sequence[Mentor],
    method: Method,
    batch: Batch,
    precision: str = "fp32",
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
    """
    with autocast(batch.images.device, precision):
        taught = [outputs(mentor, batch.images, method) for mentor in mentors]
        learnt = outputs(student, batch.images, method)
    lesson = method(learnt, taught, batch.target, batch.index)
    trained = [place for place, mentor in enumerate(mentors) if mentor.learns]
    if not trained:
        return lesson
    peers = method.peer_loss(learnt, taught, trained, batch.target)
    return replace(lesson, loss=lesson.loss + peers)


def outputs(network: nn.Module | Mentor, images: Tensor, method: Method) -> Outputs:
    """What a network or mentor says about images: all that a method needs."""
    if not method.needs_features:
        return Outputs(network(images))
    options = {"preactivations": True} if method.needs_preactivations else {}
    stages = dict(network.forward_stages(images, **options))  # type: ignore[operator]
    return Outputs(stages.pop("logits"), stages, getattr(network, "classifier", None))
