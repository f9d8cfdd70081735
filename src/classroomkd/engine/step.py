"""One training step in plain torch; the Trainer and any other loop call the same function.

Shapes: ``M`` mentors, ``B`` samples.
"""

from collections.abc import Sequence

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

    Args:
        student: images in [0, 1] to logits ``[B, C]``; gets gradients from ``lesson.loss``.
        mentors: may be empty.
        method: what is learnt from them.
        batch: images, target and index, on the networks' device.
        precision: ``"fp32"`` or ``"bf16"`` (autocast).
    """
    with autocast(batch.images.device, precision):
        taught = [outputs(mentor, batch.images, method.needs_features) for mentor in mentors]
        learnt = outputs(student, batch.images, method.needs_features)
    return method(learnt, taught, batch.target)


def outputs(network: nn.Module | Mentor, images: Tensor, features: bool) -> Outputs:
    """What a network or mentor says about images, with its stage features if asked for."""
    if not features:
        return Outputs(network(images))
    stages = dict(network.forward_stages(images))  # type: ignore[operator]
    return Outputs(stages.pop("logits"), stages)
