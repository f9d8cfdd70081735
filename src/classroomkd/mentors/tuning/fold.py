"""Batch normalisation folded into the layer before it, in any network, without tracing its code.

A frozen normalisation is a scale and a shift of each channel, which the weights of a convolution
or linear layer in front of it can take over. Which layers these are is seen by running the network.
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
from torch.utils._python_dispatch import TorchDispatchMode

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
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

    One can if its input is what a convolution or linear layer gave, nothing else uses that, both
    are called once in a pass, and the folded network's outputs are those of the network, on the
    example and on fresh random images: on the CPU, where float32 is not rounded to TF32. Of folds
    that fail together, those that hold are kept.

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
        given = (answers(folded, images) for images in (example, fresh))
        return all(
            relative_error(a, b) <= TOLERANCE
            for answers, right in zip(given, wanted, strict=True)
            for a, b in zip(answers, right, strict=True)
        )

    return tuple(_keep_those_that_hold(_candidates(original, example), holds))


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
    """Every tensor that a network answers, in any of the ways that it can be asked."""
    return [tensor for ask in _ways(network) for tensor in tensors_of(ask(images))]


def _ways(network: nn.Module) -> list[Callable[[Tensor], Any]]:
    """`forward`, and, where there is one, `forward_stages` with all that it can show."""
    stages: Any = getattr(network, "forward_stages", None)
    if stages is None:
        return [network]
    if "preactivations" not in inspect.signature(stages).parameters:
        return [network, stages]
    return [network, stages, lambda images: stages(images, preactivations=True)]


def tensors_of(answer: Any) -> Iterator[Tensor]:
    """Every tensor in what a network answers."""
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


def _candidates(network: nn.Module, example: Tensor) -> list[Fold]:
    """The folds that every way of asking the network allows."""
    passes = []
    for way in range(len(_ways(network))):
        copy = deepcopy(network)  # one for each, so that no hook outlives it
        with torch.no_grad(), _Watch(copy) as watch:
            answer = _ways(copy)[way](example)
        passes.append(watch.folds(answer))
    return [fold for fold in passes[0] if all(fold in others for others in passes[1:])]


class _Watch(TorchDispatchMode):
    """Sees which layers' outputs go into a batch normalisation and nowhere else."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.given: dict[int, tuple[Tensor, str]] = {}  # by id; the tensor is kept, hence its id
        self.taken: dict[str, int] = {}  # a norm's input
        self.norm_tensors: dict[str, set[int]] = {}
        self.used: set[int] = set()  # by operations outside of norms
        self.in_norm = False
        for name, module in network.named_modules():
            if isinstance(module, (*CONVOLUTIONS, nn.Linear)) and not is_parametrized(module):
                module.register_forward_hook(self._after_layer(name))
            elif type(module) in NORMS and module.running_mean is not None:
                tensors = (*module.parameters(), *module.buffers())
                self.norm_tensors[name] = {id(tensor) for tensor in tensors}
                module.register_forward_pre_hook(self._before_norm(name))
                module.register_forward_hook(self._after_norm)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if not self.in_norm:
            self.used.update(map(id, tensors_of([*args, *(kwargs or {}).values()])))
        return func(*args, **(kwargs or {}))

    def folds(self, answer: Any) -> list[Fold]:
        """What can be folded, after a pass with this answer."""
        used = self.used | set(map(id, tensors_of(answer)))
        found = []
        for norm, tensor in self.taken.items():
            _, layer = self.given.get(tensor, (None, ""))
            once = layer and self.calls[layer] == self.calls[norm] == 1
            if once and not used & {tensor, *self.norm_tensors[norm]}:
                found.append(Fold(layer, norm))
        return found

    def _after_layer(self, name: str) -> Callable[..., None]:
        def note(module: nn.Module, args: Any, output: Tensor) -> None:
            self.calls[name] += 1
            if output.ndim == 2 or not isinstance(module, nn.Linear):  # else channels are not dim 1
                self.given[id(output)] = output, name
                self.used.discard(id(output))  # an earlier tensor's, or the layer's own

        return note

    def _before_norm(self, name: str) -> Callable[..., None]:
        def note(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            self.calls[name] += 1
            self.taken[name] = id(args[0])
            self.in_norm = True

        return note

    def _after_norm(self, *_: Any) -> None:
        self.in_norm = False
