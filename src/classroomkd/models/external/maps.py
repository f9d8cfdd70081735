"""Feature maps out of whatever a network's layers give.

Shapes: ``B`` samples, ``D`` channels, ``N`` tokens, ``H`` and ``W`` pixels of the input, ``h`` and
``w`` of a map.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import isqrt
from typing import Any

from torch import Tensor, nn

STAGES = 4  # of a network that has one resolution
PREFIX = 16  # more tokens than these before the patches' are none: class, distillation, registers


def as_map(output: Any, x: Tensor) -> Tensor | None:
    """A layer's output as ``[B, D, h, w]``, or None for one that is no map of more than one pixel.

    Channels may come last. Of tokens ``[B, N, D]`` those before the patches' are left out.

    Args:
        output: of a layer.
        x: the square images that the network was given, ``[B, 3, H, H]``.

    Example:
        >>> import torch
        >>> x = torch.empty(2, 3, 224, 224)
        >>> shapes = [(2, 64, 7, 7), (2, 7, 7, 64), (2, 197, 64), (2, 64)]
        >>> [as_map(torch.empty(shape), x) is not None for shape in shapes]
        [True, True, True, False]
        >>> as_map(torch.empty(2, 1 + 14 * 14, 64), x).shape
        torch.Size([2, 64, 14, 14])
    """
    if not isinstance(output, Tensor) or output.shape[0] != x.shape[0]:
        return None
    if output.ndim == 4:
        _, a, b, c = output.shape
        found = output.permute(0, 3, 1, 2) if a == b != c else output
    elif output.ndim == 3 and output.shape[1] - isqrt(output.shape[1]) ** 2 <= PREFIX:
        side = isqrt(output.shape[1])
        found = unflatten(output, side, side)
    else:
        return None
    return found if min(found.shape[2:]) > 1 else None


def unflatten(tokens: Tensor, height: int, width: int) -> Tensor:
    """The last ``height * width`` of tokens ``[B, N, D]`` as a map ``[B, D, height, width]``."""
    return tokens[:, -height * width :].mT.unflatten(2, (height, width))


def choose_stages(heights: Sequence[int], input_height: int) -> dict[str, int]:
    """Which maps are shown as stages: the last of each height, named from shallow to deep.

    The one of half of the input's height or more is the ``stem``. A network whose maps are all of
    one height, as a ViT's, shows four: those at each quarter of its depth.

    >>> choose_stages([112, 56, 56, 28, 14, 7], 224)
    {'stem': 0, 'stage1': 2, 'stage2': 3, 'stage3': 4, 'stage4': 5}
    >>> choose_stages([14] * 12, 224)
    {'stage1': 2, 'stage2': 5, 'stage3': 8, 'stage4': 11}
    """
    places = list({height: place for place, height in enumerate(heights)}.values())
    if len(places) == 1:
        count = len(heights)
        quarters = (-(-count * quarter // STAGES) - 1 for quarter in range(1, STAGES + 1))
        places = sorted(set(quarters))
    stem = len(places) > 1 and 2 * heights[places[0]] >= input_height
    return {
        "stem" if stem and number == 0 else f"stage{number + 1 - stem}": place
        for number, place in enumerate(places)
    }


@contextmanager
def watch(modules: dict[str, nn.Module], take: Callable[[str, Any, Any], None]) -> Iterator[None]:
    """Call ``take(name, inputs, output)`` whenever one of the modules has answered."""

    def hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda _, inputs, output: take(name, inputs, output)

    handles = [module.register_forward_hook(hook(name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def find_taps(model: nn.Module, x: Tensor) -> list[str]:
    """The modules of any network whose outputs are its stages, in the order in which they answer.

    They are the last before each change of height. What changes the height once is a block or a
    stage, and is not looked into; what changes it more often is taken apart. Where the height stays
    (ViT), they are the blocks: the longest row of neighbours of one class.

    Args:
        model: run once.
        x: normalised images ``[B, 3, H, H]``, at least 2 of them.

    Example:
        >>> import torch
        >>> def stage(): return nn.Sequential(nn.Conv2d(3, 3, 3, 2, 1), nn.ReLU(), nn.Conv2d(3, 3, 1))
        >>> model = nn.Sequential(nn.Conv2d(3, 3, 1), stage(), stage(), nn.Flatten())
        >>> find_taps(model, torch.rand(2, 3, 16, 16))
        ['0', '1', '2']
    """
    answers: dict[str, list[int | None]] = {}  # height of each answer, in the order of answering

    def note(name: str, inputs: Any, output: Any) -> None:
        found = as_map(output, x)
        answers.setdefault(name, []).append(None if found is None else found.shape[2])

    with watch(dict(model.named_modules()), note):
        model(x)
    order = list(answers)
    height = {name: h[0] for name, h in answers.items() if len(h) == 1 and h[0] is not None}

    def parts(name: str) -> list[str]:
        """The children that answer, through containers that do not."""
        children = [f"{name}.{c}".lstrip(".") for c, _ in model.get_submodule(name).named_children()]
        nested = ([c] if c in answers else parts(c) for c in children)
        return sorted((c for row in nested for c in row), key=order.index)

    def flow(name: str) -> Iterator[str]:
        for part in parts(name):
            inside = {height[p] for p in _below(part, order) if p in height}
            if len(inside) > 2:
                yield from flow(part)
            elif part in height:
                yield part

    levels: dict[int, str] = {}
    for name in flow(""):
        if not levels or height[name] <= min(levels):
            levels[height[name]] = name
    if len(levels) > 1:
        return list(levels.values())
    rows: dict[tuple[str, type], list[str]] = {}
    for name in height:
        kind = (name.rpartition(".")[0], type(model.get_submodule(name)))
        rows.setdefault(kind, []).append(name)
    return max(rows.values(), key=len, default=[])


def _below(name: str, names: Sequence[str]) -> list[str]:
    return [other for other in names if other == name or other.startswith(f"{name}.")]
