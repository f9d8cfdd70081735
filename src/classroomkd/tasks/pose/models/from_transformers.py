"""ViTPose of Hugging Face transformers, from the hub or from a folder.

Reference: Xu et al., ViTPose, NeurIPS 2022, arXiv:2204.12484.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from classroomkd.core.signals import Blocks
from classroomkd.errors import ClassroomError
from classroomkd.models.external.origins import fetching, require
from classroomkd.models.external.pixels import IMAGENET_MEAN, IMAGENET_STD
from classroomkd.tasks.pose.models.codec import HeatmapCodec
from classroomkd.tasks.pose.models.grid import Grid
from classroomkd.tasks.pose.models.network import Pairs, PoseNetwork

_PROCESSOR = "preprocessor_config.json"


class TransformersPose(PoseNetwork):
    """A ``VitPoseForPoseEstimation``: UDP heatmaps, whose corners lie on those of the input.

    Args:
        model: it.
        joint_names: see `PoseNetwork`.
        flip_pairs: see `PoseNetwork`.
        dataset_index: which experts of a ViTPose+ are asked (0 is COCO, 1 AIC, 2 MPII, ...).
        mean: of each channel.
        std: of each channel.

    Raises:
        ClassroomError: the model has another number of joints, or no such experts.
    """

    def __init__(
        self,
        model: Any,
        joint_names: Sequence[str],
        flip_pairs: Pairs,
        *,
        dataset_index: int = 0,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        backbone = model.config.backbone_config
        height, width = _pair(backbone.image_size)
        patch_y, patch_x = _pair(backbone.patch_size)
        scale = model.config.scale_factor if model.config.use_simple_decoder else 4
        codec = HeatmapCodec(
            Grid.corner_to_corner(width, width // patch_x * scale),
            Grid.corner_to_corner(height, height // patch_y * scale),
        )
        super().__init__(joint_names, flip_pairs, (height, width), codec, mean, std)
        if model.config.num_labels != len(self.joint_names):
            raise ClassroomError(
                f"the ViTPose has {model.config.num_labels} joints, not the"
                f" {len(self.joint_names)} that were named: name the joints it was trained on"
            )
        if not 0 <= dataset_index < backbone.num_experts:
            raise ClassroomError(
                f"the ViTPose has {backbone.num_experts} data sets' experts, from 0: there is no"
                f" dataset_index {dataset_index}"
            )
        self.model = model
        self.dataset_index = dataset_index
        self.experts = backbone.num_experts > 1

    def predict(self, x: Tensor) -> Blocks:
        """Maps ``([B, U, Ky, Kx],)`` of normalised images."""
        if not self.experts:
            return (self.model(pixel_values=x).heatmaps,)
        which = torch.full((x.shape[0],), self.dataset_index, device=x.device)
        return (self.model(pixel_values=x, dataset_index=which).heatmaps,)


def build(
    name: str,
    joint_names: Sequence[str],
    flip_pairs: Pairs,
    pretrained: bool,
    *,
    dataset_index: int = 0,
) -> TransformersPose:
    """Build a ViTPose by its hub id or folder.

    Args:
        name: a hub id, or a folder of ``save_pretrained``, as `parse_pose_name` gives it.
        joint_names: those it was trained on; without ``pretrained`` any.
        flip_pairs: see `PoseNetwork`.
        pretrained: whether to load its weights.
        dataset_index: see `TransformersPose`.

    Raises:
        ClassroomError: it cannot be had, or is no ViTPose.
    """
    transformers: Any = require("transformers", "hf")
    with fetching(f"pose/hf/{name}", _cure(name)):
        config = transformers.AutoConfig.from_pretrained(name)
        processor = _processor(name)
    if config.model_type != "vitpose":
        raise ClassroomError(f"pose/hf/{name} is no ViTPose, but a {config.model_type}")
    if pretrained:
        with fetching(f"the weights of pose/hf/{name}", _cure(name)):
            model, told = transformers.VitPoseForPoseEstimation.from_pretrained(
                name, output_loading_info=True
            )
        if told["missing_keys"]:
            missing = ", ".join(sorted(told["missing_keys"])[:5])
            raise ClassroomError(f"pose/hf/{name} lacks weights: {missing}. {_cure(name)}")
    else:
        config.num_labels = len(joint_names)
        model = transformers.VitPoseForPoseEstimation(config)
    return TransformersPose(
        model,
        joint_names,
        flip_pairs,
        dataset_index=dataset_index,
        mean=processor.get("image_mean") or IMAGENET_MEAN,
        std=processor.get("image_std") or IMAGENET_STD,
    )


def _processor(name: str) -> dict[str, Any]:
    """What its preprocessing says; nothing where there is no such file."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    file = Path(name) / _PROCESSOR
    if not Path(name).is_dir():
        try:
            file = Path(hf_hub_download(name, _PROCESSOR))
        except LocalEntryNotFoundError:
            raise
        except EntryNotFoundError:
            return {}
    return json.loads(file.read_text()) if file.is_file() else {}


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _cure(name: str) -> str:
    if Path(name).is_dir():
        return "Is the folder whole? It is written by model.save_pretrained(folder)"
    return (
        f"Where there is a network, run `hf download {name} --local-dir FOLDER`, copy the folder"
        " here, and name it: pose/hf/FOLDER"
    )
