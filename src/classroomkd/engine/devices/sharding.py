"""A student that is divided over the processes of a team, for one that is too large for a device.

Each process keeps a part of every weight, of its gradient and of the optimizer's state, and has a
block's weights whole only while it computes with them (torch's `fully_shard`, FSDP2). What else is
trained, the method and the mentors that train along, each process has whole.
"""

from collections import Counter
from collections.abc import Iterable
from itertools import chain
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm

_BLOCK = 1_000_000  # weights from which a block is worth an exchange of its own
_ENTRANCES = ("forward_stages", "preactivation")  # by which networks are entered beside forward


def shard(student: nn.Module, mesh: DeviceMesh, block: int = _BLOCK) -> None:
    """Divide a student, in place, over the processes of a mesh.

    The blocks that stand in a row (``nn.Sequential``, ``nn.ModuleList``) are gathered one by one
    in a pass, the rest of the student at once: blocks that share no weight with others. Weights
    that cannot be divided stay whole: scalars, and those of another type than the largest.

    Args:
        student: the same in every process.
        mesh: of one dimension.
        block: weights from which a block is gathered by itself.
    """
    student.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    rows = [m for m in student.modules() if isinstance(m, nn.Sequential | nn.ModuleList)]
    items = [item for row in rows for item in row.children() if _size(item) >= block]
    uses = _uses(student)
    blocks = [item for item in items if all(uses[w] == n for w, n in _uses(item).items())]
    entered = [item for item in blocks if not isinstance(item, nn.Sequential | nn.ModuleList)]
    whole = _indivisible(student)
    for part in (*reversed(list(dict.fromkeys(entered))), student):  # the inner before the outer
        fully_shard(part, mesh=mesh, ignored_params=whole)
        for entrance in _ENTRANCES:
            if hasattr(part, entrance):
                register_fsdp_forward_method(part, entrance)


def _indivisible(student: nn.Module) -> set[nn.Parameter]:
    """The parameters that torch does not divide, at least not together with the others."""
    weights = list(student.parameters())
    usual = max(weights, key=torch.numel).dtype
    return {weight for weight in weights if weight.ndim == 0 or weight.dtype != usual}


def _uses(module: nn.Module) -> Counter[nn.Parameter]:
    """In how many places of a module each of its parameters is."""
    return Counter(weight for _, weight in module.named_parameters(remove_duplicate=False))


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def whole_weights(student: nn.Module) -> dict[str, Any]:
    """A divided student's ``state_dict`` in the host's memory; empty but in the first process.

    Every process must call it.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return get_model_state_dict(student, options=options)


def let_go(mesh: DeviceMesh) -> None:
    """Part a mesh of several dimensions from its processes, when all is done.

    torch's caches keep it for good, and it the threads that exchange: should these outlive Python,
    they abort the process.
    """
    vars(mesh).get("_pg_registry", {}).clear()


@torch.no_grad()
def average_whole(parameters: Iterable[nn.Parameter], size: int) -> None:
    """Average the gradients of the parameters that are not divided, as those that are have been.

    Args:
        parameters: which of them have a gradient is the same in every process.
        size: how many processes there are.
    """
    _, whole = _by_place(parameters)
    if not whole:
        return
    flat = torch.cat([grad.flatten() for grad in whole]).div_(size)
    dist.all_reduce(flat)
    for grad, mean in zip(whole, flat.split([grad.numel() for grad in whole]), strict=True):
        grad.copy_(mean.view_as(grad))


@torch.no_grad()
def clip_norm(parameters: Iterable[nn.Parameter], largest: float) -> None:
    """Scale gradients down to a norm of ``largest`` over all of them, divided or whole."""
    groups = [grads for grads in _by_place(parameters) if grads]
    norms = [_local(get_total_norm(grads)) for grads in groups]
    scale = (largest / (torch.stack(norms).norm() + 1e-6)).clamp(max=1.0)  # as torch's own
    for grad in chain(*groups):
        grad.mul_(scale)


def _by_place(parameters: Iterable[nn.Parameter]) -> tuple[list[Tensor], list[Tensor]]:
    """The gradients that are divided, and those that are whole."""
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    divided: list[Tensor] = [grad for grad in grads if isinstance(grad, DTensor)]
    return divided, [grad for grad in grads if not isinstance(grad, DTensor)]


def _local(value: Tensor) -> Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value
