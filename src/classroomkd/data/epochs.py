"""What every loader has: epochs of batches, of which several processes may each show a part."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from copy import copy
from typing import Any, Self

from torch import Tensor


class Epochs(ABC):
    """Batches of views of a set: a function of (seed, epoch, index) alone.

    A batch is a `NamedTuple`. Its first field is the networks' input; every other one is a tensor
    with a row for each sample, ``index`` (int64, the samples' numbers) among them.

    Args:
        count: Samples in an epoch.
        batch_size: Samples in a batch.
        repeat: How many different views a sample has: epoch ``e`` shows those of epoch
            ``e % repeat``. None for new ones in each epoch.
        drop_last: Whether to leave out a last batch that is not full.
        part: Which part of each batch is shown, from 0, and of how many equal ones: what one of
            several processes sees of the same batches.

    Raises:
        ValueError: If ``batch_size`` is below 1, or a batch cannot be divided into equal parts.

    >>> import torch
    >>> class Numbers(Epochs):
    ...     @property
    ...     def dataset(self):
    ...         return torch.arange(10)
    ...
    ...     def samples(self):
    ...         return torch.arange(10)[: len(self) * self.batch_size]
    ...
    ...     def __iter__(self):
    ...         return iter(self.own(self.samples()))
    >>> numbers = Numbers(10, 4, repeat=2, drop_last=True, part=(1, 2))
    >>> numbers.set_epoch(3)
    >>> len(numbers), numbers.view, list(numbers)
    (2, 1, [tensor([2, 3]), tensor([6, 7])])
    >>> list(Numbers(10, 4, repeat=None, drop_last=False, part=(0, 1)).every(1, 2))
    [tensor([4, 5, 6, 7])]
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        *,
        repeat: int | None,
        drop_last: bool,
        part: tuple[int, int],
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more, not {batch_size}")
        last = 0 if drop_last else count % batch_size
        if batch_size % part[1] or last % part[1]:
            raise ValueError(f"batches of {last or batch_size} have no {part[1]} equal parts")
        self._count = count
        self.batch_size = batch_size
        self.repeat = repeat
        self.drop_last = drop_last
        self.part = part
        self.epoch = 0
        self._turns = slice(None)

    @property
    @abstractmethod
    def dataset(self) -> Any:
        """What is shown."""

    @abstractmethod
    def samples(self) -> Tensor:
        """``[n]`` int64, on the host: the samples of the next iteration, by their numbers."""

    @abstractmethod
    def __iter__(self) -> Iterator[Any]:
        """The batches of the epoch that was chosen, or of this process's part of them."""

    @property
    def waited(self) -> float | None:
        """The share of the latest iteration that went by in waiting for data, if measured."""
        return None

    def __len__(self) -> int:
        full, rest = divmod(self._count, self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0, of the next iteration."""
        self.epoch = epoch

    @property
    def view(self) -> int:
        """The number of the views that the next iteration shows, from 0."""
        return self.epoch % self.repeat if self.repeat else self.epoch

    def every(self, first: int, step: int) -> Self:
        """The same loader, showing whole batches ``first``, ``first + step``, ... and no others.

        Its length and `samples` stay those of all batches.
        """
        some = copy(self)
        some._turns = slice(first, None, step)
        return some

    def own(self, samples: Tensor) -> list[Tensor]:
        """Of an epoch's samples ``[..., n]``, in order, those of this part of each batch."""
        place, count = self.part
        batches = samples.split(self.batch_size, dim=-1)[: len(self)][self._turns]
        return [batch.chunk(count, dim=-1)[place] for batch in batches]
