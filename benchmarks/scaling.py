"""What a step costs with more and more mentors, live and from the bank, over the student's alone.

All take turns within each round, and ratios are taken to the student alone of the same round.
"""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.clock import Clock, ratios
from benchmarks.variants import Settings, add_bank, build_bench, plain_loop
from classroomkd.engine.classroom import Classroom
from classroomkd.mentors import Mentor


def measure_scaling(
    settings: Settings, mentors: Sequence[Mentor], device: torch.device
) -> dict[str, dict[int, list[float]]]:
    """Time of a step over that of the student alone, one value a round.

    Args:
        settings: whose student and counts these are.
        mentors: as many as the largest count.
        device: where everything runs.

    Returns:
        For ``"live"`` and ``"banked"``, for each count of mentors.
    """
    with TemporaryDirectory() as folder:
        classrooms: dict[tuple[str, int], Classroom] = {}
        for count in settings.counts:
            classrooms["live", count] = build_bench(settings, device, mentors[:count])
            if count:
                classroom = build_bench(settings, device, mentors[:count])
                add_bank(classroom, Path(folder) / str(count))
                classrooms["banked", count] = classroom
        alone = build_bench(settings, device, ())
        seconds: dict[tuple[str, int], list[float]] = {key: [] for key in classrooms}
        base: list[float] = []
        for number in range(settings.rounds + 1):
            for key, classroom in [(None, alone), *classrooms.items()]:
                clock = Clock(device, settings.steps)
                plain_loop(classroom, clock)
                if number:  # the first round is warm-up, and fills the banks
                    (base if key is None else seconds[key]).append(clock.seconds())
    table: dict[str, dict[int, list[float]]] = {"live": {}, "banked": {}}
    for (kind, count), values in seconds.items():
        table[kind][count] = ratios(values, base)
    return table
