"""The protocol of methods.

A method turns what student and mentors said about a batch into a `Lesson`. Shapes: ``M`` mentors,
``B`` samples, ``C`` classes.
"""

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from classroomkd.core import Lesson, Signals, make_lesson, make_signals
from classroomkd.core.filter import score_mentors, unit_mean
from classroomkd.core.lesson import labels, squeeze_groups
from classroomkd.core.signals import Blocks
from classroomkd.methods.heads import ReplacedHead


@dataclass(frozen=True)
class Outputs:
    """What a network says about a batch.

    Attributes:
        logits: ``[B, C]``; where samples have units, ``[B, U, K]`` of their first block.
        features: its stage features by name, for methods that ask for them.
        classifier: its last layer, from the pooled feature to the logits, where it has one.
        more: further blocks ``[B, U, K]``, where units have several categorical axes.
        extras: what else the task reads, by name, such as decoded points: ``[B, ...]``.
        mask: ``[U]`` bool, the units that it speaks about; None for all.
    """

    logits: Tensor
    features: Mapping[str, Tensor] = field(default_factory=dict)
    classifier: nn.Linear | None = None
    more: tuple[Tensor, ...] = ()
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    mask: Tensor | None = None

    @property
    def blocks(self) -> tuple[Tensor, ...]:
        """The logits of every block."""
        return self.logits, *self.more

    def map(self, function: Callable[[Tensor], Tensor]) -> "Outputs":
        """The same with a function of each tensor, whose rows are samples."""
        return replace(
            self,
            logits=function(self.logits),
            features={name: function(value) for name, value in self.features.items()},
            more=tuple(map(function, self.more)),
            extras={name: function(value) for name, value in self.extras.items()},
        )


def read_outputs(
    network: Any, inputs: Any, *, features: bool = False, preactivations: bool = False
) -> Outputs:
    """What a network of classes says about inputs.

    Args:
        network: inputs to logits; with ``features``, it has ``forward_stages``.
        inputs: of a batch.
        features: whether to tell its stage features, and its classifier.
        preactivations: whether to tell features before their last ReLU, too.

    Raises:
        ValueError: if the network shows no features.
    """
    if not features:
        return Outputs(network(inputs))
    stages = shown_stages(network, inputs, preactivations)
    return Outputs(stages.pop("logits"), stages, getattr(network, "classifier", None))


def shown_stages(network: Any, inputs: Any, preactivations: bool) -> dict[str, Any]:
    """The stage features of a network by name, and its ``logits``.

    Raises:
        ValueError: if it shows none.
    """
    name = getattr(network, "name", type(network).__name__)
    if not hasattr(network, "forward_stages"):
        raise ValueError(f"{name} shows no features: it has no forward_stages")
    if not preactivations:
        return dict(network.forward_stages(inputs))
    known = inspect.signature(network.forward_stages).parameters
    if not {"preactivations", "options"} & known.keys():
        raise ValueError(f"{name} does not show its stages before their last ReLU")
    return dict(network.forward_stages(inputs, preactivations=True))


_COUNTS = {"nobody": 0, "one": 1, "all": "many"}


class Method(nn.Module):
    """How mentor outputs become a loss: ``method(signals) -> Lesson``.

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
        takes_units: whether samples may have units (joints, tokens): it reads blocks of logits, or
            features, but no logits ``[B, C]`` or classes.
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
    takes_units: bool = False
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
        student: Signals | Outputs | Tensor,
        mentors: Sequence[Outputs | Tensor] | Tensor = (),
        target: Tensor | None = None,
        index: Tensor | None = None,
    ) -> Lesson:
        """The lesson of a batch, of signals or of logits in short.

        Args:
            student: the signals of any task; or what the student says, where plain tensors are
                taken as logits, and the others follow.
            mentors: what its mentors say.
            target: classes ``[B]``, or probabilities ``[B, C]`` if ``soft_targets``; None for
                methods that need no labels.
            index: ``[B]``, the samples' numbers in the training set, for methods that ask for them.

        Raises:
            ValueError: if the method learns from one mentor and is given more or fewer, or needs
                the samples' numbers and is given none.
        """
        if isinstance(student, Signals):
            signals = student
        else:
            said = [student, *(mentors if self.num_mentors != 0 else ())]
            signals = outputs_as_signals([_as_outputs(one) for one in said], target, index)
        count = len(signals.mentors[0])
        if self.num_mentors == 0 and count:
            none = tuple(block[:0] for block in signals.mentors)
            signals = replace(
                signals, mentors=none, mentor_mask=None, outputs=signals.outputs[:1],
                rank_divergence=_own_rank(signals),
            )  # fmt: skip
        if self.num_mentors == 1 and count != 1:
            raise ValueError(f"{self.name} learns from one mentor, not from {count}")
        if self.needs_index and signals.index is None:
            raise ValueError(
                f"{self.name} remembers every sample: give method(student, mentors, target, index)"
                " the samples' numbers in the training set"
            )
        return self.lesson(signals)

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

    def head(self) -> ReplacedHead | None:
        """What the student is judged and deployed with in place of its classifier, if anything."""
        return None

    def lesson(self, signals: Signals) -> Lesson:
        """What this method makes of a batch; to be implemented."""
        raise NotImplementedError(f"{type(self).__name__} does not implement lesson()")

    def peer_loss(
        self,
        student: Outputs,
        mentors: Sequence[Outputs],
        trained: Sequence[int],
        target: Tensor,
        signals: "Callable[[Outputs, Sequence[Outputs]], Signals] | None" = None,
    ) -> Tensor:
        """The loss of the mentors that train along: each learns from all others as a student does.

        Args:
            student: what the student says.
            mentors: what its mentors say; with gradient where they train along.
            trained: their places among the mentors, at least one.
            target: ``[B]``.
            signals: of a task, from what one of them says as a student, and from all others; as in
                classification if left out.
        """
        if signals is None:
            signals = lambda own, others: outputs_as_signals([own, *others], target)  # noqa: E731
        losses = []
        for place in trained:
            others = [student, *mentors[:place], *mentors[place + 1 :]]
            losses.append(self.lesson(signals(mentors[place], others)).loss)
        return torch.stack(losses).sum()


class SingleMethod(Method):
    """A method that learns from one mentor by a `term` beside the cross-entropy.

    Attributes:
        task_weight: of the cross-entropy; with 0, no gradient goes to the student's classifier.
    """

    num_mentors = 1
    task_weight: float = 1.0

    def lesson(self, signals: Signals) -> Lesson:
        """The cross-entropy and the mentor's term."""
        student, mentor = signals.outputs
        term = self.term(student, mentor, signals.label, signals.index)
        return feature_lesson(signals, term.unsqueeze(0), self.task_weight)


def outputs_as_signals(
    said: Sequence[Outputs], target: Tensor | None, index: Tensor | None = None
) -> Signals:
    """The signals of classification: what the student and then each mentor say, and the target."""
    student, *mentors = said
    signals = make_signals(student.logits, [mentor.logits for mentor in mentors], target)
    return replace(signals, outputs=tuple(said), index=index)


def _as_outputs(said: Outputs | Tensor) -> Outputs:
    return said if isinstance(said, Outputs) else Outputs(said)


def _own_rank(signals: Signals) -> tuple[Tensor, Tensor] | None:
    """The divergences to rank by, without those of mentors."""
    if signals.rank_divergence is None:
        return None
    own, others = signals.rank_divergence
    return own, others[:0]


def _needed(target: Blocks | None) -> Blocks:
    if target is None:
        raise ValueError("this method needs labels: give a target")
    return target


def feature_lesson(signals: Signals, mentor_loss: Tensor, task_weight: float = 1.0) -> Lesson:
    """The lesson of the student's own loss and of terms that a method has computed by itself.

    Args:
        signals: of the batch, with a target.
        mentor_loss: of each mentor, weight included: ``[M, B]``, or ``[M]`` where it relates
            samples to each other.
        task_weight: of its own loss; 0 leaves it out.
    """
    # Without units, of what the term is made of, so that gradients add up in one order.
    own = signals.student if signals.has_units else (signals.outputs[0].logits.unsqueeze(1),)
    # A gradient of 0 would let weight decay and momentum move what nothing teaches; none does not.
    own = own if task_weight else tuple(block.detach() for block in own)
    loss = (signals.task_loss or labels)(own, _needed(signals.target))
    task_loss = task_weight * unit_mean(loss, signals.unit_weight)
    return squeeze_groups(make_lesson(score_mentors(signals), task_loss, mentor_loss))
