"""Tensors of all processes, put together with gradient.

Shapes: ``W`` processes.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class GatherForOneLoss(torch.autograd.Function):
    """``[...]`` of every process to ``[W, ...]``, for a loss that each of them computes alike.

    DistributedDataParallel takes the mean of the processes' gradients, where the gradient of the
    one loss is the sum over everybody's part: hence the factor ``W`` on the way back.
    """

    @staticmethod
    def forward(ctx: Any, own: Tensor, rank: int, size: int) -> Tensor:
        """Exchange."""
        ctx.rank, ctx.size = rank, size
        return all_gather(own, size)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        """The own part, ``W`` times."""
        return grads[0][ctx.rank] * ctx.size, None, None


class GatherForAll(torch.autograd.Function):
    """``[...]`` of every process to ``[W, ...]``, where each makes something else of it."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, rank: int, size: int) -> Tensor:
        """Exchange."""
        ctx.rank = rank
        return all_gather(own, size)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        """The own part of the sum over processes."""
        total = grads[0].contiguous()
        dist.all_reduce(total)
        return total[ctx.rank], None, None


def all_gather(own: Tensor, size: int) -> Tensor:
    """``[...]`` of every process, of one shape, to ``[W, ...]``, by rank; without gradient."""
    own = own.detach().contiguous()
    whole = own.new_empty(size * own.numel())
    dist.all_gather_into_tensor(whole, own.flatten())
    return whole.view(size, *own.shape)
