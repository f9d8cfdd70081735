"""What the origins have in common: packages that may be missing, and classifiers made fresh."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from itertools import takewhile
from pathlib import Path
from types import ModuleType
from urllib.parse import urlparse

import torch
from torch import nn

from classroomkd.errors import ClassroomError
from classroomkd.models.external.maps import find_classifier


def require(package: str, extra: str) -> ModuleType:
    """Import an optional package.

    Raises:
        ValueError: it is not installed, naming the extra that installs it.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise ValueError(
            f"models of {package} need a package that is not installed ({error}):"
            f" pip install 'classroomkd[{extra}]'"
        ) from error


@contextmanager
def fetching(what: str, cure: str) -> Iterator[None]:
    """Turn whatever goes wrong while weights are fetched into a ClassroomError with a cure."""
    try:
        yield
    except Exception as error:  # of the network, the hub's client, the file system
        reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise ClassroomError(f"{what} cannot be had ({reason}). {cure}") from error


def torch_cache(url: str) -> Path:
    """Where `torch.hub` looks for a file before it fetches it.

    >>> torch_cache("https://host/weights.pth?download=1").name
    'weights.pth'
    """
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name


def renew_classifier(model: nn.Module, name: str, own: int, num_classes: int) -> None:
    """Put a fresh linear layer in the place of each that gives logits.

    A distilled ViT has two of them, side by side at its end.

    Raises:
        ClassroomError: if the network ends in something else.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(8, 1000))
    >>> renew_classifier(model, "model", 1000, 10)
    >>> model[1]
    Linear(in_features=8, out_features=10, bias=True)
    """
    last = find_classifier(model, own)
    if last is None:
        raise ClassroomError(
            f"{name} does not end in a linear classifier that could be replaced: use another"
            " model, or leave pretrained out"
        )
    linear = {place: m for place, m in model.named_modules() if isinstance(m, nn.Linear)}
    shape = linear[last].weight.shape
    heads = list(takewhile(lambda place: linear[place].weight.shape == shape, reversed(linear)))
    for place in heads:
        old = linear[place]
        fresh = nn.Linear(old.in_features, num_classes, bias=old.bias is not None)
        model.set_submodule(place, fresh)
