"""Feature maps out of whatever a network's layers give.

Shapes: ``B`` samples, ``D`` channels, ``N`` tokens, ``H`` and ``W`` pixels of the input, ``h`` and
``w`` of a map.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

STAGES = 4  # of a network that has one resolution
PREFIX = 16  # more tokens than these before the patches' are none: class, distillation, registers


ToMap = Callable[[Tensor], Tensor]


def as_map(output: Any, x: Tensor) -> ToMap | None:
    """How to turn what a layer gives into a map ``[B, D, h, w]``.

    Channels may come last. Of tokens ``[B, N, D]`` those before the patches' are left out.

    Args:
        output: of a layer.
        x: the images that the network was given, ``[B, 3, H, W]``; maps have their proportions.

    Returns:
        A function of such outputs, or None if they are no maps of more than one pixel.

    Example:
        >>> import torch
        >>> x = torch.empty(2, 3, 224, 224)
        >>> for shape in [(2, 64, 7, 7), (2, 7, 7, 64), (2, 1 + 14 * 14, 64)]:
        ...     output = torch.empty(shape)
        ...     print(tuple(as_map(output, x)(output).shape))
        (2, 64, 7, 7)
        (2, 64, 7, 7)
        (2, 64, 14, 14)
        >>> as_map(torch.empty(2, 64), x) is None
        True
    """
    if not isinstance(output, Tensor) or output.shape[0] != x.shape[0]:
        return None
    if output.ndim == 4:
        _, first, second, third = output.shape
        if _alike(second, third, x):
            return as_it_is
        return channels_first if _alike(first, second, x) else None
    grid = token_grid(output.shape[1], x.shape[2], x.shape[3]) if output.ndim == 3 else None
    return grid and partial(unflatten, height=grid[0], width=grid[1])


def _alike(height: int, width: int, x: Tensor) -> bool:
    """Whether a size has the proportions of an image, but for less than one pixel."""
    tall, wide = x.shape[2:]
    return min(height, width) > 1 and abs(height * wide - width * tall) < max(tall, wide)


def token_grid(tokens: int, height: int, width: int) -> tuple[int, int] | None:
    """The height and width of a map whose pixels are the last of the tokens; None if it has none.

    It has the proportions of the image. Sizes into which the image divides come first, then those
    with the fewest tokens before the patches'.

    >>> token_grid(197, 224, 224), token_grid(33, 32, 64), token_grid(2 * 2 + 5, 32, 32)
    ((14, 14), (4, 8), (2, 2))
    """
    grids = []
    for before in range(min(PREFIX, tokens - 1) + 1):
        rows = round(((tokens - before) * height / width) ** 0.5)
        columns, rest = divmod(tokens - before, max(rows, 1))
        if rest == 0 and min(rows, columns) > 1 and rows * width == columns * height:
            grids.append((height % rows > 0, before, rows, columns))
    return min(grids)[2:] if grids else None


def as_it_is(x: Tensor) -> Tensor:
    """The map itself."""
    return x


def channels_first(x: Tensor) -> Tensor:
    """``[B, h, w, D]`` as ``[B, D, h, w]``."""
    return x.permute(0, 3, 1, 2)


def unflatten(tokens: Tensor, height: int, width: int) -> Tensor:
    """The last ``height * width`` of tokens ``[B, N, D]`` as a map ``[B, D, height, width]``."""
    return tokens[:, -height * width :].mT.unflatten(2, (height, width))


def choose_stages(heights: Sequence[int], input_height: int) -> dict[str, int]:
    """Which maps are shown as stages: the last of each height, named from shallow to deep.

    Heights count as one if a convolution without padding makes the difference. The first map is the
    ``stem`` if it has about half of the input's height or more. A network whose maps are all of
    one height, as a ViT's, shows four: those at each quarter of its depth.

    >>> choose_stages([112, 56, 56, 28, 14, 7], 224)
    {'stem': 0, 'stage1': 2, 'stage2': 3, 'stage3': 4, 'stage4': 5}
    >>> choose_stages([14] * 12, 224)
    {'stage1': 2, 'stage2': 5, 'stage3': 8, 'stage4': 11}
    """
    places: list[int] = []
    for place, height in enumerate(heights):
        if places and height > heights[places[-1]] / 1.5:
            places[-1] = place
        else:
            places.append(place)
    if len(places) == 1:
        count = len(heights)
        quarters = (-(-count * quarter // STAGES) - 1 for quarter in range(1, STAGES + 1))
        places = sorted(set(quarters))
    stem = len(places) > 1 and heights[places[0]] > 0.45 * input_height
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


def find_taps(model: nn.Module, x: Tensor) -> dict[str, ToMap]:
    """The modules of any network whose outputs are its maps, in the order in which they answer.

    They are the last before each change of height. What changes the height once is a block or a
    stage, and is not looked into; what changes it more often is taken apart. Where the height stays
    (ViT), they are the blocks: the longest row of neighbours of one class.

    Args:
        model: run once.
        x: normalised images ``[B, 3, H, H]``, at least 2 of them.

    Returns:
        For each module's name, how its output becomes a map.

    Example:
        >>> import torch
        >>> def stage(): return nn.Sequential(nn.Conv2d(3, 3, 3, 2, 1), nn.Conv2d(3, 3, 1))
        >>> model = nn.Sequential(nn.Conv2d(3, 3, 1), stage(), stage(), nn.Flatten())
        >>> list(find_taps(model, torch.rand(2, 3, 16, 16)))
        ['0', '1', '2']
    """
    answers: dict[str, list[tuple[ToMap, int] | None]] = {}  # in the order of answering

    def note(name: str, inputs: Any, output: Any) -> None:
        to_map = as_map(output, x)
        answers.setdefault(name, []).append(to_map and (to_map, to_map(output).shape[2]))

    with watch(dict(model.named_modules()), note):
        model(x)
    once = {name: given[0] for name, given in answers.items() if len(given) == 1}
    maps = {name: found for name, found in once.items() if found}
    height = {name: found[1] for name, found in maps.items()}
    levels: dict[int, str] = {}
    for name in _flow(model, "", list(answers), height):
        if not levels or height[name] <= min(levels):
            levels[height[name]] = name
    taps = list(levels.values()) if len(levels) > 1 else _longest_row(model, list(maps))
    return {name: maps[name][0] for name in taps}


def _flow(
    model: nn.Module, name: str, order: Sequence[str], height: Mapping[str, int]
) -> Iterator[str]:
    """The parts of a module one after the other, each of which changes the height once at most."""
    for part in _parts(model, name, order):
        inside = {height[n] for n in height if n == part or n.startswith(f"{part}.")}
        if part in height and len(inside) <= 2:
            yield part
        elif inside:
            yield from _flow(model, part, order, height)


def _parts(model: nn.Module, name: str, order: Sequence[str]) -> list[str]:
    """The children that answer, in order; those of containers that do not are among them."""
    children = [f"{name}.{c}".lstrip(".") for c, _ in model.get_submodule(name).named_children()]
    nested = [[c] if c in order else _parts(model, c, order) for c in children]
    return sorted((c for row in nested for c in row), key=order.index)


def _longest_row(model: nn.Module, names: Sequence[str]) -> list[str]:
    """Of the neighbours of one class, the most."""
    rows: dict[tuple[str, type], list[str]] = {}
    for name in names:
        kind = (name.rpartition(".")[0], type(model.get_submodule(name)))
        rows.setdefault(kind, []).append(name)
    return max(rows.values(), key=len, default=[])


def find_classifier(model: nn.Module, num_classes: int) -> str | None:
    """The name of the last linear layer, if it alone gives as many logits as there are classes.

    >>> find_classifier(nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 10)), 10)
    '2'
    """
    linear = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Linear)]
    fitting = [name for name, m in linear if m.out_features == num_classes]
    alone = fitting and linear[-1][0] == fitting[-1]
    return fitting[-1] if alone else None
