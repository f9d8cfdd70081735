"""The processes that train one student together, as each of them sees them.

Shapes: ``W`` processes, ``B`` samples of the whole batch.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from classroomkd.engine.devices.gather import GatherForOneLoss, all_gather
from classroomkd.engine.devices.norm import JointBatchNorm
from classroomkd.errors import ClassroomError

T = TypeVar("T")


@dataclass(frozen=True)
class DistContext:
    """This process's place among those that train one student.

    What a team does together, every process must call: a lone one waits for the others. In a team
    of one, everything is as if there were none.

    Attributes:
        rank: from 0; the first writes the run folder.
        size: ``W``.
        local_rank: among the processes on this machine.
        local_size: how many there are on this machine.
        joint_norm: whether batch normalisation takes the statistics of the whole batch.

    Example:
        >>> import torch
        >>> SINGLE_PROCESS.gather(torch.arange(3)), SINGLE_PROCESS.broadcast("news")
        (tensor([0, 1, 2]), 'news')
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    joint_norm: bool = True

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0

    def check_shares(self, samples: int, batch_size: int, called: str = "samples") -> None:
        """See that batches of so many training samples can be divided equally.

        Args:
            samples: how many there are.
            batch_size: of a batch of all processes.
            called: what a user calls them.

        Raises:
            ClassroomError: if they are fewer than a batch, and cannot.
        """
        if samples < batch_size and samples % self.size:
            raise ClassroomError(
                f"the {samples} training {called} are one batch, which {self.size} processes cannot"
                " share equally: train in one process, or with a smaller train.batch_size"
            )

    def gather(self, own: Tensor, views: int = 1) -> Tensor:
        """Every process's rows, in the order of the whole batch.

        Gradients are right for a loss of the whole batch that every process computes alike, and
        that DistributedDataParallel takes the mean of.

        Args:
            own: ``[B/W, ...]`` of this process's part, of one shape everywhere; with ``views``
                views of each sample ``[views * B/W, ...]``, first all samples in one.
            views: how many there are.
        """
        if self.size == 1:
            return own
        if own.requires_grad:
            parts = GatherForOneLoss.apply(own, self.rank, self.size)
        else:
            parts = all_gather(own, self.size)
        by_view = parts.unflatten(1, (views, -1)).transpose(0, 1)
        return by_view.flatten(0, 2)

    def normalising(self) -> AbstractContextManager[Any]:
        """A context in which networks in training normalise as the recipe says."""
        if self.size == 1 or not self.joint_norm:
            return nullcontext()
        return JointBatchNorm(self.rank, self.size)

    def barrier(self) -> None:
        """Wait until all are here."""
        if self.size > 1:
            dist.barrier()

    def broadcast(self, value: T) -> T:
        """The first process's value, which can be pickled."""
        if self.size == 1:
            return value
        told = [value]
        dist.broadcast_object_list(told)
        return told[0]

    def all_gather(self, value: T) -> list[T]:
        """Every process's value, by rank; they can be pickled."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    @contextmanager
    def first_buffers(self, network: nn.Module) -> Iterator[None]:
        """A network with the first process's buffers, such as the statistics that are saved.

        Weights are alike in all processes; statistics that each takes of its part are not.
        """
        own = [buffer.clone() for buffer in network.buffers()] if self.size > 1 else []
        self._set_buffers(network, self.broadcast([b.cpu() for b in own] if self.first else []))
        try:
            yield
        finally:
            self._set_buffers(network, own)

    @torch.no_grad()
    def _set_buffers(self, network: nn.Module, values: list[Tensor]) -> None:
        if self.first:
            return
        for buffer, value in zip(network.buffers(), values, strict=True):
            buffer.copy_(value)

    @contextmanager
    def first_ahead(self) -> Iterator[None]:
        """Let the first process do something before the others do: it may fill a cache for them."""
        if not self.first:
            self.barrier()
        yield
        if self.first:
            self.barrier()


SINGLE_PROCESS = DistContext()
"""A process by itself."""
