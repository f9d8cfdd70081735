"""How strong the terms of pose methods are beside their task, on drawn joints.

A network is its maps: gaussians that stand some pixels from the joints, a student's farther than
its mentors', or, for a student that begins, weak noise.
"""

from math import nan

import torch

from classroomkd.core import Lesson, make_signals
from classroomkd.core.signals import Blocks
from classroomkd.engine.gradients import Sources, Strength, relative_norm
from classroomkd.engine.pose.lesson import anchored_likelihood, squared_error
from classroomkd.methods import create_method, method_class
from classroomkd.models.pose import heatmap_codec, simcc_codec

PERSONS, JOINTS = 16, 16
STUDENT, MENTOR = 6.0, 3.0  # pixels from the joints, standard deviation


def pose_strength(name: str, *, trained: bool, mentors: int) -> Strength:
    """The strength of a method's terms on the outputs, beside its task at weight 1.

    Those that bring the squared error are measured on heatmaps of 64 x 64 bins, the others on rows
    of 384 and 512 bins (SimCC) and the cross-entropy.

    Args:
        name: of the method.
        trained: whether the student has learnt; else it begins.
        mentors: how many.
    """
    draw = torch.Generator().manual_seed(0)
    heatmaps = method_class(name).own_task == "mse"
    codec = heatmap_codec((256, 256)) if heatmaps else simcc_codec((256, 192))
    points = 32 + 128 * torch.rand(PERSONS, JOINTS, 2, generator=draw)

    def seen(shift: float) -> Blocks:
        return codec.encode(points + shift * torch.randn(points.shape, generator=draw))

    truth = codec.logits(codec.encode(points))
    taught = [codec.logits(seen(MENTOR)) for _ in range(mentors)]
    begins = tuple(0.01 * torch.randn(block.shape, generator=draw) for block in seen(0))
    student = codec.logits(seen(STUDENT) if trained else begins)
    for block in student:
        block.requires_grad_()
    task = squared_error(truth) if heatmaps else anchored_likelihood(truth)

    def lesson(method: str, said: list[Blocks]) -> Lesson:
        target = tuple(block.softmax(-1) for block in truth)
        return create_method(method)(make_signals(student, said, target, task_loss=task))

    with Sources() as sources:
        whole = lesson(name, taught)
    added = whole.loss - sources.of(whole.task_loss).mean()
    return Strength(relative_norm(added, lesson("none", []).loss, student), nan)
