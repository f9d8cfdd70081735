"""Pose networks by name."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from classroomkd.core.signals import Blocks
from classroomkd.models.external.pixels import IMAGENET_MEAN, IMAGENET_STD
from classroomkd.tasks.pose.models.from_timm import TimmBackbone
from classroomkd.tasks.pose.models.heads import HEADS, HeatmapHead, SimCCHead
from classroomkd.tasks.pose.models.names import PoseName, parse_pose_name
from classroomkd.tasks.pose.models.network import Pairs, PoseNetwork, Size, check_joints
from classroomkd.tasks.pose.models.small import SMALL, SmallBackbone


class HeadedPoseNetwork(PoseNetwork):
    """A backbone that gives one map, and a head.

    Args:
        backbone: from normalised images to the map.
        head: from the map to outputs.
        joint_names: see `PoseNetwork`; so are the others.
        flip_pairs: likewise.
        input_size: likewise.
        mean: likewise.
        std: likewise.
    """

    def __init__(
        self,
        backbone: SmallBackbone | TimmBackbone,
        head: HeatmapHead | SimCCHead,
        joint_names: Sequence[str],
        flip_pairs: Pairs,
        input_size: Size,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__(joint_names, flip_pairs, input_size, head.codec, mean, std)
        self.backbone = backbone
        self.head = head

    def predict(self, x: Tensor) -> Blocks:
        """The head's outputs for the backbone's map."""
        return self.head(self.backbone(x))

    def forward_stages(self, images: Tensor) -> dict[str, Any]:
        """What it makes of ``images [B, 3, H, W]`` in [0, 1], by name.

        The backbone's maps, shallow to deep, ``head``, which is what the head sees, its mean
        ``pooled``, and ``logits``, the outputs.
        """
        stages = self.backbone.show(self.fitted(images))
        head = stages["head"]
        return {**stages, "pooled": head.mean((2, 3)), "logits": self.head(head)}


def build_pose_model(
    name: str,
    joint_names: Sequence[str],
    flip_pairs: Pairs = (),
    input_size: Sequence[int] | None = None,
    *,
    pretrained: bool = False,
    **options: Any,
) -> PoseNetwork:
    """Build a pose network, with fresh weights unless ``pretrained``.

    =================================  ==========================================================
    ``pose/small/heatmap``             1 M parameters, for small crops; tiny: 0.2 M, base: 3 M
    ``pose/resnet18/heatmap``          a backbone of timm; so are ``hrnet_w32``, ``cspnext_s``, ...
    ``pose/resnet18/simcc``            with a row of bins for each axis
    ``pose/hf/ID``, ``pose/hf/FOLDER`` a ViTPose of transformers
    ``pose/torchvision/NAME``          Keypoint R-CNN: ``keypointrcnn_resnet50_fpn``
    =================================  ==========================================================

    Args:
        name: as above.
        joint_names: the ``U`` joints, in the order of the outputs.
        flip_pairs: places of each left joint and its right one.
        input_size: ``(H, W)``; a ViTPose has its own, a Keypoint R-CNN (512, 384) if left out.
        pretrained: whether to load the weights of the backbone; of the whole model of others.
        **options: of the head, see `HeatmapHead` and `SimCCHead`; ``dataset_index`` of a ViTPose.

    Raises:
        ValueError: an unknown name, or an input size that the network cannot have.
        TypeError: options that the network does not have.
        ClassroomError: weights cannot be had, naming what to fetch and where it belongs.

    Example:
        >>> import torch
        >>> network = build_pose_model("pose/tiny/simcc", ["nose", "neck"], input_size=(64, 48))
        >>> [tuple(block.shape) for block in network(torch.rand(3, 3, 64, 48))]
        [(3, 2, 96), (3, 2, 128)]
    """
    parsed = parse_pose_name(name)
    names, pairs = check_joints(joint_names, flip_pairs)
    size = None if input_size is None else _size(input_size)
    build = {"hf": _vitpose, "torchvision": _keypoint_rcnn}.get(parsed.body, _headed)
    network = build(parsed, names, pairs, size, pretrained, **options)
    network.name = str(parsed)
    network.options = options
    return network


def _headed(
    name: PoseName,
    joint_names: tuple[str, ...],
    flip_pairs: Pairs,
    size: Size | None,
    pretrained: bool,
    **options: Any,
) -> PoseNetwork:
    if size is None:
        raise ValueError(f"{name} needs an input_size (H, W), such as (256, 192)")
    pixels: dict[str, Any] = {}
    if name.body in SMALL:
        if pretrained:
            raise ValueError(f"{name} comes without weights: leave pretrained out")
        backbone = SmallBackbone(*SMALL[name.body], stride=4 if name.rest == "heatmap" else 8)
    else:
        backbone = TimmBackbone(name.body, size, pretrained)
        pixels = {"mean": backbone.mean, "std": backbone.std}
    check_multiple(name, size, backbone.deepest)
    head = HEADS[name.rest](backbone.channels, backbone.stride, len(joint_names), size, **options)
    return HeadedPoseNetwork(backbone, head, joint_names, flip_pairs, size, **pixels)


def _vitpose(
    name: PoseName,
    joint_names: tuple[str, ...],
    flip_pairs: Pairs,
    size: Size | None,
    pretrained: bool,
    **options: Any,
) -> PoseNetwork:
    from classroomkd.tasks.pose.models import from_transformers  # transformers are slow to import

    network = from_transformers.build(name.rest, joint_names, flip_pairs, pretrained, **options)
    if size not in (None, network.input_size):
        raise ValueError(f"{name} has an input_size of its own, {network.input_size}: leave it out")
    return network


def _keypoint_rcnn(
    name: PoseName,
    joint_names: tuple[str, ...],
    flip_pairs: Pairs,
    size: Size | None,
    pretrained: bool,
    **options: Any,
) -> PoseNetwork:
    from classroomkd.tasks.pose.models import from_torchvision  # detection is slow to import

    size = size or (512, 384)
    check_multiple(name, size, 32)
    return from_torchvision.build(name.rest, joint_names, flip_pairs, size, pretrained, **options)


def _size(input_size: Sequence[int]) -> Size:
    height, width = (int(side) for side in input_size)
    return height, width


def check_multiple(name: PoseName | str, size: Size, step: int) -> None:
    """Refuse sizes that a network's strides do not divide.

    Raises:
        ValueError: with sizes near it that would do.

    >>> check_multiple("pose/small/heatmap", (100, 96), 16)
    Traceback (most recent call last):
    ValueError: pose/small/heatmap halves its input to 1/16: an input_size (100, 96) must be
    multiples of 16, such as (96, 96) or (112, 96)
    """
    if all(side > 0 and side % step == 0 for side in size):
        return
    less, more = (
        tuple(max(1, (side + extra) // step) * step for side in size) for extra in (0, step - 1)
    )
    such = f"{less}" if less == more else f"{less} or {more}"
    raise ValueError(
        f"{name} halves its input to 1/{step}: an input_size {size} must be"
        f" multiples of {step}, such as {such}"
    )
