"""The protocol of methods.

A method turns what student and mentors said about a batch into a `Lesson`. Shapes: ``M`` mentors,
``B`` samples, ``C`` classes.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from classroomkd.core import Choices, Lesson, make_lesson
from classroomkd.core.divergence import cross_entropy
from classroomkd.core.filter import Group, score_mentors
from classroomkd.core.inputs import parse
from classroomkd.core.lesson import squeeze_groups
from classroomkd.methods.heads import Head


@dataclass(frozen=True)
class Outputs:
    """What a network says about a batch.

    Attributes:
        logits: ``[B, C]``.
        features: its stage features by name, for methods that ask for them.
        classifier: its last layer, from the pooled feature to the logits, where it has one.
    """

    logits: Tensor
    features: Mapping[str, Tensor] = field(default_factory=dict)
    classifier: nn.Linear | None = None


_COUNTS = {"nobody": 0, "one": 1, "all": "many"}


class Method(nn.Module):
    """How mentor outputs become a loss: ``method(student, mentors, target) -> Lesson``.

    A subclass implements `lesson` and takes its options as keyword-only arguments with type
    annotations and defaults: they are what a recipe may set, and are validated by the annotations.
    Its parameters are trained along with the student and saved in checkpoints, and are never part
    of the exported student, unless its `head` says so.

    Attributes:
        name: the registered name.
        title: what it is called in papers.
        year: of publication, or None.
        kind: ``"alone"``, ``"logit"``, ``"feature"``, ...
        num_mentors: that it learns from: 0, 1 (the teacher) or ``"many"``.
        needs_features: whether it reads `Outputs.features`.
        needs_preactivations: whether it reads features before their last ReLU, too.
        needs_index: whether it keeps something for each sample of the training set: then it is
            shown the set by `on_train_set`, and `lesson` takes the samples' numbers as ``index``.
        needs_accuracy: whether it weighs mentors by their accuracy on development data, of which it
            is told by `set_accuracy` before training.
        mutual: whether mentors may train along with the student (see `peer_loss`).
        soft_targets: whether a target may be probabilities ``[B, C]``, as of mixed samples.
        bilevel: whether it learns something for what a step of the student brings: then it has an
            `outer_step`, which is called after each lesson, before the student takes its step.
        views: how many views of each sample it wants in a batch: first all samples in one view,
            then all in the next.
        own_task: the task of poses (``"mse"``, ``"ce"``) without which it would be another method;
            None where any will do.
        extra_epochs: how many epochs it wants before the run's own, at the run's learning rate; the
            run's schedule begins after them.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    year: ClassVar[int | None] = None
    kind: ClassVar[str] = "logit"
    num_mentors: ClassVar[Literal[0, 1, "many"]] = "many"
    needs_features: bool = False
    needs_preactivations: bool = False
    needs_index: bool = False
    needs_accuracy: bool = False
    mutual: bool = False
    soft_targets: bool = True
    bilevel: bool = False
    views: int = 1
    own_task: ClassVar[Literal["ce", "mse"] | None] = None
    extra_epochs: int = 0

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Take the names that methods had before 0.2, with a warning."""
        super().__init_subclass__(**kwargs)
        for old, new in {"listens": "num_mentors", "enroll": "on_train_set"}.items():
            if old not in vars(cls):
                continue
            text = (
                f"{cls.__name__}.{old} is now called {new}; the old name goes in the next release"
            )
            warnings.warn(text, DeprecationWarning, stacklevel=2)
            value = vars(cls)[old]
            setattr(cls, new, _COUNTS[value] if old == "listens" else value)

    def forward(
        self,
        student: Outputs | Tensor,
        mentors: Sequence[Outputs | Tensor] | Tensor,
        target: Tensor,
        index: Tensor | None = None,
    ) -> Lesson:
        """The lesson of a batch; plain tensors are taken as logits.

        Args:
            student: what the student says.
            mentors: what its mentors say.
            target: classes ``[B]``, or probabilities ``[B, C]`` if ``soft_targets``.
            index: ``[B]``, the samples' numbers in the training set, for methods that ask for them.

        Raises:
            ValueError: if the method learns from one mentor and is given more or fewer, or needs
                the samples' numbers and is given none.
        """
        taught = [m if isinstance(m, Outputs) else Outputs(m) for m in mentors]
        if self.num_mentors == 0:
            taught = []
        if self.num_mentors == 1 and len(taught) != 1:
            raise ValueError(f"{self.name} learns from one mentor, not from {len(taught)}")
        learner = student if isinstance(student, Outputs) else Outputs(student)
        if not self.needs_index:
            return self.lesson(learner, taught, target)
        if index is None:
            raise ValueError(
                f"{self.name} remembers every sample: give method(student, mentors, target, index)"
                " the samples' numbers in the training set"
            )
        return self.lesson(learner, taught, target, index)  # type: ignore[call-arg]

    def on_train_set(self, index: Tensor, target: Tensor) -> None:
        """Be shown the training set, before `setup`: its samples' numbers and labels, ``[N]``."""

    def setup(self, student: Outputs, mentors: Sequence[Outputs]) -> None:
        """Build trainable parts from the shapes of a first batch; called once, before training."""

    def set_accuracy(self, accuracy: Sequence[float]) -> None:
        """Be told the mentors' accuracies on development data, in percent, before `setup`."""

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Be told that epoch ``epoch`` of ``epochs`` begins: from 0, `extra_epochs` below it."""

    def outer_step(
        self,
        student: nn.Module,
        ask: Callable[[Tensor], Sequence[Outputs]],
        images: Tensor,
        target: Tensor,
        logits: Tensor,
    ) -> None:
        """Learn from what the student would become, where `bilevel`; the student stays as it is.

        Args:
            student: the network.
            ask: what the mentors say about images.
            images: of the batch of the last lesson.
            target: ``[B]``.
            logits: what the student said about it, ``[B, C]``.
        """

    def term(
        self, student: Outputs, mentor: Outputs, target: Tensor, index: Tensor | None = None
    ) -> Tensor:
        """What one mentor adds to the loss, weight included: ``[B]``, or ``[]`` for the batch.

        Implemented by methods that listen to one mentor; with it they can be part of a `classroom`.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement term()")

    def not_set_up(self, lack: str) -> RuntimeError:
        """The error of a method whose trainable parts are not those of the networks at hand."""
        return RuntimeError(
            f"{self.name} {lack}: call method.setup(student, mentors) with the outputs of a first"
            " batch, before the optimizer is made"
        )

    def composition(self) -> tuple[Group, Choices] | None:
        """What is ranked together, and the four choices of now, for a method made of such alone.

        It is what other tasks, whose samples have units, make their lessons of.
        """
        return None

    def head(self) -> Head | None:
        """What the student is judged and deployed with in place of its classifier, if anything."""
        return None

    def lesson(self, student: Outputs, mentors: Sequence[Outputs], target: Tensor) -> Lesson:
        """What this method makes of a batch; to be implemented."""
        raise NotImplementedError(f"{type(self).__name__} does not implement lesson()")

    def peer_loss(
        self, student: Outputs, mentors: Sequence[Outputs], trained: Sequence[int], target: Tensor
    ) -> Tensor:
        """The loss of the mentors that train along: each learns from all others as a student does.

        Args:
            student: what the student says.
            mentors: what its mentors say; with gradient where they train along.
            trained: their places among the mentors, at least one.
            target: ``[B]``.
        """
        losses = []
        for place in trained:
            others = [student, *mentors[:place], *mentors[place + 1 :]]
            losses.append(self.lesson(mentors[place], others, target).loss)
        return torch.stack(losses).sum()


class SingleMethod(Method):
    """A method that learns from one mentor by a `term` beside the cross-entropy.

    Attributes:
        task_weight: of the cross-entropy; with 0, no gradient goes to the student's classifier.
    """

    num_mentors = 1
    task_weight: float = 1.0

    def lesson(
        self,
        student: Outputs,
        mentors: Sequence[Outputs],
        target: Tensor,
        index: Tensor | None = None,
    ) -> Lesson:
        """The cross-entropy and the mentor's term."""
        term = self.term(student, mentors[0], target, index)
        return feature_lesson(student, mentors, target, term.unsqueeze(0), self.task_weight)


def feature_lesson(
    student: Outputs,
    mentors: Sequence[Outputs],
    target: Tensor,
    mentor_loss: Tensor,
    task_weight: float = 1.0,
) -> Lesson:
    """The lesson of a cross-entropy and of terms that a method has computed by itself.

    Args:
        student: what the student says.
        mentors: what its mentors say.
        target: ``[B]``.
        mentor_loss: of each mentor, weight included: ``[M, B]``, or ``[M]`` where it relates
            samples to each other.
        task_weight: of the cross-entropy; 0 leaves it out.
    """
    blocks, others, targets, _, _ = parse(student.logits, [m.logits for m in mentors], target)
    scores = score_mentors(blocks, others, targets)
    # A gradient of 0 would let weight decay and momentum move what nothing teaches; none does not.
    logits = student.logits if task_weight else student.logits.detach()
    task_loss = task_weight * cross_entropy(logits, targets[0].squeeze(1))
    return squeeze_groups(make_lesson(scores, task_loss, mentor_loss))
