"""Random numbers without a state: each is a hash of (seed, epoch, index, stream, column).

A stateful generator gives a sample numbers that depend on who drew before it, hence on the batch
size, the workers and the world size. A counter-based one does not, which is what makes views pure.

``B`` samples, ``n`` numbers for each.
"""

from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - 2**64  # splitmix64's increment, as a signed 64-bit integer
_FIRST = 0xBF58476D1CE4E5B9 - 2**64
_SECOND = 0x94D049BB133111EB - 2**64


@dataclass(frozen=True, eq=False)
class Draws:
    """The random numbers of a batch of samples in one epoch.

    A sample's numbers do not depend on the batch that it comes in, on what was drawn before, or on
    the device. Different streams are independent; the same stream always gives the same numbers.

    Args:
        seed: Seed of the run.
        epoch: Epoch, from 0.
        index: ``[B]`` int64, the samples' places in the original set.

    Raises:
        ValueError: If ``index`` is not a vector of int64.

    >>> draws = Draws(seed=0, epoch=3, index=torch.tensor([7, 8]))
    >>> draws.uniform("flip").shape
    torch.Size([2, 1])
    >>> alone = Draws(seed=0, epoch=3, index=torch.tensor([8]))
    >>> bool(alone.uniform("flip")[0] == draws.uniform("flip")[1])
    True
    """

    seed: int
    epoch: int
    index: Tensor

    def __post_init__(self) -> None:
        if self.index.ndim != 1 or self.index.dtype != torch.int64:
            shape = tuple(self.index.shape)
            raise ValueError(f"index must be int64 [B], not {self.index.dtype} {shape}")

    def uniform(self, stream: str, n: int = 1) -> Tensor:
        """``[B, n]`` float32, uniform in [0, 1)."""
        return (self._bits(stream, n) >> 40 & 0xFFFFFF).to(torch.float32) * 2.0**-24

    def integers(self, stream: str, low: int, high: int, n: int = 1) -> Tensor:
        """``[B, n]`` int64, uniform from ``low`` to ``high - 1``.

        Raises:
            ValueError: If ``high - low`` is not between 1 and 2**31.
        """
        if not 1 <= high - low <= 2**31:
            raise ValueError(f"cannot draw integers from {low} to below {high}")
        return ((self._bits(stream, n) >> 32 & 0xFFFFFFFF) * (high - low) >> 32) + low

    @cached_property
    def _samples(self) -> Tensor:
        return _mix(self.index * _GOLDEN + _key(f"{self.seed:d}/{self.epoch:d}"))

    def _bits(self, stream: str, n: int) -> Tensor:
        columns = torch.arange(n, device=self.index.device) * _GOLDEN + _key(stream)
        return _mix(self._samples[:, None] + columns)


def permutation(n: int, seed: int, epoch: int, stream: str = "order") -> Tensor:
    """The numbers 0 to ``n - 1`` in a random order, ``[n]`` int64: a pure function.

    >>> permutation(5, seed=0, epoch=1).sort().values.tolist()
    [0, 1, 2, 3, 4]
    """
    return Draws(seed, epoch, torch.arange(n))._bits(stream, 1)[:, 0].argsort(stable=True)


def _key(text: str) -> int:
    """64 bits that stand for ``text``, the same in every process (unlike ``hash``)."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def _mix(bits: Tensor) -> Tensor:
    """Splitmix64's finaliser; int64 products wrap around as unsigned ones do."""
    bits = (bits ^ _shift(bits, 30)) * _FIRST
    bits = (bits ^ _shift(bits, 27)) * _SECOND
    return bits ^ _shift(bits, 31)


def _shift(bits: Tensor, by: int) -> Tensor:
    """Shift right without the sign, which ``>>`` would fill in."""
    return bits >> by & (1 << 64 - by) - 1
