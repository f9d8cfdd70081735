"""Batch normalisation by the whole batch, of which each process has an equal part.

Shapes: ``B`` samples of this process, ``C`` channels, ``W`` processes.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from classroomkd.engine.devices.gather import GatherForAll


class JointBatchNorm(TorchFunctionMode):
    """A context in which batch normalisation in training mode is that of the whole batch.

    It acts on `torch.nn.functional.batch_norm`, which every such layer calls, and so leaves a
    network's modules as they are. torch's own layer of this kind does not run on CPUs.

    Args:
        rank: of this process.
        size: ``W``.
    """

    def __init__(self, rank: int, size: int) -> None:
        super().__init__()
        self._rank, self._size = rank, size

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function of torch, or what stands in for it."""
        if func is F.batch_norm:
            return self._normalise(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _normalise(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if not training:
            return F.batch_norm(
                input, running_mean, running_var, weight, bias, False, momentum, eps
            )
        own = torch.var_mean(input.float(), [d for d in range(input.ndim) if d != 1], correction=0)
        variances, means = GatherForAll.apply(torch.stack(own), self._rank, self._size).unbind(1)
        mean = means.mean(0)
        variance = variances.mean(0) + means.var(0, correction=0)
        count = input.numel() // input.shape[1] * self._size
        _follow(running_mean, mean, momentum)
        _follow(running_var, variance * (count / max(count - 1, 1)), momentum)
        scale = torch.rsqrt(variance + eps)
        if weight is not None:
            scale = scale * weight
        shift = -mean * scale if bias is None else bias - mean * scale
        shape = (1, -1, *[1] * (input.ndim - 2))
        return (input * scale.view(shape) + shift.view(shape)).to(input.dtype)


@torch.no_grad()
def _follow(running: Tensor | None, value: Tensor, momentum: float) -> None:
    if running is not None:
        running.lerp_(value.to(running.dtype), momentum)
