"""What the origins have in common: packages that may be missing, and classifiers made fresh."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

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


def renew_classifier(model: nn.Module, name: str, own: int, num_classes: int) -> None:
    """Put a fresh linear layer in the place of the one that gives the logits.

    Raises:
        ClassroomError: if the network ends in something else.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(8, 1000))
    >>> renew_classifier(model, "model", 1000, 10)
    >>> model[1]
    Linear(in_features=8, out_features=10, bias=True)
    """
    place = find_classifier(model, own)
    if place is None:
        raise ClassroomError(
            f"{name} does not end in a linear classifier that could be replaced: use another"
            " model, or leave pretrained out"
        )
    old = model.get_submodule(place)
    assert isinstance(old, nn.Linear)  # see find_classifier
    model.set_submodule(place, nn.Linear(old.in_features, num_classes, bias=old.bias is not None))
