"""Augmentation as a pure function: what a sample looks like depends on (seed, epoch, index) only.

That is why augmentation is code of our own: a library's draws depend on who drew before, hence on
the batch size, the workers, the world size and what ran before. Pure views make stored mentor
outputs right, a resumed run exact, and results equal over numbers of processes.

A view function takes a whole batch, ``[B, 3, H, W]`` uint8 (0 to 255) or float (0 to 1), and the
batch's ``Draws``; it gives images of the same type. Draw under a stream name of your own::

    @register_view("fade")
    def fade(strength: float = 0.5) -> ViewFunction:
        def view(images: Tensor, draws: Draws) -> Tensor:
            share = 1 - strength * draws.uniform("fade")
            return (images * share[:, :, None, None]).to(images.dtype)
        return view
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from classroomkd.data.draws import Draws
from classroomkd.errors import unknown_name

ViewFunction = Callable[[Tensor, Draws], Tensor]
Factory = TypeVar("Factory", bound=Callable[..., ViewFunction])
_FACTORIES: dict[str, Callable[..., ViewFunction]] = {}


def register_view(name: str) -> Callable[[Factory], Factory]:
    """Make a factory of view functions known to ``create_view`` and to recipes by ``name``.

    Raises:
        ValueError: If the name is taken.
    """

    def register(factory: Factory) -> Factory:
        if name in _FACTORIES:
            raise ValueError(f"a view named '{name}' is already registered")
        _FACTORIES[name] = factory
        return factory

    return register


def list_views() -> list[str]:
    """Names of the registered views, sorted."""
    return sorted(_FACTORIES)


def create_view(name: str, **options: object) -> ViewFunction:
    """Build a registered view function.

    Raises:
        ValueError: If no view has that name; the message gives the nearest one.

    >>> view = create_view("crop", padding=4)
    """
    if name not in _FACTORIES:
        raise ValueError(unknown_name("view", name, _FACTORIES))
    return _FACTORIES[name](**options)


def make_view(
    images: Tensor, index: Tensor, *, seed: int, epoch: int, augment: Sequence[ViewFunction] = ()
) -> Tensor:
    """Show a batch of samples as they look in an epoch.

    Args:
        images: ``[B, 3, H, W]`` uint8.
        index: ``[B]`` int64, the samples' places in the original set, on the same device.
        seed: Seed of the run.
        epoch: Epoch, from 0.
        augment: View functions, applied in order. None of them: the plain image.

    Returns:
        ``[B, 3, H, W]`` float32 in [0, 1].

    >>> images = torch.full((2, 3, 32, 32), 255, dtype=torch.uint8)
    >>> view = make_view(images, torch.tensor([5, 9]), seed=0, epoch=0, augment=[crop(4), flip()])
    >>> view.shape, view.dtype, view.max()
    (torch.Size([2, 3, 32, 32]), torch.float32, tensor(1.))
    """
    draws = Draws(seed, epoch, index)
    for view in augment:
        images = view(images, draws)
    if images.dtype == torch.uint8:
        return images.to(torch.float32).div_(255)
    return images.to(torch.float32)


@register_view("crop")
def crop(padding: int = 4) -> ViewFunction:
    """Pad with zeros on every side and cut out the original size at a random place.

    Args:
        padding: Zeros on each side, in pixels; the image moves by at most as much.

    Raises:
        ValueError: If ``padding`` is negative.
    """
    if not isinstance(padding, int) or padding < 0:
        raise ValueError(f"padding must be a whole number of pixels, 0 or more, not {padding}")
    return partial(_crop, padding=padding)


@register_view("flip")
def flip() -> ViewFunction:
    """Mirror left and right, each image with probability one half."""
    return _flip


def _crop(images: Tensor, draws: Draws, *, padding: int) -> Tensor:
    height, width = images.shape[-2:]
    top, left = draws.integers("crop", 0, 2 * padding + 1, n=2).unbind(1)
    # All windows of all images, as strided views without a copy: [B, 3, tops, lefts, H, W].
    windows = F.pad(images, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    return windows[torch.arange(len(images), device=images.device), :, top, left]


def _flip(images: Tensor, draws: Draws) -> Tensor:
    mirrored = draws.uniform("flip")[:, :, None, None] < 0.5
    return torch.where(mirrored, images.flip(-1), images)
