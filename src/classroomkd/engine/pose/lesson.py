"""One training step in pose estimation: joints are units, bins are classes.

Shapes: ``M`` mentors, ``B`` persons, ``U`` joints, ``K`` bins.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from classroomkd.core import Lesson, make_signals
from classroomkd.core.filter import Group
from classroomkd.core.lesson import labels
from classroomkd.core.signals import Blocks, TaskLoss
from classroomkd.data.pose import PoseBatch
from classroomkd.engine.devices import SINGLE_PROCESS, DistContext
from classroomkd.engine.precision import autocast
from classroomkd.mentors.pose import PoseMentor, PoseOutputs
from classroomkd.methods import Method
from classroomkd.models.pose import PoseNetwork
from classroomkd.tasks.pose import oks_divergence


@dataclass(frozen=True)
class PoseLoss:
    """What scores, units and the task are.

    Attributes:
        score: how everybody is ranked, by ``"likelihood"`` of the truth or by ``"oks"``.
        task: the student's own loss, ``"mse"`` or ``"ce"``.
        unlabelled: whether mentors ``"teach"`` joints without label, or ``"leave"`` them.
        sigmas: ``[U]``, of OKS.
    """

    score: Literal["likelihood", "oks"]
    task: Literal["mse", "ce"]
    unlabelled: Literal["leave", "teach"]
    sigmas: Tensor


def squared_error(encoded: Blocks) -> TaskLoss:
    r"""The usual task of heatmaps, in the unit of the mentors' terms.

    .. math:: \frac{\beta^2}{2 K} \sum_k (h_k - g_k)^2

    for outputs ``h`` and the truth's gaussian ``g``: what ``tau**2`` KL tends to as temperatures
    grow, so that task and mentors count alike.

    Args:
        encoded: ``beta * g``, logits of a perfect student, ``[B, U, K]`` a block.
    """

    def task(student: Blocks, target: Blocks) -> Tensor:
        errors = [(z - g).square().mean(-1) / 2 for z, g in zip(student, encoded, strict=True)]
        return torch.stack(errors).sum(0)

    return task


def anchored_likelihood(encoded: Blocks) -> TaskLoss:
    r"""The cross-entropy over bins, and the part of the squared error that it does not see.

    .. math:: CE(\sigma(\beta g), \sigma(\beta h))
              + \frac{\beta^2}{2} \Big(\frac{1}{K} \sum_k (h_k - g_k)\Big)^2

    A softmax does not change when a constant is added to a map. The second term settles that
    constant, so that outputs come to be gaussians of peak 1 on a ground of 0, as decoding wants
    them; it is what the squared error has beyond its centred part.

    Args:
        encoded: ``beta * g``, logits of a perfect student, ``[B, U, K]`` a block.
    """

    def task(student: Blocks, target: Blocks) -> Tensor:
        offsets = [(z - g).mean(-1).square() / 2 for z, g in zip(student, encoded, strict=True)]
        return labels(student, target) + torch.stack(offsets).sum(0)

    return task


def pose_training_step(
    student: PoseNetwork,
    mentors: Sequence[PoseMentor],
    method: Method,
    batch: PoseBatch,
    pose_loss: PoseLoss,
    precision: str = "fp32",
    group: Group | None = None,
    team: DistContext = SINGLE_PROCESS,
    made: AbstractContextManager[Any] | None = None,
) -> Lesson:
    """Show persons to the student and to its mentors, and let the method make a lesson of it.

    It is the lesson of classification with units: each joint is a classification over bins, weighed
    by its visibility. Networks run in the given precision, the method in float32. Nothing is read
    back to the host.

    Args:
        student: gets gradients from ``lesson.loss``.
        mentors: may be empty.
        method: one that takes units.
        batch: on the networks' device.
        pose_loss: what scores, units and the task are.
        precision: ``"fp32"`` or ``"bf16"`` (autocast).
        group: what is ranked together, if not as the method has it.
        team: with others, ``batch`` is this process's part, and the lesson is that of the whole
            batch, the same for all.
        made: entered while the lesson is made of what was said.
    """
    decoded = pose_loss.score == "oks"
    with autocast(batch.images.device, precision):
        said = [_from_all(mentor(batch.images, decoded=decoded), team) for mentor in mentors]
        with team.normalising():
            own = student(batch.images)
        outputs = tuple(team.gather(block).float() for block in own)
    whole = PoseBatch(batch.images, *(team.gather(part) for part in batch[1:]))
    with made or nullcontext():
        return pose_lesson(student, outputs, mentors, said, method, whole, pose_loss, group)


def _from_all(opinion: PoseOutputs, team: DistContext) -> PoseOutputs:
    """What a mentor says about the whole batch, of which each process has asked it a part."""
    points = None if opinion.points is None else team.gather(opinion.points)
    return PoseOutputs(tuple(team.gather(block) for block in opinion.logits), points)


def pose_lesson(
    student: PoseNetwork,
    outputs: Blocks,
    mentors: Sequence[PoseMentor],
    said: Sequence[PoseOutputs],
    method: Method,
    batch: PoseBatch,
    pose_loss: PoseLoss,
    group: Group | None = None,
) -> Lesson:
    """The lesson of what student and mentors have said; see `pose_training_step`."""
    codec = student.codec
    encoded = codec.logits(codec.encode(batch.points))
    task = {"mse": squared_error, "ce": anchored_likelihood}[pose_loss.task](encoded)
    rank_divergence = mentor_mask = None
    if said:
        mentor_mask = torch.stack([mentor.known for mentor in mentors])
    if said and pose_loss.score == "oks":
        points = [codec.decode(outputs)[0], *(o.points for o in said if o.points is not None)]
        missed = oks_divergence(
            torch.stack(points), batch.points, batch.visible, batch.area, pose_loss.sigmas
        )
        rank_divergence = missed[0], missed[1:]
    signals = make_signals(
        codec.logits(outputs),
        [opinion.logits for opinion in said],
        tuple(block.softmax(-1) for block in encoded),
        unit_weight=batch.visible,
        mentor_unit_weight=(
            torch.ones_like(batch.visible) if pose_loss.unlabelled == "teach" else None
        ),
        mentor_mask=mentor_mask,
        rank_divergence=rank_divergence,
        task_loss=task,
        group=group,
    )
    return method(signals)
