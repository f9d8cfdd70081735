"""How much of this machine's arithmetic the networks use.

Operations are counted as the matrix products and convolutions that a pass consists of, two to a
multiply-add (`torch.utils.flop_counter`); the peak is the fastest of some large matrix products in
the same precision, measured here.
"""

import resource
import sys
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.timing import take_turns
from benchmarks.variants import Settings, build_bench
from classroomkd.engine.precision import autocast
from classroomkd.mentors import Mentor

SIZES = (512, 1024, 2048)


def matmul_peak(device: torch.device, dtype: torch.dtype, repeats: int = 5) -> float:
    """Operations a second of the fastest square matrix product of some sizes."""
    squares = {str(n): torch.rand(2, n, n, device=device).to(dtype) for n in SIZES}
    jobs = {name: partial(torch.matmul, *pair) for name, pair in squares.items()}
    seconds = take_turns(jobs, repeats, device)
    return max(2 * n**3 / min(seconds[str(n)]) for n in SIZES)


def measure_roofline(
    settings: Settings, mentors: Sequence[Mentor], device: torch.device
) -> dict[str, Any]:
    """Operations a second of a classroom's networks, each alone, as its step runs them.

    Returns:
        ``peak``, ``precision``, and ``networks``: for the student (forward and backward) and each
        mentor (forward), ``operations`` a batch and ``rate`` a second.
    """
    classroom = build_bench(settings, device, mentors)
    precision = classroom.recipe.train.precision
    images = next(iter(classroom.train)).images

    def learn() -> None:
        with autocast(device, precision):
            logits = classroom.student(images)
        logits.float().logsumexp(1).mean().backward()

    def hear(mentor: Mentor) -> None:
        with autocast(device, precision):
            mentor(images)

    work: dict[str, tuple[nn.Module, Callable[[], None], bool]]
    work = {f"{settings.student}, student": (classroom.student, learn, True)}
    for mentor in classroom.mentors:
        work[f"{mentor.name}, mentor"] = (mentor.network, partial(hear, mentor), False)
    networks = {}
    for name, (network, job, backward) in work.items():
        operations = count_operations(network, images, backward=backward)
        networks[name] = {"operations": operations, "rate": operations / seconds_of(job, device)}
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    return {"peak": matmul_peak(device, dtype), "precision": precision, "networks": networks}


def peak_memory(device: torch.device) -> int:
    """Bytes that this process has held at most: of the GPU where there is one, else of the host."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def count_operations(network: nn.Module, images: Tensor, *, backward: bool) -> int:
    """Operations of a forward pass, and of the backward pass if asked for."""
    with FlopCounterMode(display=False) as counter:
        logits = network(images)
        if backward:
            logits.sum().backward()
    return counter.get_total_flops()


def seconds_of(work: Callable[[], object], device: torch.device, repeats: int = 7) -> float:
    """The median time of some work, after a warm-up."""
    return median(take_turns({"work": work}, repeats, device)["work"])
