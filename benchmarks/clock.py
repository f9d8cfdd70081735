"""Time, on any device."""

import time
from collections.abc import Sequence

import torch


def now(device: torch.device) -> float:
    """The time in seconds, once the device has done what it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class Clock:
    """A on_step that notes the time of its first call, and of the one ``steps`` later."""

    def __init__(self, device: torch.device, steps: int) -> None:
        self.device, self.steps = device, steps
        self.calls, self.start, self.end = 0, 0.0, 0.0

    def __call__(self, _: object) -> None:
        """OnStep."""
        if self.calls == 0:
            self.start = now(self.device)
        elif self.calls == self.steps:
            self.end = now(self.device)
        self.calls += 1

    def seconds(self) -> float:
        """Between the two; a RuntimeError if it did not on_step ``steps + 1`` times."""
        if self.calls != self.steps + 1:
            raise RuntimeError(f"{self.calls} steps were run instead of {self.steps + 1}")
        return self.end - self.start


def ratios(one: Sequence[float], other: Sequence[float]) -> list[float]:
    """``one / other``, round by round."""
    return [a / b for a, b in zip(one, other, strict=True)]
