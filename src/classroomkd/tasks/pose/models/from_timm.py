"""Backbones of timm: the map of their deepest stage.

Shapes: ``B`` persons, ``C`` channels, ``H`` and ``W`` pixels.
"""

from typing import Any

from torch import Tensor, nn

from classroomkd.errors import ClassroomError
from classroomkd.models.external.from_timm import check
from classroomkd.models.external.origins import fetching, require
from classroomkd.models.external.pixels import IMAGENET_MEAN, IMAGENET_STD


class TimmBackbone(nn.Module):
    """The deepest map of a model of timm; of an HRNet its finest, which has seen all others.

    Args:
        name: a model of timm, with a tag of its weights if wanted.
        input_size: ``(H, W)``.
        pretrained: whether to load the weights that timm offers.

    Attributes:
        channels: ``C``.
        stride: input pixels to a cell of the map.
        deepest: input pixels to a cell of its coarsest map: what sizes must be multiples of.
        mean: of each channel of its images.
        std: of each channel of its images.

    Raises:
        ValueError: timm has no such model, or its package is missing.
        ClassroomError: weights cannot be had, or the model has no maps.

    Example:
        >>> import torch
        >>> backbone = TimmBackbone("test_resnet", (64, 96))
        >>> backbone(torch.rand(2, 3, 64, 96)).shape, backbone.stride
        (torch.Size([2, 96, 2, 3]), 32)
    """

    def __init__(self, name: str, input_size: tuple[int, int], pretrained: bool = False) -> None:
        super().__init__()
        timm = require("timm", "timm")
        check(name)
        config = timm.get_pretrained_cfg(name)
        options: dict[str, Any] = {"features_only": True, "out_indices": (-1,)}
        hrnet = name.startswith("hrnet")
        if hrnet:
            options.update(feature_location="", out_indices=(1,))
        if config is not None and config.fixed_input_size:
            options["img_size"] = input_size
        self.model = _create(timm, name, config, options, pretrained)
        if hrnet:  # nobody looks at the coarser maps of its last exchange
            last = self.model.stage4[-1]
            last.fuse_layers = last.fuse_layers[:1]
        self.channels = self.model.feature_info.channels()[-1]
        self.stride = self.model.feature_info.reduction()[-1]
        self.deepest = 32 if hrnet else self.stride
        self.mean = tuple(config.mean) if config is not None else IMAGENET_MEAN
        self.std = tuple(config.std) if config is not None else IMAGENET_STD

    def forward(self, x: Tensor) -> Tensor:
        """The map ``[B, C, H / stride, W / stride]`` of normalised images ``[B, 3, H, W]``."""
        found = self.model(x)[-1]
        last = found.shape[1] != self.channels and found.shape[-1] == self.channels
        return found.permute(0, 3, 1, 2) if last else found

    def show(self, x: Tensor) -> dict[str, Tensor]:
        """``head``, what `forward` gives: timm's backbones show their deepest map."""
        return {"head": self(x)}


def _create(timm: Any, name: str, config: Any, options: dict[str, Any], pretrained: bool) -> Any:
    if not pretrained:
        try:
            return timm.create_model(name, **options)
        except Exception as error:  # whatever a model says that knows of no maps, or of one size
            raise ClassroomError(
                f"timm's {name} gives no maps of that size, and cannot find joints ({error})"
            ) from error
    if config is None or not config.has_weights:
        raise ClassroomError(f"timm offers no weights for {name}: leave pretrained out")
    source, cure = config.url, f"Fetch {config.url} into {hub_cache()}"
    if config.hf_hub_id:
        folder = f"models--{config.hf_hub_id.replace('/', '--')}"
        source = f"https://huggingface.co/{config.hf_hub_id}"
        cure = (
            f"Where there is a network, run `hf download {config.hf_hub_id}`, and copy the folder"
            f" {hub_cache()}/{folder} here; or leave pretrained out"
        )
    with fetching(f"the weights of timm's {name}, {source},", cure):
        return timm.create_model(name, pretrained=True, **options)


def hub_cache() -> str:
    """Where the hub's client keeps what it fetched."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return str(HF_HUB_CACHE)
