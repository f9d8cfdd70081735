"""Views of persons as a pure function of (seed, epoch, index): where the input lies in the image.

``B`` persons, ``U`` joints.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from classroomkd.data import options as check
from classroomkd.data.draws import Draws
from classroomkd.tasks.pose.data.crop import Frames, Size, fit_box, make_frames
from classroomkd.tasks.pose.data.joints import JointSet

_MINIMUM, _OF_UPPER, _OF_LOWER = 9, 2, 3  # labelled joints for half a body to be shown
_HALF_PADDING = 1.5
_UPPER = 0.7  # how often it is the upper half where both can be shown
_LEAST_HALF = 0.25  # of the whole region: joints may lie at one place


@dataclass(frozen=True)
class PoseViews:
    """How views for training differ from the plain one.

    Args:
        flip: Probability that left and right are exchanged.
        scale: Least and most by which the shown region is larger than the plain one.
        rotation: Most degrees that the person is turned, either way.
        rotation_probability: How often it is turned at all.
        shift: Most that the region moves along each axis, as a share of its side.
        half_body: Probability that only the upper or the lower half is shown, with 1.5 times the
            extent of its joints, of persons with 9 labelled joints or more: the upper in 7 of 10
            cases where it has 2 and the lower has 3, else the one that has so many. The region is
            from a quarter of the plain one to as large.

    Raises:
        ValueError: If an option is out of range.

    Reference: Wang et al., Mask-pose cascaded CNN for 2D hand pose, 2018, as in HRNet's code and
    MMPose (half of the body); the ranges are this project's.
    """

    flip: float = 0.5
    scale: Sequence[float] = (0.65, 1.35)
    rotation: float = 40.0
    rotation_probability: float = 0.6
    shift: float = 0.1
    half_body: float = 0.3

    def __post_init__(self) -> None:
        check.pair("scale", self.scale, 0.05, 20)
        check.number("rotation", self.rotation, 0, 180)
        for name in ("flip", "rotation_probability", "shift", "half_body"):
            check.number(name, getattr(self, name), 0, 1)

    def frames(
        self,
        draws: Draws,
        box: Tensor,
        points: Tensor,
        visible: Tensor,
        joints: JointSet,
        size: Size,
        padding: float = 1.25,
    ) -> tuple[Frames, Tensor]:
        """Where the inputs lie.

        Args:
            draws: Of the persons.
            box: ``[B, 4]``: left, top, width, height in image pixels.
            points: ``[B, U, 2]`` in image pixels.
            visible: ``[B, U]``, 0 where a joint is not labelled.
            joints: The joint set.
            size: Height and width of the input.
            padding: How many times as large as the box the plain region is.

        Returns:
            The frames, and ``[B]`` bool: who is mirrored, whose joints are to be exchanged.
        """
        centre, scale = fit_box(box, size, padding)
        if self.half_body > 0:
            centre, scale = self._half(draws, points, visible > 0, joints, size, centre, scale)
        least, most = self.scale
        scale = scale * (least + (most - least) * draws.uniform("pose scale")[:, 0].double())
        height, width = size
        side = scale[:, None] * torch.tensor([width, height])
        away = 2 * draws.uniform("pose shift", n=2).double() - 1
        chance, angle = draws.uniform("pose rotation", n=2).double().unbind(1)
        angle = torch.where(chance < self.rotation_probability, (2 * angle - 1) * self.rotation, 0)
        mirrored = draws.uniform("pose flip")[:, 0] < self.flip
        frames = make_frames(
            centre + away * self.shift * side, scale, size, angle=angle, mirrored=mirrored
        )
        return frames, mirrored

    def _half(
        self,
        draws: Draws,
        points: Tensor,
        labelled: Tensor,
        joints: JointSet,
        size: Size,
        centre: Tensor,
        scale: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Centre and scale, of half the body for those for whom it is drawn and can be shown."""
        in_upper = torch.zeros(len(joints), dtype=torch.bool)
        in_upper[list(joints.upper)] = True
        in_lower = torch.zeros(len(joints), dtype=torch.bool)
        in_lower[list(joints.lower)] = True
        has_upper = (labelled & in_upper).sum(1) >= _OF_UPPER
        has_lower = (labelled & in_lower).sum(1) >= _OF_LOWER
        chance, which = draws.uniform("pose half body", n=2).unbind(1)
        upper = has_upper & (~has_lower | (which < _UPPER))
        taken = (chance < self.half_body) & (labelled.sum(1) >= _MINIMUM) & (has_upper | has_lower)

        shown = labelled & torch.where(upper[:, None], in_upper, in_lower)
        places, hidden = points.double(), ~shown[..., None]
        least = places.masked_fill(hidden, torch.inf).amin(1)
        most = places.masked_fill(hidden, -torch.inf).amax(1)
        box = torch.cat([least, most - least], 1)
        half_centre, half_scale = fit_box(box, size, _HALF_PADDING)
        half_scale = torch.minimum(torch.maximum(half_scale, scale * _LEAST_HALF), scale)
        return (
            torch.where(taken[:, None], half_centre, centre),
            torch.where(taken, half_scale, scale),
        )


def plain_frames(box: Tensor, size: Size, padding: float = 1.25) -> Frames:
    """Where the inputs lie for evaluation: ``[B, 4]`` boxes, padded, nothing else."""
    return make_frames(*fit_box(box, size, padding), size)


def mirror_joints(values: Tensor, joints: JointSet, mirrored: Tensor) -> Tensor:
    """Exchange left and right of those who are mirrored.

    Args:
        values: ``[B, U, ...]``, one or more for each joint.
        joints: The joint set.
        mirrored: ``[B]`` bool.
    """
    chosen = mirrored.view(-1, *[1] * (values.ndim - 1))
    return torch.where(chosen, values[:, list(joints.mirrored)], values)
