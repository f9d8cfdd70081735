"""Networks of other libraries, under names that say their origin.

===========================  ======================================================
``timm/resnet18.a1_in1k``    a model of timm, with the tag of its weights if wanted
``torchvision/resnet18``     of torchvision; ``torchvision/resnet50.IMAGENET1K_V1``
``hf/microsoft/resnet-18``   an image classifier of transformers: a hub id, or a folder
``entry/name``               a factory under the entry-point group ``classroomkd.models``
===========================  ======================================================

Each becomes an :class:`ExternalNetwork`. An origin is a module with two functions: ``check(name)``,
which gives the name in full or raises a ValueError without building anything, and
``build(name, num_classes, pretrained)``. Its library is imported when such a name is used.
"""

from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

from classroomkd.errors import unknown_name
from classroomkd.models.external.network import ExternalNetwork
from classroomkd.models.network import Normalize

__all__ = ["HOW_TO_NAME", "ExternalNetwork", "build_external", "external_name", "is_external"]

_ORIGINS = {
    "timm": "from_timm",
    "torchvision": "from_torchvision",
    "hf": "from_transformers",
    "entry": "from_entry_point",
}

HOW_TO_NAME = {
    "timm/NAME": "any of timm.list_models(), with a tag if wanted: timm/resnet18.a1_in1k",
    "torchvision/NAME": "an image classifier of torchvision: torchvision/resnet18",
    "hf/ID or hf/FOLDER": "an image classifier of transformers: hf/microsoft/resnet-18",
    "entry/NAME": "a factory registered under the entry-point group classroomkd.models",
}


def is_external(name: str) -> bool:
    """Whether a name says its origin, as the zoo's do not.

    >>> is_external("timm/resnet18"), is_external("resnet8")
    (True, False)
    """
    return "/" in name


def external_name(name: str) -> str:
    """The full name of a network of another library; nothing is built.

    Raises:
        ValueError: no such origin or model, naming the nearest, or its package is missing.

    Example:
        >>> external_name("TorchVision/resnet18")
        'torchvision/resnet18'
    """
    origin, rest = _split(name)
    return f"{origin}/{_module(origin).check(rest)}"


def build_external(
    name: str,
    num_classes: int | None,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    pretrained: bool = False,
) -> ExternalNetwork:
    """Build a network of another library.

    Args:
        name: as `external_name` gives it.
        num_classes: how many classes a fresh classifier tells apart; None for the model's own
            classifier, which with ``pretrained`` is a trained one.
        mean: of each channel; the model's own if left out.
        std: of each channel; the model's own if left out.
        pretrained: whether to load the weights that its library offers.

    Raises:
        ClassroomError: the weights cannot be had, naming what to fetch and where it belongs.

    Example:
        >>> build_external("torchvision/resnet18", 10).normalize.mean.flatten()
        tensor([0.4850, 0.4560, 0.4060])
    """
    origin, rest = _split(name)
    network: ExternalNetwork = _module(origin).build(rest, num_classes, pretrained)
    network.name = name
    own = network.normalize
    given = Normalize(
        own.mean.flatten().tolist() if mean is None else mean,
        own.std.flatten().tolist() if std is None else std,
    )
    own.load_state_dict(given.state_dict(), strict=False)  # size and rule stay its own
    return network


def _split(name: str) -> tuple[str, str]:
    origin, _, rest = name.partition("/")
    if origin.lower() not in _ORIGINS:
        raise ValueError(unknown_name("origin of a model", origin, _ORIGINS))
    if not rest:
        raise ValueError(f"'{name}' names no model: say which, as in {origin.lower()}/NAME")
    return origin.lower(), rest


def _module(origin: str) -> ModuleType:
    return import_module(f"{__name__}.{_ORIGINS[origin]}")
