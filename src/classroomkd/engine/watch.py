"""How long the parts of a step take in a classroom, and an evaluation."""

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


class Watch:
    """Times of the laps of several rounds, by name.

    Example:
        >>> watch = Watch(torch.device("cpu"))
        >>> watch.lap("views")
        >>> watch.milliseconds("views") >= 0
        True
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds = device, dict[str, list[float]]()
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
        return perf_counter()


def watch_steps(classroom: Classroom) -> Watch:
    """Hold some lessons, in which the student learns, and run it as an evaluation does.

    Returns:
        Times of a step's `PARTS`, and of the `EVALUATION` of as many samples as
        `evaluation_samples` says. Of mentors that train along, the mentors' part is what they say,
        and the update contains what they learn.
    """
    student, method, train = classroom.student, classroom.method, classroom.recipe.train
    optimizer = build_optimizer([*student.parameters(), *method.parameters()], train)
    classroom.begin_epoch(0, store=False)
    watch, batch = Watch(classroom.device), None
    for batch in islice(classroom.train, STEPS):
        watch.lap("views")
        lesson = training_step(classroom, batch, watch.lap)
        lesson.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        watch.lap("update")
    if batch is not None:
        _evaluate(classroom, batch[0], watch)
    return watch


def evaluation_samples(classroom: Classroom) -> int:
    """How many samples an evaluation runs at once, at most."""
    return min(EVALUATION_BATCH, len(classroom.train.dataset))


def _evaluate(classroom: Classroom, inputs: Tensor, watch: Watch) -> None:
    count = evaluation_samples(classroom)
    many = inputs.repeat(-(-count // len(inputs)), *(1 for _ in inputs.shape[1:]))[:count]
    network = deployable(classroom.student, classroom.method).eval()
    with torch.inference_mode():
        for _ in range(2):  # the first may find out how to run the network
            watch.start()
            network(many)
            watch.lap(EVALUATION)
            if watch.milliseconds(EVALUATION) > 1000:
                break
    network.train()
