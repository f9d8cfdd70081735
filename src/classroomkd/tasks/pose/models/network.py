"""What every pose network offers: crops of persons in, one opinion on each joint out.

Shapes: ``B`` persons, ``U`` joints (units), ``C`` channels, ``H`` and ``W`` pixels.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from classroomkd.core.signals import Blocks
from classroomkd.models.external.pixels import IMAGENET_MEAN, IMAGENET_STD
from classroomkd.models.network import Normalize
from classroomkd.tasks.pose.models.codec import Codec

Size = tuple[int, int]
Pairs = Sequence[Sequence[int]]


class PoseNetwork(nn.Module, ABC):
    """A network from images in [0, 1] to what its ``codec`` decodes.

    It owns its normalisation and its input size: images of another size are resized, whole, to it.
    A family provides :meth:`predict`.

    Attributes:
        name: the name it was built by, such as ``"pose/small/heatmap"``.
        options: what it was built with beyond name, joints and size.
        joint_names: the ``U`` joints, in the order of its outputs.
        flip_pairs: places of each left joint and its right one.
        input_size: ``(H, W)``.
        codec: what its outputs mean.
        normalize: the normalisation of the images.

    Args:
        joint_names: as above.
        flip_pairs: as above.
        input_size: as above.
        codec: as above.
        mean: mean of each channel.
        std: standard deviation of each channel.

    Raises:
        ValueError: names of joints that repeat or are missing, pairs that are none.
    """

    def __init__(
        self,
        joint_names: Sequence[str],
        flip_pairs: Pairs,
        input_size: Size,
        codec: Codec,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.name = type(self).__name__
        self.options: dict[str, Any] = {}
        self.joint_names, self.flip_pairs = check_joints(joint_names, flip_pairs)
        self.input_size = input_size
        self.codec = codec
        self.normalize = Normalize(mean, std)

    @abstractmethod
    def predict(self, x: Tensor) -> Blocks:
        """The outputs for normalised images ``[B, 3, H, W]`` of the input size."""

    def forward(self, images: Tensor) -> Blocks:
        """The outputs for ``images [B, 3, H, W]`` in [0, 1]; see the codec for their shapes."""
        return self.predict(self.fitted(images))

    def fitted(self, images: Tensor) -> Tensor:
        """Images of its input size, normalised."""
        if images.shape[-2:] != self.input_size:
            images = F.interpolate(images, self.input_size, mode="bilinear", antialias=True)
        return self.normalize(images)


def check_joints(
    joint_names: Sequence[str], flip_pairs: Pairs
) -> tuple[tuple[str, ...], tuple[tuple[int, int], ...]]:
    """Names and pairs as plain tuples.

    Raises:
        ValueError: see `PoseNetwork`.

    >>> check_joints(["nose", "left_eye", "right_eye"], [[1, 2]])
    (('nose', 'left_eye', 'right_eye'), ((1, 2),))
    """
    names = tuple(joint_names)
    pairs = tuple((int(left), int(right)) for left, right in flip_pairs)
    if not names or len(set(names)) < len(names):
        raise ValueError(f"joints need names, each its own, got {', '.join(names) or 'none'}")
    places = [place for pair in pairs for place in pair]
    if len(set(places)) < len(places) or not all(0 <= place < len(names) for place in places):
        raise ValueError(f"flip_pairs must pair places below {len(names)}, each once, got {pairs}")
    return names, pairs
