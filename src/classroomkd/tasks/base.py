"""The protocol of tasks: all that the engine asks about what is learnt.

A task says what a sample is, how a student answers, how a mentor is made to answer in the student's
output space, and how well a student does. Everything else is the engine's, and the same for every
task. A new task is a folder with a recipe and a `Task`, made known by
`classroomkd.tasks.registry.register_task`.

Shapes: ``B`` samples of a batch, ``M`` mentors, ``U`` units of a sample, ``K`` bins.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, get_args

import torch
from torch import Tensor, nn

from classroomkd.core import Signals
from classroomkd.data.epochs import Epochs
from classroomkd.errors import ClassroomError
from classroomkd.mentors import Mentor
from classroomkd.methods import Outputs
from classroomkd.methods.base import outputs_as_signals, read_outputs

AllGather = Callable[[Any], list[Any]]
"""Every process's value, by process: each of those that evaluate together calls it alike. Values
are pickled: tensors go by way of the host."""


def alone(value: Any) -> list[Any]:
    """What `AllGather` is in a process by itself."""
    return [value]


class SampleSet(Protocol):
    """A set of samples, such as the training set.

    Attributes:
        index: ``[N]`` int64, their numbers, which key their views.
        fingerprint: what its content is known by.
        notes: what its user should know: files left out, classes that are missing.
    """

    index: Tensor
    fingerprint: str
    notes: Sequence[str]

    def __len__(self) -> int:
        """``N``."""
        ...


class Place(NamedTuple):
    """Where a task's batches are made, and which part of each.

    ``device`` of the networks; ``part`` of each batch, from 0, and how many equal ones there are;
    ``sharing``, how many processes share this machine.
    """

    device: torch.device
    part: tuple[int, int] = (0, 1)
    sharing: int = 1


class Saved(NamedTuple):
    """A student from its files, on the host.

    ``epoch`` (from 0) and ``result``, its headline, are those it was saved with; ``outputs`` are
    the names of its outputs.
    """

    network: Any
    epoch: int
    result: float | None
    outputs: tuple[str, ...]


class Task(ABC):
    """What the engine asks of a task; one object a run.

    Args:
        recipe: of the task's own class.
        place: where batches are made.

    Attributes:
        name: as in ``task: name`` of a recipe.
        samples: what its users call samples.
        outputs: what they call a student's outputs.
        headline: the result that a student is chosen by; more is better, in percent.
    """

    name: ClassVar[str]
    samples: ClassVar[str] = "samples"
    outputs: ClassVar[str] = "classes"
    headline: str

    def __init__(self, recipe: Any, place: Place) -> None:
        self.recipe, self.place = recipe, place

    @abstractmethod
    def training_sets(self) -> tuple[Any, Any | None]:
        """What is learnt from, and the development split (None if its size is 0).

        Raises:
            ClassroomError: if the data cannot be had.
        """

    @abstractmethod
    def test_set(self) -> Any:
        """What students are judged by at the end."""

    @abstractmethod
    def training_loader(
        self, dataset: Any, *, views: int = 1, batch_size: int | None = None
    ) -> Epochs:
        """The training set in the recipe's views: in batches of a step, in an order an epoch.

        Args:
            dataset: what is shown.
            views: how many of a sample are in a batch, where the task has more than one.
            batch_size: for all samples in their own order, as the bank wants them, in such batches.
        """

    @abstractmethod
    def plain_loader(self, dataset: Any) -> Epochs:
        """Plain views of all samples, in their own order."""

    @abstractmethod
    def build_student(self, dataset: Any) -> Any:
        """The recipe's student for the training set, with its first weights, on the host."""

    @abstractmethod
    def open_mentor(self, entry: Any, name: str, student: Any, dataset: Any) -> Mentor:
        """A mentor from its entry in the recipe, on the host.

        Raises:
            ClassroomError: if its weights cannot be had or do not fit the student's outputs.
        """

    def prepare(self, student: Any, mentors: Sequence[Mentor], dataset: Any) -> Iterable[str]:
        """Settle what the recipe leaves open, once all are there; what a user should know of it."""
        return ()

    @abstractmethod
    def example(self, dataset: Any, count: int) -> Any:
        """The plain input of the first samples, on the device, from which shapes are known."""

    def labels(self, dataset: Any) -> Tensor:
        """The class of every sample, ``[N]``, for methods that remember samples by class.

        As it stands: the set's ``target``, and one class for all where it has none.
        """
        return getattr(dataset, "target", torch.zeros_like(dataset.index))

    def evaluate_mentor(self, mentor: Mentor, loader: Epochs) -> float:
        """A mentor's headline on plain views, for methods that weigh mentors by it."""
        raise ClassroomError(
            f"mentors are not judged before training in the task '{self.name}': leave out what"
            " weighs them by their accuracy, such as method.prior"
        )

    def student_outputs(
        self,
        student: nn.Module,
        inputs: Any,
        *,
        features: bool = False,
        preactivations: bool = False,
    ) -> Outputs:
        """What the student says about a batch's inputs, with gradient."""
        return read_outputs(student, inputs, features=features, preactivations=preactivations)

    def signals(self, student: Outputs, mentors: Sequence[Outputs], batch: Any) -> Signals:
        """What any method reads about a batch. As it stands: of classes ``[B]`` or ``[B, C]``."""
        return outputs_as_signals([student, *mentors], batch.target, batch.index)

    def bins(self, batch: Any) -> tuple[Tensor, ...]:
        """The true bin of every unit, one ``[B]`` or ``[B, U]`` a block: the bank keeps it exact.

        As it stands: the (most probable) class of the target.
        """
        target = batch.target
        return (target.argmax(-1) if target.is_floating_point() else target,)

    def view_key(self, dataset: Any) -> dict[str, Any]:
        """All that a view of a sample follows from, and the student's output space, for the bank.

        Raises:
            ClassroomError: where the task has no bank.
        """
        raise NotImplementedError(f"the task '{self.name}' has no bank")

    @abstractmethod
    def evaluate(
        self, network: Any, loader: Epochs, all_gather: AllGather = alone
    ) -> dict[str, float]:
        """How well a network does on plain views: `headline` and other results by name.

        Several processes may share the batches. Each then puts what it found together with what
        the others found, and all have the results of one process that sees every batch.

        Args:
            network: on the loader's device.
            loader: of this process's batches, which may be none; its ``dataset`` is the whole set.
            all_gather: called once, after the last batch.
        """

    @abstractmethod
    def save(
        self, student: Any, folder: Path, dataset: Any, epoch: int, result: float | None
    ) -> None:
        """Write a student's files.

        Args:
            student: on any device.
            folder: that is there.
            dataset: the training set, which says what its outputs are.
            epoch: from 0.
            result: its headline on the development split, or None without one.
        """

    @abstractmethod
    def load(self, folder: Path) -> "Saved":
        """A student from its files."""

    @abstractmethod
    def output_names(self, dataset: Any) -> tuple[str, ...]:
        """What the outputs of a student of these samples are: its classes, its joints."""

    def illustrate(self, classroom: Any, student: Any, folder: Path) -> None:
        """Keep in the run folder what `figures` draws beside numbers."""
        return

    def examine(self, classroom: Any, views: Any, taught: Sequence[Outputs]) -> "Iterable[Finding]":
        """What the doctor says about the task's data and mentors.

        Args:
            classroom: that was built from the recipe.
            views: a batch of training views.
            taught: what the mentors say about it.
        """
        return ()

    @staticmethod
    def figures(folder: Path, prefix: str) -> list[str]:
        """Pictures of a run for its report, as SVG, from what `illustrate` kept.

        Args:
            folder: of the run.
            prefix: begins every id; different for each run of a page.
        """
        return []


Verdict = Literal["ok", "warning", "wrong"]
Aspect = Literal[
    "frozen", "finite", "order", "pixels", "accuracy", "balance", "teaching", "twins", "data",
    "plan",
]  # fmt: skip
ASPECTS: tuple[Aspect, ...] = get_args(Aspect)
"""What is looked at; the first matters most."""


@dataclass(frozen=True)
class Finding:
    """One thing that the doctor looked at.

    Attributes:
        verdict: whether it is as it should be.
        subject: a mentor's name, or a part of the classroom.
        text: what was seen, in words.
        aspect: what was looked at.
        cure: what to do, where something is not as it should be.
    """

    verdict: Verdict
    subject: str
    text: str
    aspect: Aspect
    cure: str = ""
