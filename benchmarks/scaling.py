"""What a step costs with more and more mentors, live and from the bank, over the student's alone.

All take turns within each round, and ratios are taken to the student alone of the same round.
"""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.timing import ratios, whole_steps
from benchmarks.variants import Settings, add_bank, build_bench, plain_loop
from classroomkd.engine.classroom import Classroom
from classroomkd.engine.timer import StepTimer
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
        timer = StepTimer(device)
        for _ in range(settings.rounds + 1):
            plain_loop(alone, whole_steps(timer, "alone", settings.steps))
            for (kind, count), classroom in classrooms.items():
                plain_loop(classroom, whole_steps(timer, f"{kind} {count}", settings.steps))
    seconds = {name: laps[1:] for name, laps in timer.seconds.items()}  # the first fills the banks
    table: dict[str, dict[int, list[float]]] = {"live": {}, "banked": {}}
    for kind, count in classrooms:
        table[kind][count] = ratios(seconds[f"{kind} {count}"], seconds["alone"])
    return table
