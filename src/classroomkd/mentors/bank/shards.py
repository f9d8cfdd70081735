"""A shard: what one mentor said about samples of one view, as a checksummed safetensors file.

``n`` samples in a shard.
"""

import errno
import mmap
import os
import re
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from classroomkd.errors import ClassroomError
from classroomkd.mentors.bank.encoding import Encoded, rows

PART = ".part"
_CHECKSUM = re.compile(rb'"crc32":"([0-9a-f]{8})"')
_NO_ROOM = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}


class DamagedShardError(ClassroomError):
    """A file that is not, or no longer, what `write_shard` wrote."""


@dataclass(frozen=True, eq=False)
class Shard:
    """Encoded outputs of samples.

    Attributes:
        index: ``[n]`` int64, the samples' numbers in the original set, strictly increasing.
        stored: what `encode` gave, each with the first axis ``n``, in the order of ``index``.

    Raises:
        ValueError: if the index is not such, or a tensor has another first axis.

    >>> shard = Shard(torch.tensor([3, 5]), {"odds": torch.tensor([0.5, 1.5])})
    >>> shard.positions(torch.tensor([5, 4]))
    tensor([ 1, -1])
    """

    index: Tensor
    stored: Encoded

    def __post_init__(self) -> None:
        if self.index.ndim != 1 or self.index.dtype != torch.int64:
            raise ValueError(f"index must be int64 [n], not {self.index.dtype} {self.index.shape}")
        if not (self.index.diff() > 0).all():
            raise ValueError("index must be strictly increasing")
        for name, tensor in self.stored.items():
            if tensor.shape[:1] != self.index.shape:
                raise ValueError(f"{name} must have {len(self)} rows, not shape {tensor.shape}")

    def __len__(self) -> int:
        return len(self.index)

    def to(self, device: torch.device | str) -> "Shard":
        """The same shard on a device."""
        stored = {name: tensor.to(device) for name, tensor in self.stored.items()}
        return Shard(self.index.to(device), stored)

    def positions(self, index: Tensor) -> Tensor:
        """Where each of these sample numbers ``[B]`` is, ``[B]`` int64; -1 for what is missing."""
        if not len(self):
            return torch.full_like(index, -1)
        place = torch.searchsorted(self.index, index).clamp_max(len(self) - 1)
        return place.where(self.index[place] == index, -1)


def merge(old: Shard, new: Shard) -> Shard:
    """The samples of both; where both have one, ``new``'s.

    Raises:
        ValueError: if they are not encoded alike.

    >>> old = Shard(torch.tensor([1, 2]), {"odds": torch.tensor([0.1, 0.2])})
    >>> both = merge(old, Shard(torch.tensor([0, 2]), {"odds": torch.tensor([9.0, 9.2])}))
    >>> both.index.tolist(), both.stored["odds"]
    ([0, 1, 2], tensor([9.0000, 0.1000, 9.2000]))
    """
    if _layout(old) != _layout(new):
        raise ValueError(f"shards are encoded differently: {_layout(old)} and {_layout(new)}")
    index, order = torch.cat([new.index, old.index]).sort(stable=True)
    first = torch.ones_like(index, dtype=torch.bool)
    first[1:] = index.diff() > 0
    stored = {name: torch.cat([new.stored[name], old.stored[name]]) for name in new.stored}
    return Shard(index[first], rows(stored, order[first]))


def serialise(shard: Shard) -> bytes:
    """A shard as the bytes of a safetensors file; its metadata holds the CRC-32 of all the others.

    The checksum is that of the file in which eight zeros stand in its place.
    """
    tensors = {"index": shard.index, **shard.stored}
    # copies, because safetensors refuses tensors that share their memory
    plain = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    empty = save(plain, metadata={"crc32": "0" * 8})
    return empty.replace(b'"crc32":"' + b"0" * 8, b'"crc32":"%08x' % zlib.crc32(empty), 1)


def write_shard(path: Path, shard: Shard) -> None:
    """Write a shard as `write_bytes` does; one writer at a time for the same path."""
    write_bytes(path, serialise(shard))


def read_shard(path: Path) -> Shard:
    """A shard, memory-mapped after its checksum was compared.

    Raises:
        FileNotFoundError: if there is none.
        DamagedShardError: if a byte is not what was written, or the file is no shard.
        ClassroomError: if the file cannot be read.
    """
    with _readable(path):
        _verify(path)
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return Shard(tensors.pop("index"), tensors)


def count_samples(path: Path) -> int:
    """How many samples a shard says that it holds; reads its header alone.

    Raises:
        FileNotFoundError: if there is none.
        DamagedShardError: if the header cannot be understood or the file is too short.
        ClassroomError: if the file cannot be read.
    """
    with _readable(path), safe_open(path, framework="pt") as file:
        return file.get_slice("index").get_shape()[0]


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically: whoever reads it, even after a kill, finds the old or the new one.

    Raises:
        ClassroomError: if there is no room or the folder cannot be written to; what was there
            before stays as it is.
    """
    part = path.with_name(path.name + PART)
    try:
        with writing(path, len(data)):
            with part.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
    except ClassroomError:
        with suppress(OSError):
            part.unlink()
        raise


@contextmanager
def writing(path: Path, size: int | None = None) -> Iterator[None]:
    """Turn what goes wrong in writing a file into a ClassroomError with a cure.

    Args:
        path: of the file.
        size: of what is written, where it is known.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise ClassroomError(f"{path} cannot be written: {error}") from error
        free = shutil.disk_usage(path.parent).free
        needed = "" if size is None else f" for {size_text(size)}"
        raise ClassroomError(
            f"{path}: no room{needed} ({size_text(free)} free on this disk: "
            f"{error.strerror}). What is stored stays usable. Store fewer classes (top) or fewer "
            "views (repeat), make room, or choose a folder on another disk"
        ) from error


def size_text(size: float) -> str:
    """A number of bytes for people.

    >>> size_text(10_600_328), size_text(950)
    ('10.6 MB', '950 bytes')
    """
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size:.0f} bytes"


def _layout(shard: Shard) -> list[tuple[str, str, list[int]]]:
    return sorted((k, str(t.dtype), list(t.shape[1:])) for k, t in shard.stored.items())


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn whatever a damaged or unreadable file provokes into an error that says so."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ClassroomError(f"{path} cannot be read: {error}") from error
    except (SafetensorError, ValueError, KeyError) as error:
        raise DamagedShardError(f"{path} is damaged or not a shard of a bank: {error}") from error


def _verify(path: Path) -> None:
    """Compare the checksum of every byte of a file; ValueError if it differs or has none."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        header_end = 8 + int.from_bytes(data[:8], "little")
        written = _CHECKSUM.search(data, 8, min(header_end, len(data)))
        if written is None:
            raise ValueError("it has no checksum")
        start, end = written.span(1)
        expected = int(written[1], 16)
        del written  # it holds the mapping open
        checksum = zlib.crc32(b"0" * 8, zlib.crc32(data[:start]))
        with memoryview(data) as view, view[end:] as tail:
            checksum = zlib.crc32(tail, checksum)
    if checksum != expected:
        raise ValueError("its checksum differs")
