"""What methods read in pose estimation: joints are units, bins are classes.

Shapes: ``M`` mentors, ``B`` persons, ``U`` joints, ``K`` bins.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from classroomkd.core import Signals, make_signals
from classroomkd.core.lesson import labels
from classroomkd.core.signals import Blocks, TaskLoss
from classroomkd.errors import ClassroomError
from classroomkd.methods import Outputs
from classroomkd.tasks.pose.data import PoseBatch
from classroomkd.tasks.pose.metrics import oks_divergence
from classroomkd.tasks.pose.models.codec import Codec


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


def pose_signals(
    codec: Codec,
    student: Outputs,
    mentors: Sequence[Outputs],
    batch: PoseBatch,
    loss: PoseLoss,
) -> Signals:
    """What methods read: each joint is a classification over bins, weighed by its visibility.

    Args:
        codec: of the student.
        student: logits in its bins; ``extras["points"]`` where everybody is ranked by OKS; and
            ``mask``, where a mentor that learns knows some joints only.
        mentors: the same of each.
        batch: of all processes.
        loss: what scores, units and the task are.
    """
    visible = batch.visible if student.mask is None else batch.visible * student.mask
    encoded = codec.logits(codec.encode(batch.points))
    task = {"mse": squared_error, "ce": anchored_likelihood}[loss.task](encoded)
    rank_divergence = None
    if mentors and loss.score == "oks":
        points = torch.stack([_points(said) for said in (student, *mentors)])
        missed = oks_divergence(points, batch.points, visible, batch.area, loss.sigmas)
        rank_divergence = missed[0], missed[1:]
    unlabelled = torch.ones_like(visible) if loss.unlabelled == "teach" else None
    signals = make_signals(
        student.blocks,
        [said.blocks for said in mentors],
        tuple(block.softmax(-1) for block in encoded),
        unit_weight=visible,
        mentor_unit_weight=unlabelled,
        mentor_mask=_masks(mentors, visible),
        rank_divergence=rank_divergence,
        task_loss=task,
    )
    return replace(signals, outputs=(student, *mentors), index=batch.index)


def _masks(mentors: Sequence[Outputs], visible: Tensor) -> Tensor | None:
    """``[M, U]`` bool, the joints that each mentor knows; None without mentors."""
    if not mentors:
        return None
    every = torch.ones(visible.shape[1:], dtype=torch.bool, device=visible.device)
    return torch.stack([every if said.mask is None else said.mask for said in mentors])


def _points(said: Outputs) -> Tensor:
    if "points" not in said.extras:
        raise ClassroomError(
            "the bank has no points of a mentor, by which these mentors are ranked: build it again"
            " with this recipe, or set loss.score=likelihood"
        )
    return said.extras["points"]
