"""Image classifiers of torchvision, with the transforms of their weights."""

from typing import Any

import torchvision

from classroomkd.errors import ClassroomError, nearest, unknown_name
from classroomkd.models.external.network import ExternalNetwork
from classroomkd.models.external.origins import fetching, renew_classifier, torch_cache
from classroomkd.models.external.pixels import IMAGENET_MEAN, IMAGENET_STD, Pixels

# They have auxiliary classifiers in training, and may normalise once more: what that comes to.
_INCEPTION = {"googlenet", "inception_v3"}
_HALF = (0.5, 0.5, 0.5)
_FIXED = ("vit_", "swin", "maxvit")


def check(name: str) -> str:
    """The name, if torchvision knows it; a ValueError naming the nearest if not."""
    architecture, _, tag = name.partition(".")
    known = torchvision.models.list_models(module=torchvision.models)
    if architecture not in known:
        raise ValueError(
            f"unknown model '{name}' of torchvision{nearest(architecture, known)}"
            " (see torchvision.models.list_models())"
        )
    tags = [weights.name for weights in torchvision.models.get_model_weights(architecture)]
    if tag and tag not in tags:
        raise ValueError(unknown_name(f"weights of torchvision's {architecture}", tag, tags))
    return name


def build(name: str, num_classes: int | None, pretrained: bool) -> ExternalNetwork:
    """Build a model of torchvision; see `build_external`."""
    architecture, _, tag = name.partition(".")
    offered: Any = torchvision.models.get_model_weights(architecture)
    weights: Any = offered[tag] if tag else offered.DEFAULT
    told = weights.meta["categories"]
    own = len(told or range(1000))  # where weights have no classifier, it has ImageNet's
    mentor = pretrained and num_classes is None
    if mentor and not told:
        raise ClassroomError(
            f"torchvision/{architecture}'s {weights.name} are weights without a classifier: it can"
            " be a student with them, which gets a fresh one, and no mentor"
        )
    model: Any
    options: dict[str, Any] = {}
    if architecture in _INCEPTION and not pretrained:
        options = {"aux_logits": False, "init_weights": True}
    if pretrained:
        with _fetching(name, weights.url):
            model = torchvision.models.get_model(architecture, weights=weights)
        if num_classes is not None:
            renew_classifier(model, f"torchvision/{name}", own, num_classes)
    else:
        options["num_classes"] = num_classes or own
        model = torchvision.models.get_model(architecture, weights=None, **options)
    categories = tuple(told) if mentor else None
    pixels = _pixels(architecture, weights, pretrained)
    if architecture in _INCEPTION:
        model.transform_input = model.aux_logits = False
        for auxiliary in {"aux1", "aux2", "AuxLogits"} & model._modules.keys():
            setattr(model, auxiliary, None)
    scores = weights.meta.get("_metrics", {}).get("ImageNet-1K", {}) if mentor else {}
    return ExternalNetwork(model, num_classes or own, pixels, categories, scores.get("acc@1"))


def _pixels(architecture: str, weights: Any, pretrained: bool) -> Pixels:
    transforms = weights.transforms()
    inception = architecture in _INCEPTION
    if not inception and (len(transforms.mean), len(transforms.std)) != (3, 3):
        raise ClassroomError(f"torchvision/{architecture} does not take images of three colours")
    size = transforms.crop_size[0]
    return Pixels(
        size=(size, size),
        always=pretrained or architecture.startswith(_FIXED),
        interpolation=transforms.interpolation.value,
        mean=_HALF if inception else tuple(transforms.mean or IMAGENET_MEAN),
        std=_HALF if inception else tuple(transforms.std or IMAGENET_STD),
    )


def _fetching(name: str, url: str) -> Any:
    cure = f"Fetch that file and put it at {torch_cache(url)}"
    return fetching(f"the weights of torchvision/{name}, {url},", cure)
