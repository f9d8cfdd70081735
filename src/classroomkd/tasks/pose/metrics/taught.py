"""Who taught which joint: counts of a batch, to be added up over an epoch.

Shapes: ``M`` mentors, ``B`` persons, ``U`` joints.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class TaughtJoints(NamedTuple):
    """How often each mentor taught each joint ``[M, U]``, and how often it could have, ``[M, U]``.

    Float64, on the lesson's device; sums of batches are sums of the parts.
    """

    taught: Tensor
    labelled: Tensor

    def share(self) -> Tensor:
        """``[M, U]`` in [0, 1]; nan where the joint was never labelled or the mentor lacks it."""
        return self.taught / self.labelled


def taught_joints(active: Tensor, visible: Tensor, known: Tensor | None = None) -> TaughtJoints:
    """Count who taught which joint in a batch, without a wait for the device.

    Args:
        active: ``[M, B]`` of a lesson, or ``[M, B, U]`` where joints are ranked by themselves.
        visible: ``[B, U]``, above 0 where a joint is labelled; others are not taught.
        known: ``[M, U]`` bool, which joints each mentor has; all if left out.

    >>> active = torch.tensor([[True, False], [True, True]])
    >>> visible = torch.tensor([[1, 1], [1, 0]])
    >>> taught_joints(active, visible).share()
    tensor([[0.5000, 1.0000],
            [1.0000, 1.0000]], dtype=torch.float64)
    """
    if active.ndim == 2:
        active = active.unsqueeze(-1)
    could = (visible > 0).expand(len(active), -1, -1)
    if known is not None:
        could = could & known[:, None]
    return TaughtJoints(
        taught=(active & could).sum(1, dtype=torch.float64),
        labelled=could.sum(1, dtype=torch.float64),
    )
