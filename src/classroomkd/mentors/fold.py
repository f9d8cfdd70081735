"""Batch normalisation folded into the layer before it, in any network, without tracing its code.

A frozen normalisation is a scale and a shift of each channel, which the weights of a convolution
or linear layer in front of it can take over. Which layers these are is seen by running the network,
and whether they can is seen by its outputs.
"""

import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval
from torch.nn.utils.parametrize import is_parametrized

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
TOLERANCE = 1e-4  # of an output's largest value, in float32


class Fold(NamedTuple):
    """Names of a layer, and of the batch normalisation that it takes over."""

    layer: str
    norm: str


def fold_batch_norm(network: nn.Module, example: Tensor) -> nn.Module:
    """A copy in which each batch normalisation that can be folded is an `nn.Identity`.

    The copy is in eval mode; all its outputs and stages equal the network's, to `TOLERANCE`.

    Args:
        network: stays as it is.
        example: images ``[B, 3, H, W]`` float32 that it takes.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
        >>> fold_batch_norm(network, torch.rand(2, 3, 8, 8))
        Sequential(
          (0): Conv2d(3, 4, kernel_size=(1, 1), stride=(1, 1))
          (1): Identity()
          (2): ReLU()
        )
    """
    return apply_folds(network, find_folds(network, example))


def find_folds(network: nn.Module, example: Tensor) -> tuple[Fold, ...]:
    """The batch normalisations that can be folded without a change of results.

    One can if its input is what a convolution or linear layer gave, both are called once in a pass,
    and the folded network's outputs are those of the network, on the example and on fresh random
    images: on the CPU, where float32 is not rounded to TF32. Of folds that fail together, those
    that hold are kept.

    Args:
        network: stays as it is, on any device.
        example: images ``[B, 3, H, W]`` float32 that it takes; the first two are used.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4))
        >>> find_folds(network, torch.rand(2, 3, 8, 8))
        (Fold(layer='0', norm='1'),)
    """
    original, example = deepcopy(network).cpu().eval(), example[:2].cpu()
    fresh = torch.rand(example.shape, generator=torch.Generator().manual_seed(0))
    wanted = [answers(original, images) for images in (example, fresh)]

    def holds(folds: Sequence[Fold]) -> bool:
        folded = apply_folds(original, folds)
        try:
            given = [answers(folded, images) for images in (example, fresh)]
        except AttributeError:  # something else reads the normalisation's tensors
            return False
        return all(
            relative_error(a, b) <= TOLERANCE
            for answer, right in zip(given, wanted, strict=True)
            for a, b in zip(answer, right, strict=True)
        )

    return tuple(_keep_those_that_hold(_neighbours(original, example), holds))


def apply_folds(network: nn.Module, folds: Sequence[Fold]) -> nn.Module:
    """A copy of the network, in eval mode, with these normalisations folded."""
    copy = deepcopy(network).eval()
    for fold in folds:
        layer, norm = copy.get_submodule(fold.layer), copy.get_submodule(fold.norm)
        fuse = fuse_linear_bn_eval if isinstance(layer, nn.Linear) else fuse_conv_bn_eval
        copy.set_submodule(fold.layer, fuse(layer, norm))  # type: ignore[arg-type]
        copy.set_submodule(fold.norm, nn.Identity())
    return copy


def relative_error(given: Tensor, wanted: Tensor) -> float:
    """Largest difference of two tensors, over the largest magnitude in ``wanted``.

    Example:
        >>> round(relative_error(torch.tensor([1.0, 3.9]), torch.tensor([1.0, 4.0])), 3)
        0.025
    """
    difference = (given.float() - wanted.float()).abs().amax()
    return float(difference / wanted.float().abs().amax().clamp(min=1e-12))


@torch.no_grad()
def answers(network: nn.Module, images: Tensor) -> list[Tensor]:
    """Every tensor that a network answers: `forward`, and `forward_stages` where there is one."""
    stages: Any = getattr(network, "forward_stages", None)
    given = [network(images)]
    if stages is not None:
        given.append(stages(images))
        if "preactivations" in inspect.signature(stages).parameters:
            given.append(stages(images, preactivations=True))
    return list(tensors_of(given))


def tensors_of(answer: Any) -> Iterator[Tensor]:
    """The tensors in a network's answer, of any structure."""
    if isinstance(answer, Tensor):
        yield answer
    elif isinstance(answer, Mapping | list | tuple):
        for part in answer.values() if isinstance(answer, Mapping) else answer:
            yield from tensors_of(part)


def _keep_those_that_hold(
    folds: Sequence[Fold], holds: Callable[[Sequence[Fold]], bool], kept: Sequence[Fold] = ()
) -> Sequence[Fold]:
    """By bisection: ``kept``, and those of ``folds`` that can be added to it."""
    if not folds or holds([*kept, *folds]):
        return [*kept, *folds]
    if len(folds) == 1:
        return kept
    half = len(folds) // 2
    return _keep_those_that_hold(
        folds[half:], holds, _keep_those_that_hold(folds[:half], holds, kept)
    )


def _neighbours(network: nn.Module, example: Tensor) -> list[Fold]:
    """Layers and normalisations that are called once, the one with what the other gave."""
    copy, calls = deepcopy(network), Counter[str]()  # so that no hook outlives the copy
    given: dict[int, tuple[str, Tensor]] = {}  # by id; the tensor is kept, hence its id
    found: list[Fold] = []

    def after_layer(name: str) -> Callable[..., None]:
        def note(module: nn.Module, args: Any, output: Tensor) -> None:
            calls[name] += 1
            given[id(output)] = name, output

        return note

    def before_norm(name: str) -> Callable[..., None]:
        def note(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            calls[name] += 1
            if id(args[0]) in given:
                found.append(Fold(given[id(args[0])][0], name))

        return note

    for name, module in copy.named_modules():
        if isinstance(module, LAYERS) and not is_parametrized(module):
            module.register_forward_hook(after_layer(name))
        elif type(module) in NORMS and module.running_mean is not None:
            module.register_forward_pre_hook(before_norm(name))
    with torch.no_grad():
        copy(example)
    return [fold for fold in found if calls[fold.layer] == calls[fold.norm] == 1]
