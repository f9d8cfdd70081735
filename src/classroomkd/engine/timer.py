"""How long the parts of a step take in a classroom, and an evaluation."""

from collections.abc import Callable
from itertools import islice
from statistics import median
from time import perf_counter

import torch
from torch import Tensor

from classroomkd.engine.classroom import Classroom
from classroomkd.engine.optim import build_optimizer
from classroomkd.engine.step import training_step
from classroomkd.models import deployable

STEPS = 7  # that are timed
PARTS = ("views", "mentors", "student", "loss", "update")
"""Of a step: what the student says, what the method makes of it, and its gradients and update."""
EVALUATION = "evaluation"
EVALUATION_BATCH = 512


class StepTimer:
    """Times of the laps of several rounds, by name.

    Args:
        device: has done what it was asked when a lap ends.
        clock: seconds.

    Example:
        >>> timer = StepTimer(torch.device("cpu"))
        >>> timer.lap("views")
        >>> timer.milliseconds("views") >= 0
        True
    """

    def __init__(self, device: torch.device, clock: Callable[[], float] = perf_counter) -> None:
        self.device, self.clock = device, clock
        self.seconds: dict[str, list[float]] = {}
        self.mark = self._now()

    def start(self) -> None:
        """The time since the lap before belongs to nobody."""
        self.mark = self._now()

    def lap(self, name: str) -> None:
        """The time since the lap before belongs to this name."""
        now = self._now()
        self.seconds.setdefault(name, []).append(now - self.mark)
        self.mark = now

    def milliseconds(self, name: str) -> float:
        """The median of a name's laps."""
        return 1000 * median(self.seconds[name])

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return self.clock()


def time_steps(classroom: Classroom, steps: int = STEPS) -> StepTimer:
    """Hold some lessons, in which the student learns, and run it as an evaluation does.

    Returns:
        Times of a step's `PARTS`, and of the `EVALUATION` of as many samples as
        `evaluation_samples` says. Of mentors that train along, the mentors' part is what they say,
        and the update contains what they learn.
    """
    student, method, train = classroom.student, classroom.method, classroom.recipe.train
    optimizer = build_optimizer([*student.parameters(), *method.parameters()], train)
    classroom.begin_epoch(0, store=False)
    timer, batch = StepTimer(classroom.device), None
    for batch in islice(classroom.train, steps):
        timer.lap("views")
        lesson = training_step(classroom, batch, timer.lap)
        lesson.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        timer.lap("update")
    if batch is not None:
        _evaluate(classroom, batch[0], timer)
    return timer


def evaluation_samples(classroom: Classroom) -> int:
    """How many samples an evaluation runs at once, at most."""
    return min(EVALUATION_BATCH, len(classroom.train.dataset))


def _evaluate(classroom: Classroom, inputs: Tensor, timer: StepTimer) -> None:
    count = evaluation_samples(classroom)
    many = inputs.repeat(-(-count // len(inputs)), *(1 for _ in inputs.shape[1:]))[:count]
    network = deployable(classroom.student, classroom.method).eval()
    with torch.inference_mode():
        for _ in range(2):  # the first may find out how to run the network
            timer.start()
            network(many)
            timer.lap(EVALUATION)
            if timer.milliseconds(EVALUATION) > 1000:
                break
    network.train()
