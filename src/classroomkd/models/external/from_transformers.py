"""Image classifiers of Hugging Face transformers, from the hub or from a folder."""

import json
import re
from pathlib import Path
from typing import Any

from torch import Tensor

from classroomkd.errors import ClassroomError, nearest_path
from classroomkd.models.external.maps import as_it_is, as_map
from classroomkd.models.external.network import ExternalNetwork, Trace
from classroomkd.models.external.origins import fetching, renew_classifier, require
from classroomkd.models.external.pixels import IMAGENET_MEAN, IMAGENET_STD, Pixels

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_INTERPOLATIONS = {0: "nearest", 1: "bicubic", 2: "bilinear", 3: "bicubic"}  # as PIL counts them
_PROCESSOR = "preprocessor_config.json"


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
        config = transformers.AutoConfig.from_pretrained(name)
        processor = _processor(name)
    own = config.num_labels
    classes = _class_names(config) if pretrained and num_classes is None else None
    factory = transformers.AutoModelForImageClassification
    if type(config) not in factory._model_mapping:
        raise ClassroomError(f"hf/{name} is no image classifier, but a {config.model_type}")
    if pretrained:
        with fetching(f"the weights of hf/{name}", _cure(name)):
            model, told = factory.from_pretrained(name, output_loading_info=True)
        if num_classes is not None:
            renew_classifier(model, f"hf/{name}", own, num_classes)
        elif told["missing_keys"]:
            raise ClassroomError(
                f"hf/{name} has no weights for {', '.join(sorted(told['missing_keys']))}: it can be"
                " a student, which gets a fresh classifier, and no mentor"
            )
    else:
        config.num_labels = num_classes or own
        model = factory.from_config(config)
    return TransformersNetwork(
        model, num_classes or own, _pixels(config, processor, pretrained), classes
    )


def _pixels(config: Any, processor: dict[str, Any], pretrained: bool) -> Pixels:
    own = getattr(config, "image_size", None)
    size = own or processor.get("crop_size") or processor.get("size") or 224
    if isinstance(size, dict):
        edge = size.get("shortest_edge", 224)
        size = (size.get("height", edge), size.get("width", edge))
    plain = not processor.get("do_normalize", True)
    return Pixels(
        size=(size, size) if isinstance(size, int) else (size[0], size[1]),
        always=pretrained or own is not None,
        interpolation=_INTERPOLATIONS.get(processor.get("resample", 2), "bicubic"),
        mean=(0.0,) * 3 if plain else tuple(processor.get("image_mean") or IMAGENET_MEAN),
        std=(1.0,) * 3 if plain else tuple(processor.get("image_std") or IMAGENET_STD),
    )


def _processor(name: str) -> dict[str, Any]:
    """What the model's preprocessing says; nothing where there is no such file."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    if Path(name).is_dir():
        file = Path(name) / _PROCESSOR
    else:
        try:
            file = Path(hf_hub_download(name, _PROCESSOR))
        except LocalEntryNotFoundError:
            raise
        except EntryNotFoundError:
            return {}
    return json.loads(file.read_text()) if file.is_file() else {}


def _class_names(config: Any) -> tuple[str, ...] | None:
    names = [str(config.id2label[place]) for place in range(config.num_labels)]
    if all(re.fullmatch(r"LABEL_\d+", name) for name in names):
        return None  # what transformers calls them when nobody said
    return tuple(names)


def _cure(name: str) -> str:
    if Path(name).is_dir():
        return "Is the folder whole? It is written by model.save_pretrained(folder)"
    return (
        f"Where there is a network, run `hf download {name} --local-dir FOLDER`, copy the folder"
        " here, and name it: hf/FOLDER"
    )
