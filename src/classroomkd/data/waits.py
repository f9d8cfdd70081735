"""How long a device stands still for want of data."""

from time import perf_counter

import torch


class Waits:
    """A clock that runs while a batch is waited for: ``with waits: batch = ...``.

    On a GPU, whose work is queued ahead, only that time counts in which nothing was left to do:
    from the end of what was queued before to the arrival of the batch. Nothing waits for the GPU
    until the time is read.

    Args:
        device: what the batches go to.

    >>> waits = Waits(torch.device("cpu"))
    >>> with waits:
    ...     batch = [torch.zeros(2, 3, 8, 8)]
    >>> 0 < waits.seconds <= waits.elapsed
    True
    """

    def __init__(self, device: torch.device) -> None:
        self._queue = torch.cuda.current_stream(device) if device.type == "cuda" else None
        self._pairs: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._seconds = 0.0
        self._began = self._ended = self._mark = perf_counter()

    def __enter__(self) -> None:
        self._mark = perf_counter()
        if self._queue is not None:
            pair = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            pair[0].record(self._queue)
            self._pairs.append(pair)

    def __exit__(self, *_: object) -> None:
        self._ended = perf_counter()
        if self._queue is None:
            self._seconds += self._ended - self._mark
        else:
            self._pairs[-1][1].record(self._queue)

    @property
    def seconds(self) -> float:
        """Seconds without anything to do; on a GPU, reading it waits for what is queued."""
        if self._pairs:
            self._pairs[-1][1].synchronize()
            self._seconds += sum(start.elapsed_time(end) for start, end in self._pairs) / 1000
            self._pairs.clear()
        return self._seconds

    @property
    def elapsed(self) -> float:
        """Seconds from the beginning of the epoch to the arrival of the latest batch."""
        return self._ended - self._began

    @property
    def share(self) -> float:
        """What part of the elapsed time was waiting, from 0 to 1."""
        return min(1.0, self.seconds / self.elapsed) if self.elapsed else 0.0
