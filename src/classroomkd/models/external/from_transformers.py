"""Image classifiers of Hugging Face transformers, from the hub or from a folder."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from classroomkd.errors import ClassroomError, nearest_path
from classroomkd.models.external.maps import as_it_is, as_map
from classroomkd.models.external.network import ExternalNetwork, Trace, at_rest
from classroomkd.models.external.origins import fetching, renew_classifier, require
from classroomkd.models.external.pixels import Pixels
from classroomkd.models.external.processors import watch_processor

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_PROCESSORS = ("preprocessor_config.json", "processor_config.json")


class TransformersNetwork(ExternalNetwork):
    """An image classifier of transformers; its maps are its hidden states."""

    def logits(self, x: Tensor) -> Tensor:
        """The logits of normalised images of its size."""
        return self.model(pixel_values=x).logits

    def trace(self, x: Tensor) -> Trace:
        """Run the model on normalised images of its size, and tell of its maps."""
        output: Any = self.model(pixel_values=x, output_hidden_states=True)
        states = output.get("reshaped_hidden_states") or output.get("hidden_states") or ()
        found = [_map(state, x) for state in states[1:]]  # without the embedding
        maps = [state for state in found if state is not None]
        return Trace(maps, maps[-1] if maps else None, output.logits)


def _map(state: Tensor, x: Tensor) -> Tensor | None:
    to_map = as_it_is if state.ndim == 4 else as_map(state, x)
    return to_map(state) if to_map else None


def check(name: str) -> str:
    """A hub id as it is, or a folder's whole path; a ValueError if it cannot be either."""
    require("transformers", "hf")
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ValueError(f"{folder} has no config.json: it is no folder of transformers")
        return str(folder.absolute())
    if not _HUB_ID.fullmatch(name):
        raise ValueError(f"hf/{name}: no such folder{nearest_path(folder)}, and no hub id either")
    return name


def build(name: str, num_classes: int | None, pretrained: bool) -> ExternalNetwork:
    """Build an image classifier of transformers; see `build_external`."""
    transformers: Any = require("transformers", "hf")
    with fetching(f"hf/{name}", _cure(name)):
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
        processor = _processor(transformers, name, config)
    factory = transformers.AutoModelForImageClassification
    if type(config) not in factory._model_mapping:
        raise ClassroomError(f"hf/{name} is no image classifier, but a {config.model_type}")
    own = config.num_labels
    mentor = pretrained and num_classes is None
    if mentor and processor is None:
        raise ClassroomError(
            f"hf/{name} does not say how its images are prepared: it has no {_PROCESSORS[0]}. Save"
            " its image processor there, with AutoImageProcessor.from_pretrained(ID OF THE MODEL IT"
            " WAS TUNED FROM).save_pretrained(FOLDER)"
        )
    classes = _class_names(config, name) if mentor else None
    model = _model(factory, config, name, num_classes, pretrained)
    if model.main_input_name != "pixel_values" or getattr(config, "num_channels", 3) != 3:
        raise ClassroomError(f"hf/{name} does not take images of three channels")
    told = Pixels() if processor is None else watch_processor(processor, f"hf/{name}")
    pixels = _fitted(model, told, _image_size(config), pretrained, f"hf/{name}")
    return TransformersNetwork(model, num_classes or own, pixels, classes)


def _model(factory: Any, config: Any, name: str, num_classes: int | None, pretrained: bool) -> Any:
    """The model in float32, whatever it was saved in, with a fresh classifier if asked for."""
    own = config.num_labels
    if not pretrained:
        config.num_labels = num_classes or own
        with fetching(f"a model like hf/{name}", _cure(name)):
            return factory.from_config(config).float()
    with fetching(f"the weights of hf/{name}", _cure(name)):
        model, told = factory.from_pretrained(
            name, output_loading_info=True, trust_remote_code=False
        )
    if num_classes is not None:
        renew_classifier(model, f"hf/{name}", own, num_classes)
    elif told["missing_keys"]:
        raise ClassroomError(
            f"hf/{name} has no weights for {', '.join(sorted(told['missing_keys']))}: it can be"
            " a student, which gets a fresh classifier, and no mentor"
        )
    return model.float()


def _fitted(
    model: Any, told: Pixels, own: tuple[int, int] | None, pretrained: bool, who: str
) -> Pixels:
    """What the processor gives, in the size of the configuration if the model takes no other."""
    sizes = [size for size in dict.fromkeys((told.size, own)) if size is not None]
    size = next((size for size in sizes if len(sizes) == 1 or _takes(model, size)), None)
    if sizes and size is None:
        raise ClassroomError(f"{who} takes images neither of {sizes[0]} nor of {sizes[1]} pixels")
    interpolation = told.interpolation
    if timm := getattr(model.config, "pretrained_cfg", None):  # its processor does not say
        interpolation = timm.get("interpolation", "bicubic")
    return replace(
        told,
        size=size or (224, 224),
        always=pretrained or own is not None,
        interpolation=interpolation,
    )


def _takes(model: Any, size: tuple[int, int]) -> bool:
    """Whether it runs on images of a size."""
    try:
        with at_rest(model):
            model(pixel_values=torch.zeros(1, 3, *size))
    except (ValueError, RuntimeError):
        return False
    return True


def _image_size(config: Any) -> tuple[int, int] | None:
    """Of the configuration, or of that of its part that sees."""
    seeing = getattr(config, "vision_config", config)
    size = getattr(seeing, "image_size", None)
    return (size, size) if isinstance(size, int) else size and (size[0], size[1])


def _processor(transformers: Any, name: str, config: Any) -> Any:
    """The model's image processor; None where nothing tells of it."""
    told = config.model_type == "timm_wrapper" or any(_has(name, file) for file in _PROCESSORS)
    if not told:
        return None
    return transformers.AutoImageProcessor.from_pretrained(name, trust_remote_code=False)


def _has(name: str, file: str) -> bool:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    if Path(name).is_dir():
        return (Path(name) / file).is_file()
    try:
        hf_hub_download(name, file)
    except LocalEntryNotFoundError:  # out of reach, so that nobody knows
        raise
    except EntryNotFoundError:
        return False
    return True


def _class_names(config: Any, name: str) -> tuple[str, ...] | None:
    known = config.id2label
    if set(known) != set(range(config.num_labels)):
        raise ClassroomError(
            f"hf/{name} names {len(known)} classes for {config.num_labels} logits, or does not"
            " number them from 0: mend id2label in its config.json"
        )
    names = [str(known[place]) for place in range(config.num_labels)]
    if all(re.fullmatch(r"LABEL_\d+", name) for name in names):
        return None  # what transformers calls them when nobody said
    return tuple(names)


def _cure(name: str) -> str:
    if Path(name).is_dir():
        return (
            "Is the folder whole? It is written by model.save_pretrained(folder). Code that a model"
            " brings along is not run: register a factory for such a one (entry/NAME)"
        )
    return (
        f"Where there is a network, run `hf download {name} --local-dir FOLDER`, copy the folder"
        " here, and name it: hf/FOLDER"
    )
