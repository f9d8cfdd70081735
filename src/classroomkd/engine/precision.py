"""The precision that networks run in."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


@contextmanager
def autocast(device: torch.device, precision: str) -> Iterator[None]:
    """The context in which networks run: bfloat16 autocast, or nothing."""
    if precision != "bf16":
        yield
    elif device.type != "cpu":
        with torch.autocast(device.type, dtype=torch.bfloat16):
            yield
    else:
        with torch.autocast("cpu", dtype=torch.bfloat16), _DepthwiseGradients():
            yield


class _DepthwiseGradients(TorchFunctionMode):
    """Computes in float32, on a CPU, the depthwise convolutions whose bfloat16 gradients are slow.

    They are 5 to 400 times as slow: those of strided ones for the input, and those on maps smaller
    than the kernel for the weight. They took 60 % of MobileNetV2's training step. The outputs are
    bfloat16 as usual, and what needs no gradient, such as a mentor, stays as it is.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        trained = torch.is_grad_enabled() and torch.is_autocast_enabled("cpu")
        if func is torch.conv2d and trained and not kwargs and _is_slow(*args):
            with torch.autocast("cpu", enabled=False):
                exact = [a.float() if isinstance(a, Tensor) else a for a in args]
                return func(*exact).to(torch.bfloat16)
        return func(*args, **(kwargs or {}))


def _is_slow(images: Tensor, weight: Tensor, bias: Any = None, stride: Any = 1, *_: Any) -> bool:
    """Whether these arguments of `torch.conv2d`, as `nn.Conv2d` gives them, are such a case."""
    depthwise = weight.shape[1] == 1 and images.shape[1] > 1
    small = any(side < size for side, size in zip(images.shape[2:], weight.shape[2:], strict=True))
    return depthwise and (small or stride not in (1, (1, 1)))
