"""Jobs that take turns, whole steps, and ratios round by round."""

from collections.abc import Callable, Mapping, Sequence
from itertools import count
from time import perf_counter, process_time

import torch

from benchmarks.variants import OnStep
from classroomkd.engine.timer import StepTimer


def own_clock(device: torch.device) -> Callable[[], float]:
    """Seconds: with one thread on a CPU those that this process computes, whoever else does."""
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    return process_time if alone else perf_counter


def take_turns(
    jobs: Mapping[str, Callable[[], object]],
    rounds: int,
    device: torch.device,
    *,
    warm_up: int = 1,
    repeats: Mapping[str, int] | None = None,
) -> dict[str, list[float]]:
    """Seconds of each job in each round after the first: whatever the machine does meets all.

    Args:
        jobs: by name.
        rounds: that count.
        device: where they run.
        warm_up: rounds before these.
        repeats: of a job in a round, 1 if left out; its seconds are their mean.
    """
    timer = StepTimer(device, own_clock(device))
    repeats = dict.fromkeys(jobs, 1) | dict(repeats or {})
    for _ in range(warm_up + rounds):
        for name, job in jobs.items():
            timer.start()
            for _ in range(repeats[name]):
                job()
            timer.lap(name)
    return {
        name: [seconds / repeats[name] for seconds in laps[warm_up:]]
        for name, laps in timer.seconds.items()
    }


def whole_steps(timer: StepTimer, name: str, steps: int) -> OnStep:
    """To be called at each step: a lap from the first call to the one ``steps`` later."""
    numbers = count()

    def on_step(_: object) -> None:
        number = next(numbers)
        if number == 0:
            timer.start()
        elif number == steps:
            timer.lap(name)

    return on_step


def ratios(one: Sequence[float], other: Sequence[float]) -> list[float]:
    """``one / other``, round by round."""
    return [a / b for a, b in zip(one, other, strict=True)]
