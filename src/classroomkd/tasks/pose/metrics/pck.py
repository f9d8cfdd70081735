"""The percentage of correct keypoints (PCK): joints predicted within a part of a person's size.

Shapes: ``N`` persons, ``U`` joints. Distances and sizes are in image pixels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from classroomkd.tasks.pose.data.persons import PersonSet

NOT_JUDGED = frozenset({"pelvis", "thorax"})
"""MPII's joints that PCKh leaves out, as its benchmark does."""


@dataclass(frozen=True)
class Pck:
    """How many joints are where they belong.

    Attributes:
        mean: over all labelled joints of all persons that have a size, in percent; nan if none.
        per_joint: ``U`` percentages, nan where nobody has the joint labelled.
        labelled: how many were judged of each joint.
        left_out: persons with labelled joints, but without a size to measure them by.
    """

    mean: float
    per_joint: tuple[float, ...]
    labelled: tuple[int, ...]
    left_out: int


def pck(points: Tensor, truth: Tensor, visible: Tensor, scale: Tensor, threshold: float) -> Pck:
    """The percentage of joints no further off than ``threshold * scale``.

    Args:
        points: ``[N, U, 2]`` predicted.
        truth: ``[N, U, 2]``.
        visible: ``[N, U]``, above 0 where a joint is labelled and to be judged.
        scale: ``[N]``, the persons' sizes; who has none (nan, or not above 0) is left out.
        threshold: part of the size.

    >>> truth = torch.zeros(1, 2, 2)
    >>> points = torch.tensor([[[3.0, 4.0], [30.0, 40.0]]])
    >>> pck(points, truth, torch.ones(1, 2), torch.tensor([10.0]), 0.5)
    Pck(mean=50.0, per_joint=(100.0, 0.0), labelled=(1, 1), left_out=0)
    """
    sized = scale.isfinite() & (scale > 0)
    judged = (visible > 0) & sized[:, None]
    distance = (points.double() - truth.double()).norm(dim=-1)
    right = (distance <= threshold * scale.double()[:, None]) & judged
    hits, labelled = right.sum(0), judged.sum(0)
    return Pck(
        mean=(100.0 * hits.sum() / labelled.sum()).item(),
        per_joint=tuple((100.0 * hits / labelled).tolist()),
        labelled=tuple(labelled.tolist()),
        left_out=int(((visible > 0).any(1) & ~sized).sum()),
    )


def segment(truth: PersonSet, start: str, end: str) -> Tensor:
    """The distance between two joints of each person, as a size to measure by.

    Returns:
        ``[N]``; nan where one of the two is not labelled.

    Raises:
        ValueError: if the set has no joint of that name.
    """
    a, b = truth.joints.names.index(start), truth.joints.names.index(end)
    labelled = (truth.visible[:, [a, b]] > 0).all(1)
    length = (truth.points[:, a].double() - truth.points[:, b].double()).norm(dim=-1)
    return torch.where(labelled, length, torch.nan)


@dataclass(frozen=True)
class PckRule:
    """One way to measure PCK.

    Attributes:
        name: of the number.
        threshold: part of the size.
        size: of each person ``[N]``, nan for unknown.
        definition: what the number says, in words.
        needs: joints without which it has no meaning.
    """

    name: str
    threshold: float
    size: Callable[[PersonSet], Tensor]
    definition: str
    needs: frozenset[str] = frozenset()


_HEAD_BOX = "0.6 of the diagonal of its head box"
_NECK_HEAD = "the distance from its neck to the top of its head, both labelled"
_TORSO = "the distance from its left shoulder to its right hip, both labelled"


def _rule(
    name: str, size: Callable[[PersonSet], Tensor], what: str, needs: Sequence[str] = ()
) -> PckRule:
    threshold = float(name.rpartition("@")[2])
    definition = (
        f"joints no further off than {threshold:g} of the person's size, in percent of all labelled"
        f" joints but pelvis and thorax; the size is {what}; persons without one are left out"
    )
    return PckRule(name, threshold, size, definition, frozenset(needs))


def pck_rules(truth: PersonSet) -> list[PckRule]:
    """The rules that go with a set: PCKh where it knows heads, else what its joints allow.

    PCKh takes the head's size from head boxes where the set has any, and else from the segment
    from neck to head top: such numbers compare with each other only. The torso's PCK goes with
    sets without head boxes.
    """
    if truth.head.isfinite().any():
        return [_rule(f"PCKh@{t}", lambda given: given.head, _HEAD_BOX) for t in ("0.5", "0.1")]

    def neck_head(given: PersonSet) -> Tensor:
        return segment(given, "neck", "head_top")

    def torso(given: PersonSet) -> Tensor:
        return segment(given, "left_shoulder", "right_hip")

    pose_loss = [
        _rule("PCK@0.2", torso, _TORSO, ("left_shoulder", "right_hip")),
        _rule("PCKh@0.5", neck_head, _NECK_HEAD, ("neck", "head_top")),
        _rule("PCKh@0.1", neck_head, _NECK_HEAD, ("neck", "head_top")),
    ]
    return [rule for rule in pose_loss if rule.needs <= set(truth.joints.names)]


def judge_pck(points: Tensor, truth: PersonSet, rule: PckRule) -> Pck:
    """Measure predicted points ``[N, U, 2]`` by a rule; pelvis and thorax do not count."""
    judged = torch.tensor([name not in NOT_JUDGED for name in truth.joints.names])
    visible = truth.visible * judged
    return pck(points, truth.points, visible, rule.size(truth), rule.threshold)
