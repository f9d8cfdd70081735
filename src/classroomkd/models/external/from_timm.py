"""Models of timm, with the preprocessing of their ``pretrained_cfg``."""

from typing import Any

from torch import Tensor, nn

from classroomkd.errors import ClassroomError, nearest
from classroomkd.models.external.maps import channels_first, unflatten
from classroomkd.models.external.network import ExternalNetwork, Trace
from classroomkd.models.external.origins import fetching, require, torch_cache
from classroomkd.models.external.pixels import Pixels


class TimmNetwork(ExternalNetwork):
    """A model of timm; its maps are those of its ``forward_intermediates``."""

    def trace(self, x: Tensor) -> Trace:
        """Run the model on normalised images of its size, and tell of its maps."""
        if not hasattr(self.model, "forward_intermediates"):
            return super().trace(x)
        model: Any = self.model
        final, maps = model.forward_intermediates(x, output_fmt="NCHW")
        return Trace(maps, _last_map(final, maps[-1]), model.forward_head(final))


def _last_map(final: Any, map_before: Tensor) -> Tensor | None:
    """What timm pools, as a map; None where it is several (CrossViT, CoaT)."""
    if not isinstance(final, Tensor):
        return None
    height, width = map_before.shape[2:]
    if final.ndim == 3 and final.shape[1] >= height * width:
        return unflatten(final, height, width)
    if final.ndim != 4:
        return None
    last = final.shape[1:3] == map_before.shape[2:] and final.shape[2:] != map_before.shape[2:]
    return channels_first(final) if last else final


def check(name: str) -> str:
    """The name, if timm knows it; a ValueError naming the nearest if not."""
    timm = require("timm", "timm")
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        raise ValueError(
            f"unknown model '{name}' of timm{nearest(architecture, timm.list_models())}"
            " (see timm.list_models())"
        )
    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        known = ", ".join(tags) or "none"
        raise ValueError(
            f"unknown weights '{tag}' of timm's {architecture}{nearest(tag, tags)} (known: {known})"
        )
    return name


def build(name: str, num_classes: int | None, pretrained: bool) -> ExternalNetwork:
    """Build a model of timm; see `build_external`."""
    timm = require("timm", "timm")
    if pretrained:
        model = _pretrained(timm, name)
        if num_classes is not None:
            model.reset_classifier(num_classes)
    else:
        own = {} if num_classes is None else {"num_classes": num_classes}
        model = timm.create_model(name, **own)
    if not model.num_classes:
        raise ClassroomError(
            f"timm/{name} has no classifier: it can be a student, which gets a fresh one, and no"
            " mentor"
        )
    config = model.pretrained_cfg
    pixels = Pixels(
        size=tuple(config["input_size"][1:]),
        always=pretrained or bool(config.get("fixed_input_size")),
        interpolation=config["interpolation"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )
    classes = class_names(model) if pretrained and num_classes is None else None
    return TimmNetwork(model, model.num_classes, pixels, classes)


def class_names(model: nn.Module) -> tuple[str, ...] | None:
    """Names of an ImageNet model's classes, as timm guesses them by their number."""
    data: Any = require("timm.data", "timm")
    subset = data.infer_imagenet_subset(model)
    if subset is None:
        return None
    info = data.ImageNetInfo(subset)
    names = zip(info.label_names(), info.label_descriptions(), strict=True)
    return tuple(f"{identity}, {words}" for identity, words in names)


def _pretrained(timm: Any, name: str) -> Any:
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise ClassroomError(f"timm offers no weights for {name}: leave pretrained out")
    source = f"https://huggingface.co/{config.hf_hub_id}" if config.hf_hub_id else config.url
    cure = (
        f"Where there is a network, run `hf download {config.hf_hub_id}`, and copy the folder"
        f" {_hub_cache()}/models--{config.hf_hub_id.replace('/', '--')} here"
        if config.hf_hub_id
        else f"Fetch that file and put it at {torch_cache(config.url)}"
    )
    with fetching(f"the weights of timm/{name}, {source},", cure):
        return timm.create_model(name, pretrained=True)


def _hub_cache() -> str:
    from huggingface_hub.constants import HF_HUB_CACHE

    return str(HF_HUB_CACHE)
