"""Networks of any package that registers a factory under the entry-point group."""

import inspect
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from torch import nn

from classroomkd.errors import ClassroomError, unknown_name
from classroomkd.models.external.network import ExternalNetwork
from classroomkd.models.external.pixels import IMAGENET_MEAN, IMAGENET_STD, Pixels

GROUP = "classroomkd.models"


def check(name: str) -> str:
    """The name, if it is registered; a ValueError naming the nearest if not. Nothing is loaded."""
    _find(name)
    return name


def build(name: str, num_classes: int | None, pretrained: bool) -> ExternalNetwork:
    """Call the factory: ``factory(num_classes=...)``; see `build_external`.

    It gives a module from normalised images to logits. One that offers weights has an argument
    ``pretrained``. Attributes of the module may say more: ``input_size`` ``(H, W)`` that images are
    resized to, ``mean`` and ``std`` of its pixels, and ``classes``.

    Raises:
        ClassroomError: it cannot be imported, or gives something else.
    """
    try:
        factory = _find(name).load()
    except Exception as error:  # whatever a foreign package does when it is imported
        raise ClassroomError(f"entry/{name} cannot be imported: {error}") from error
    if pretrained and "pretrained" not in inspect.signature(factory).parameters:
        raise ClassroomError(f"entry/{name} offers no weights: leave pretrained out")
    if num_classes is None:
        raise ClassroomError(f"entry/{name} needs its number of classes: give classes")
    options = {"pretrained": True} if pretrained else {}
    model: Any = factory(num_classes=num_classes, **options)
    if not isinstance(model, nn.Module):
        raise ClassroomError(f"entry/{name} gave no torch module, but {type(model).__name__}")
    size = getattr(model, "input_size", None)
    pixels = Pixels(
        size=None if size is None else tuple(size),
        always=size is not None,
        mean=tuple(getattr(model, "mean", IMAGENET_MEAN)),
        std=tuple(getattr(model, "std", IMAGENET_STD)),
    )
    return ExternalNetwork(model, num_classes, pixels, getattr(model, "classes", None))


def _find(name: str) -> EntryPoint:
    known = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name not in known:
        raise ValueError(unknown_name("registered model", name, known))
    return known[name]
