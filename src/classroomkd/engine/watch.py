"""How long the parts of a step take in a classroom, and an evaluation."""

from itertools import islice
from statistics import median
from time import perf_counter

import torch
from torch import Tensor

from classroomkd.engine.classroom import Classroom
from classroomkd.engine.mentor_outputs import outputs
from classroomkd.engine.optim import build_optimizer
from classroomkd.engine.precision import autocast
from classroomkd.engine.views import EVALUATION_BATCH
from classroomkd.methods import Outputs
from classroomkd.models import deployable

STEPS = 7  # that are timed
PARTS = ("views", "mentors", "student", "loss")  # of a step
EVALUATION = "evaluation"


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
        Times of a step's `PARTS`, and of the `EVALUATION` of as many images as
        `evaluation_images` says. Of mentors that train along, the mentors' part is what they say,
        and the loss contains what they learn.
    """
    student, method, train = classroom.student, classroom.method, classroom.recipe.train
    learning = [place for place, mentor in enumerate(classroom.mentors) if mentor.learns]
    optimizer = build_optimizer([*student.parameters(), *method.parameters()], train)
    classroom.begin_epoch(0)
    watch, images = Watch(classroom.device), torch.empty(0)
    for batch in islice(classroom.train, STEPS):
        watch.lap("views")
        with autocast(classroom.device, train.precision):
            taught = classroom.mentor_outputs(batch)
        watch.lap("mentors")
        with autocast(classroom.device, train.precision):
            learnt = outputs(student, batch.images, method)
        learnt.logits.float().logsumexp(1).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        watch.lap("student")
        features = {name: f.detach().requires_grad_() for name, f in learnt.features.items()}
        shown = Outputs(learnt.logits.detach().requires_grad_(), features)
        loss = method(shown, taught, batch.target, batch.index).loss
        if learning:
            loss = loss + method.peer_loss(shown, taught, learning, batch.target)
        loss.backward()
        watch.lap("loss")
        images = batch.images
    _evaluate(classroom, images, watch)
    return watch


def evaluation_images(classroom: Classroom) -> int:
    """How many images an evaluation runs at once, at most."""
    return min(EVALUATION_BATCH, len(classroom.train.image_set))


def _evaluate(classroom: Classroom, images: Tensor, watch: Watch) -> None:
    count = evaluation_images(classroom)
    many = images.repeat(-(-count // len(images)), 1, 1, 1)[:count]
    network = deployable(classroom.student, classroom.method).eval()
    with torch.inference_mode():
        for _ in range(2):  # the first may find out how to run the network
            watch.start()
            network(many)
            watch.lap(EVALUATION)
            if watch.milliseconds(EVALUATION) > 1000:
                break
    network.train()
