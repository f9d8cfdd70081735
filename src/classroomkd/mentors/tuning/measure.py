"""The fastest variant of a network, by a short measurement that is kept for the next time."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from classroomkd.mentors.tuning.cache import TuningCache, cache_path, circumstances
from classroomkd.mentors.tuning.trial import Trial
from classroomkd.mentors.tuning.variants import Tuned, Variant

Clock = Callable[[], float]

ROUNDS = 3, 30  # at least and at most


@dataclass(frozen=True)
class Timing:
    """What was measured of a variant.

    Attributes:
        variant: how the network was run.
        milliseconds: of a forward pass, the median over rounds.
        compile_seconds: of the first call of a compiled one, else 0.
        peak_bytes: of GPU memory in a pass, its images and weights included; None on a CPU.
    """

    variant: Variant
    milliseconds: float
    compile_seconds: float = 0.0
    peak_bytes: int | None = None


@dataclass(frozen=True)
class Choice:
    """The variant to use, and how the others did.

    Attributes:
        variant: the chosen one.
        timings: of the candidates that were measured, the fastest first.
        rejected: candidates that cannot be used, and why: an error, or results that differ.
        cached: whether the timings come from an earlier measurement.
    """

    variant: Variant
    timings: tuple[Timing, ...]
    rejected: Mapping[Variant, str]
    cached: bool


def choose_variant(
    network: nn.Module,
    example: Tensor,
    candidates: Sequence[Variant],
    *,
    budget_seconds: float = 5.0,
    steps_expected: int = 0,
    cache: TuningCache | None = None,
    clock: Clock = time.perf_counter,
) -> Choice:
    """Find out which variant of a frozen network is the fastest.

    Candidates take turns, so that whatever else the machine does meets all of them. Timings are
    kept in a file, by architecture, input, device, threads and version of torch. Results depend on
    the weights, and are checked each time: logits and stages must be float32's on the example and
    on random images, within `tolerance`, and name the same class. A compiled candidate is compiled
    where it is timed; else the same variant is checked without.

    Args:
        network: images to logits; stays as it is.
        example: images ``[B, 3, H, W]`` float32 of the size that it will see, on its device.
        candidates: what to choose from. If none can be used, ``Variant()`` is chosen.
        budget_seconds: of measuring, beyond three rounds, first calls and compilation.
        steps_expected: calls to come. A compiled variant is chosen where the time that it saves in
            them exceeds that of compiling.
        cache: where timings are kept; by default the user's file, `cache_path`.
        clock: seconds.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from classroomkd.mentors.tuning import list_variants
        >>> from classroomkd.models import build_model
        >>> network, images = build_model("resnet8", 10), torch.rand(8, 3, 32, 32)
        >>> cache = TuningCache(Path(tempfile.mkdtemp()) / "tuning.json")
        >>> choice = choose_variant(
        ...     network, images, list_variants("fp32"), budget_seconds=0, cache=cache
        ... )
        >>> choice.variant.precision, len(choice.timings), choice.rejected
        ('fp32', 4, {})
    """
    cache = cache or TuningCache(cache_path())
    where = circumstances(network, example) | {"candidates": [str(c) for c in candidates]}
    trial = Trial(network, example)
    timings = _read(cache.get(where))
    cached = timings is not None
    if timings is None:
        timings = _measure(trial, candidates, budget_seconds, clock)
        if timings:
            cache.put(where, [asdict(timing) for timing in timings])
    timings.sort(key=lambda timing: timing.milliseconds)
    variant = _pick_sound(timings, steps_expected, trial)
    return Choice(variant, tuple(timings), trial.rejected, cached)


def pick(timings: Sequence[Timing], steps_expected: int) -> Variant:
    """The variant that takes the least time for all steps, compilation included.

    Example:
        >>> eager, compiled = Timing(Variant(), 10.0), Timing(Variant(compiled=True), 8.0, 20.0)
        >>> pick([eager, compiled], 9_000).compiled, pick([eager, compiled], 11_000).compiled
        (False, True)
    """

    def seconds(timing: Timing) -> float:
        return timing.compile_seconds + steps_expected * timing.milliseconds / 1000

    # Where none are expected, all eager ones take no time: the faster a step, the better.
    return min(timings, key=lambda t: (seconds(t), t.milliseconds)).variant


def _pick_sound(timings: Sequence[Timing], steps_expected: int, trial: Trial) -> Variant:
    """The best whose results are right, or the plain one."""
    usable = list(timings)
    while usable:
        best = pick(usable, steps_expected)
        if trial.holds(best):
            return best
        usable = [timing for timing in usable if timing.variant != best]
    return Variant()


def _measure(
    trial: Trial, candidates: Sequence[Variant], budget_seconds: float, clock: Clock
) -> list[Timing]:
    """Time each candidate whose results are right."""
    device, images = trial.example.device, trial.example
    networks: dict[Variant, Tuned] = {}
    first: dict[Variant, float] = {}
    for variant in filter(trial.holds, candidates):
        network = trial.build(variant)
        start = _now(clock, device)
        if trial.works(network):
            networks[variant], first[variant] = network, _now(clock, device) - start
    seconds: dict[Variant, list[float]] = {variant: [] for variant in networks}
    end = clock() + budget_seconds
    for number in range(ROUNDS[1]):
        if number >= ROUNDS[0] and clock() >= end:
            break
        for variant, network in networks.items():
            start = _now(clock, device)
            network(images)
            seconds[variant].append(_now(clock, device) - start)
    return [
        Timing(
            variant,
            milliseconds=1000 * median(seconds[variant]),
            compile_seconds=first[variant] if variant.compiled else 0.0,
            peak_bytes=_peak_bytes(network, images),
        )
        for variant, network in networks.items()
    ]


def _now(clock: Clock, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock()


def _peak_bytes(network: nn.Module, images: Tensor) -> int | None:
    """Of the network's weights and a pass; other networks' weights do not count."""
    device = images.device
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    network(images)
    during = torch.cuda.max_memory_allocated(device) - before
    tensors = (*network.parameters(), *network.buffers())
    return during + sum(tensor.nbytes for tensor in (images, *tensors))


def _read(value: Any) -> list[Timing] | None:
    """Timings as the cache gives them; None where there are none, or none that can be read."""
    try:
        return [Timing(**{**row, "variant": Variant(**row["variant"])}) for row in value]
    except (TypeError, KeyError):
        return None
