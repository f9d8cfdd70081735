"""The keypoint head of torchvision's Keypoint R-CNN, asked about a whole crop.

Reference: He et al., Mask R-CNN, ICCV 2017, arXiv:1703.06870.
"""

from collections.abc import Sequence
from math import floor, log2
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor
from torchvision.models import detection
from torchvision.ops import roi_align

from classroomkd.core.signals import Blocks
from classroomkd.errors import ClassroomError
from classroomkd.models.external.origins import fetching
from classroomkd.tasks.pose.models.codec import HeatmapCodec
from classroomkd.tasks.pose.models.grid import Grid
from classroomkd.tasks.pose.models.network import Pairs, PoseNetwork, Size

_BINS = 56


class KeypointRCNNPose(PoseNetwork):
    """A Keypoint R-CNN without its detector: the one box is the crop.

    Its 56 x 56 outputs are logits over the box, of the model's own softmax; ``beta`` is 1. It was
    trained on whole photographs of 800 pixels and on boxes that fit tightly: small crops, and wide
    margins, are strange to it.

    Args:
        model: a ``torchvision.models.detection.KeypointRCNN``; what detects is left out.
        joint_names: see `PoseNetwork`.
        flip_pairs: see `PoseNetwork`.
        input_size: ``(H, W)`` that crops are resized to.
    """

    def __init__(
        self,
        model: detection.KeypointRCNN,
        joint_names: Sequence[str],
        flip_pairs: Pairs,
        input_size: Size = (512, 384),
    ) -> None:
        height, width = input_size
        codec = HeatmapCodec(
            Grid.over(width, _BINS), Grid.over(height, _BINS), sigma=1.0, beta=1.0, log=True
        )
        pixels: Any = model.transform
        super().__init__(
            joint_names, flip_pairs, input_size, codec, pixels.image_mean, pixels.image_std
        )
        heads: Any = model.roi_heads
        if heads.keypoint_predictor.out_channels != len(self.joint_names):
            raise ClassroomError(
                f"the Keypoint R-CNN has {heads.keypoint_predictor.out_channels} joints, not the"
                f" {len(self.joint_names)} that were named: name the joints it was trained on"
            )
        self.backbone = model.backbone
        self.keypoint_head = heads.keypoint_head
        self.keypoint_predictor = heads.keypoint_predictor
        self.level = pyramid_level(input_size)

    def predict(self, x: Tensor) -> Blocks:
        """Logits ``([B, U, 56, 56],)`` of normalised images."""
        map_ = self.backbone(x)[str(self.level)]
        height, width = self.input_size
        # Without `aligned`, coordinates are those of pixel centres, as ours are.
        corners = torch.tensor((-0.5, -0.5, width - 0.5, height - 0.5), device=x.device)
        number = torch.arange(x.shape[0], device=x.device, dtype=corners.dtype)
        boxes = torch.cat((number.unsqueeze(1), corners.expand(x.shape[0], 4)), 1)
        scale = 0.25 / 2**self.level
        pooled = roi_align(map_, boxes.to(map_.dtype), 14, scale, sampling_ratio=2)
        return (self.keypoint_predictor(self.keypoint_head(pooled)),)


def pyramid_level(size: Size) -> int:
    """Which of the pyramid's four maps (strides 4 to 32) has what is seen in a box of this size.

    >>> pyramid_level((512, 384)), pyramid_level((96, 96))
    (2, 0)
    """
    height, width = size
    return min(max(floor(2 + log2((height * width) ** 0.5 / 224) + 1e-6), 0), 3)


def build(
    name: str,
    joint_names: Sequence[str],
    flip_pairs: Pairs,
    input_size: Size,
    pretrained: bool,
) -> KeypointRCNNPose:
    """Build a Keypoint R-CNN: ``keypointrcnn_resnet50_fpn``, with a tag of its weights if wanted.

    Raises:
        ClassroomError: weights cannot be had, or have other joints.
    """
    tag = name.partition(".")[2]
    offered: Any = detection.KeypointRCNN_ResNet50_FPN_Weights
    if not pretrained:
        model = detection.keypointrcnn_resnet50_fpn(
            weights=None, weights_backbone=None, num_keypoints=len(joint_names)
        )
    else:
        weights = offered[tag] if tag else offered.DEFAULT
        file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(weights.url).path).name
        with fetching(
            f"the weights of pose/torchvision/{name}, {weights.url},",
            f"Fetch that file and put it at {file}",
        ):
            model = detection.keypointrcnn_resnet50_fpn(weights=weights, weights_backbone=None)
    return KeypointRCNNPose(model, joint_names, flip_pairs, input_size)
