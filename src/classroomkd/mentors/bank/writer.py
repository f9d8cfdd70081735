"""Writing a shard batch by batch, in memory that does not grow with the number of samples.

``n`` samples of a view.
"""

import json
import mmap
import os
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from classroomkd.mentors.bank.encoding import Encoded, check_range

_DTYPES = {
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.uint8: "U8",
    torch.float32: "F32", torch.float16: "F16",
}  # fmt: skip
_CHUNK = 1 << 22
_UNSUMMED = b'"crc32":"00000000"'


class ShardWriter:
    """A shard in the making: a file of its final size, whose rows are written as they come.

    Its pages belong to the file, not to this process: they are let go after each batch.

    Args:
        path: of the file, which is not yet the shard: see `finish`.
        index: ``[n]`` int64, the samples' numbers, strictly increasing.
        example: what is stored of some samples; all others are stored alike.

    Raises:
        OSError: if there is no room for the whole.
    """

    def __init__(self, path: Path, index: Tensor, example: Encoded) -> None:
        self.path, self.index = path, index
        self._seen = torch.zeros(len(index), dtype=torch.bool)
        # Large types first, so that every tensor is aligned, as readers of safetensors expect.
        tensors = {"index": index} | dict(
            sorted(example.items(), key=lambda item: -item[1].element_size())
        )
        header, places = _header(tensors, len(index))
        with path.open("w+b") as file:
            size = len(header) + places[-1][1]
            os.posix_fallocate(file.fileno(), 0, size)  # a full disk is met here, not in the middle
            file.write(header)
            file.flush()
            self._map = mmap.mmap(file.fileno(), size)
        self._rows: dict[str, np.ndarray] = {}
        for (name, tensor), (start, _) in zip(tensors.items(), places, strict=True):
            shape = (len(index), *tensor.shape[1:])
            dtype = torch.empty(0, dtype=tensor.dtype).numpy().dtype
            self._rows[name] = np.ndarray(shape, dtype, self._map, len(header) + start)
        self._rows["index"][:] = index.numpy()

    def write(self, index: Tensor, stored: Mapping[str, Tensor]) -> None:
        """Write some samples, all of which are among the ``n``; tensors are on the host.

        Raises:
            ClassroomError: if they lie beyond what is stored reaches; see `check_range`.
        """
        check_range(stored)
        places = torch.searchsorted(self.index, index)
        for name, tensor in stored.items():
            self._rows[name][places.numpy()] = tensor.numpy()
        self._seen[places] = True
        if hasattr(mmap, "MADV_DONTNEED"):  # what was written stays with the file
            self._map.madvise(mmap.MADV_DONTNEED)

    @property
    def complete(self) -> bool:
        """Whether all samples were written."""
        return bool(self._seen.all())

    def finish(self) -> None:
        """Write the checksum, and see that all is on the disk; nothing can be written after it."""
        checksum = 0
        for start in range(0, len(self._map), _CHUNK):
            checksum = zlib.crc32(self._map[start : start + _CHUNK], checksum)
        place = self._map.find(_UNSUMMED) + len(_UNSUMMED) - 9
        self._map[place : place + 8] = b"%08x" % checksum
        self._map.flush()
        self.close()
        with self.path.open("rb") as file:
            os.fsync(file.fileno())

    def close(self) -> None:
        """Let the file go."""
        self._rows.clear()
        self._map.close()


def _header(tensors: Mapping[str, Tensor], count: int) -> tuple[bytes, list[tuple[int, int]]]:
    """The beginning of a safetensors file, and where each tensor's bytes lie after it."""
    places, end = [], 0
    described: dict[str, object] = {"__metadata__": {"crc32": "0" * 8}}
    for name, tensor in tensors.items():
        shape = [count, *tensor.shape[1:]]
        start, end = end, end + tensor.element_size() * int(np.prod(shape))
        places.append((start, end))
        described[name] = {
            "dtype": _DTYPES[tensor.dtype], "shape": shape, "data_offsets": [start, end]
        }  # fmt: skip
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, places
