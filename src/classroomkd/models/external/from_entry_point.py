"""Networks of any package that registers a factory under the entry-point group."""

import inspect
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import torch
from torch import Tensor, nn

from classroomkd.errors import ClassroomError, unknown_name
from classroomkd.models.external.network import ExternalNetwork, at_rest
from classroomkd.models.external.pixels import IMAGENET_MEAN, IMAGENET_STD, Pixels

GROUP = "classroomkd.models"


def check(name: str) -> str:
    """The name, if it is registered; a ValueError naming the nearest if not. Nothing is loaded."""
    _find(name)
    return name


def build(name: str, num_classes: int | None, pretrained: bool) -> ExternalNetwork:
    """Call the factory: ``factory(num_classes=...)``; see `build_external`.

    It gives a module from normalised images to logits. One that offers weights has an argument
    ``pretrained``, and a ``num_classes`` that can be left out, for the classifier that comes with
    them. Attributes of the module may say more: ``input_size`` ``(H, W)`` that images are resized
    to, ``mean`` and ``std`` of its pixels, and ``classes``, the names of its own.

    Raises:
        ClassroomError: it cannot be imported or called, or gives something else.
    """
    who = f"entry/{name}"
    try:
        factory = _find(name).load()
    except Exception as error:  # whatever a foreign package does when it is imported
        raise ClassroomError(f"{who} cannot be imported: {error}") from error
    model = _made(factory, who, num_classes, pretrained)
    size = _size(model, who)
    pixels = Pixels(
        size=size,
        always=size is not None,
        mean=_of_channels(model, who, "mean", IMAGENET_MEAN),
        std=_of_channels(model, who, "std", IMAGENET_STD),
    )
    count = _class_count(model, who, size or (64, 64))
    if num_classes is not None and count != num_classes:
        raise ClassroomError(
            f"{who} was asked for {num_classes} classes and gives {count} logits: its factory must"
            " heed num_classes"
        )
    classes = getattr(model, "classes", None) if num_classes is None else None
    if classes is not None and len(classes) != count:
        raise ClassroomError(f"{who} gives {count} logits, but its classes name {len(classes)}")
    return ExternalNetwork(model, count, pixels, classes and tuple(map(str, classes)))


def _made(
    factory: Callable[..., Any], who: str, num_classes: int | None, pretrained: bool
) -> nn.Module:
    """What the factory gives."""
    known = inspect.signature(factory).parameters
    anything = any(option.kind is option.VAR_KEYWORD for option in known.values())
    if pretrained and not anything and "pretrained" not in known:
        raise ClassroomError(f"{who} offers no weights: leave pretrained out")
    counted = "num_classes" in known and known["num_classes"].default is inspect.Parameter.empty
    if num_classes is None and counted:
        raise ClassroomError(
            f"{who} cannot say how many classes it has: give num_classes of its factory a default,"
            " or, for a checkpoint, give classes"
        )
    options: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    try:
        model = factory(**options, **({"pretrained": True} if pretrained else {}))
    except Exception as error:  # of a foreign package, again
        raise ClassroomError(f"{who} cannot be built: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise ClassroomError(f"{who} gave no torch module, but {type(model).__name__}")
    return model


def _class_count(model: nn.Module, who: str, size: tuple[int, int]) -> int:
    """How many logits it gives, as it does for two black images."""
    try:
        with at_rest(model):
            logits = model(torch.zeros(2, 3, *size))
    except Exception as error:  # of a foreign package, again
        raise ClassroomError(
            f"{who} does not run on images of {size[0]} x {size[1]} pixels, which an attribute"
            f" input_size would change: {error}"
        ) from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != 2:
        given = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ClassroomError(f"{who} must give logits [B, C], and gives {given} for 2 images")
    return logits.shape[1]


def _size(model: Any, who: str) -> tuple[int, int] | None:
    """Its ``input_size``: one number, ``(H, W)``, or ``(3, H, W)``."""
    size = getattr(model, "input_size", None)
    if size is None:
        return None
    sides = (size, size) if isinstance(size, int) else tuple(size)[-2:]
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise ClassroomError(f"{who}: its input_size must be (H, W), and is {size}")
    return sides


def _of_channels(model: Any, who: str, what: str, usual: tuple[float, ...]) -> tuple[float, ...]:
    """Its ``mean`` or ``std``: three numbers, in a tensor of any shape or in a sequence."""
    given = getattr(model, what, usual)
    try:
        values = torch.as_tensor(given, dtype=torch.float64).flatten().tolist()
    except (TypeError, ValueError, RuntimeError):
        values = []
    if len(values) != 3 or (what == "std" and min(values) <= 0):
        kind = "positive numbers" if what == "std" else "numbers"
        raise ClassroomError(f"{who}: its {what} must be three {kind}, and is {given}")
    return tuple(values)


def _find(name: str) -> EntryPoint:
    known = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name not in known:
        raise ValueError(unknown_name("registered model", name, known))
    return known[name]
