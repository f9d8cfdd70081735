"""The flip test: a network's outputs on a crop and on its mirror image, averaged.

Shapes: ``B`` persons, ``U`` joints (units), ``K`` bins.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from classroomkd.core.signals import Blocks
from classroomkd.tasks.pose.models.codec import Codec, HeatmapCodec
from classroomkd.tasks.pose.models.network import PoseNetwork


def flip_test(network: PoseNetwork, images: Tensor) -> Blocks:
    """The mean of the outputs on images and, mirrored back, on their mirror images.

    Args:
        network: it should be in eval mode.
        images: ``[B, 3, H, W]`` in [0, 1].

    Returns:
        Outputs, as the network gives them; the caller decides about gradients.

    Example:
        >>> from classroomkd.tasks.pose.models import build_pose_model
        >>> network = build_pose_model("pose/tiny/heatmap", ("left", "right"), ((0, 1),), (32, 32))
        >>> (heat,) = flip_test(network.eval(), torch.rand(2, 3, 32, 32))
        >>> heat.shape
        torch.Size([2, 2, 8, 8])
    """
    straight, mirrored = network(images), network(images.flip(-1))
    back = mirror(mirrored, network.codec, network.input_size[1], network.flip_pairs)
    return tuple((a + b) / 2 for a, b in zip(straight, back, strict=True))


def mirror(
    outputs: Blocks, codec: Codec, width: int, flip_pairs: Sequence[tuple[int, int]]
) -> Blocks:
    """What a network would have given for the mirror image of its input.

    The mirror image of pixel ``x`` is ``width - 1 - x``. Bins that are not symmetric in the input,
    such as those of RTMPose, change their places by what that asks for; where the mirror image has
    no bin, the outermost one stands in.

    Args:
        outputs: of a network with this codec.
        codec: places of its bins.
        width: of its input, in pixels.
        flip_pairs: places of a left joint and its right one.
    """
    swapped = list(range(outputs[0].shape[1]))
    for left, right in flip_pairs:
        swapped[left], swapped[right] = right, left
    joints = torch.tensor(swapped, device=outputs[0].device)
    first, *rest = (block.index_select(1, joints) for block in outputs)
    first = _reverse(first, codec.x.mirror(width))
    assert len(rest) == (0 if isinstance(codec, HeatmapCodec) else 1)
    return first, *rest


def _reverse(rows: Tensor, turn: float) -> Tensor:
    """Rows ``[..., K]`` with bin ``b`` taken from bin ``turn - b``."""
    last = rows.shape[-1] - 1
    if turn == last:
        return rows.flip(-1)
    places = (turn - torch.arange(last + 1, device=rows.device, dtype=torch.float64)).clamp(0, last)
    below = places.floor().long()
    share = (places - below).to(rows.dtype)
    above = (below + 1).clamp(max=last)
    return rows.index_select(-1, below) * (1 - share) + rows.index_select(-1, above) * share
