"""Models by name."""

import re
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any, TypeVar, overload

from classroomkd.errors import unknown_name
from classroomkd.models.external import build_external, external_name, is_external
from classroomkd.models.network import CIFAR100_MEAN, CIFAR100_STD, Network

Builder = Callable[..., Network]
_B = TypeVar("_B", bound=Builder)

_builders: dict[str, Builder] = {}
_canonical: dict[str, str] = {}  # lower-case name or alias -> name


@overload
def register_model(name: _B, /) -> _B: ...


@overload
def register_model(name: str, /, *, aliases: Sequence[str] = ()) -> Callable[[_B], _B]: ...


def register_model(name: str | Builder, /, *, aliases: Sequence[str] = ()) -> Any:
    """Make a network buildable by name.

    The builder is called as ``builder(num_classes=..., mean=..., std=..., **options)``.

    Args:
        name: the model's name; with the bare decorator, the name of the function.
        aliases: other names under which it can be built.

    Raises:
        ValueError: the name is taken.

    Example::

        @register_model
        def resnet26(num_classes, **options):
            return thin_resnet(26, num_classes, **options)

        network = build_model("resnet26", num_classes=10)
    """
    if callable(name):
        return _register(name, name.__name__, aliases)
    return lambda builder: _register(builder, name, aliases)


def build_model(
    name: str,
    num_classes: int | None,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    pretrained: bool = False,
    **options: Any,
) -> Network:
    """Build a network, with fresh weights unless ``pretrained``.

    Args:
        name: one of :func:`list_models`, or an alias; upper and lower case count the same. Or the
            name of another library's model, such as ``"timm/resnet18"``: see
            :mod:`classroomkd.models.external`.
        num_classes: how many classes it tells apart; None for the classifier that a model of
            another library comes with.
        mean: mean of each channel over the training images; if left out, that of CIFAR-100, or
            what another library's model was made for.
        std: standard deviation of each channel; likewise.
        pretrained: whether to load the weights that another library offers.
        **options: what the model offers beyond that, such as ``dropout`` of a wide ResNet.

    Returns:
        A network from images ``[B, 3, H, W]`` in [0, 1] to logits ``[B, num_classes]``.

    Raises:
        ValueError: the name is unknown, or ``num_classes`` is less than 1.
        ClassroomError: weights of another library cannot be had.

    Example:
        >>> import torch
        >>> network = build_model("vgg8", num_classes=10)
        >>> network(torch.rand(4, 3, 32, 32)).shape
        torch.Size([4, 10])
    """
    canonical = canonical_name(name)
    if num_classes is not None and num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    if is_external(canonical) and not options:
        return build_external(canonical, num_classes, mean=mean, std=std, pretrained=pretrained)
    if is_external(canonical):
        raise TypeError(f"{canonical} takes no options, but got {', '.join(options)}")
    if pretrained or num_classes is None:
        raise ValueError(f"{canonical} comes without weights: give its number of classes alone")
    mean, std = mean or CIFAR100_MEAN, std or CIFAR100_STD
    network = _builders[canonical](num_classes=num_classes, mean=mean, std=std, **options)
    network.name = canonical
    return network


def canonical_name(name: str) -> str:
    """The registered name for a name in any case, or an alias; another library's name in full.

    Raises:
        ValueError: the name is unknown; the message gives the nearest one.

    Example:
        >>> canonical_name("shufflev1")
        'ShuffleNetV1'
    """
    if name.lower().startswith("pose/"):
        raise ValueError(f"'{name}' finds joints and has no classes: it is for `task: pose`")
    if is_external(name):
        return external_name(name)
    if name.lower() not in _canonical:
        raise ValueError(unknown_name("model", name, _builders))
    return _canonical[name.lower()]


def list_models(pattern: str | None = None) -> list[str]:
    """List the models' names, numbers in order of size.

    Args:
        pattern: keep the names that match it, as a shell matches file names; case counts.

    Example:
        >>> list_models("vgg*")
        ['vgg8', 'vgg11', 'vgg13', 'vgg16', 'vgg19']
    """
    names = (name for name in _builders if pattern is None or fnmatchcase(name, pattern))
    return sorted(names, key=_natural)


def _register(builder: _B, name: str, aliases: Sequence[str]) -> _B:
    taken = [key for key in (name, *aliases) if key.lower() in _canonical]
    if taken:
        raise ValueError(f"model '{taken[0]}' is registered already")
    _builders[name] = builder
    _canonical.update({key.lower(): name for key in (name, *aliases)})
    return builder


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]
