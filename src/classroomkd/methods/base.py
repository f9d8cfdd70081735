"""The protocol of methods, and their registry.

A method turns what student and mentors said about a batch into a `Lesson`. Shapes: ``M`` mentors,
``B`` samples, ``C`` classes.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from torch import Tensor, nn

from classroomkd.core import Choices, Lesson, compose_lesson, make_lesson
from classroomkd.core.divergence import cross_entropy
from classroomkd.core.filter import Group, standing
from classroomkd.core.inputs import parse
from classroomkd.core.lesson import mentor_terms, without_ranks
from classroomkd.errors import nearest, unknown_name
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
        listens: to ``"nobody"``, to ``"one"`` mentor (the teacher), or to ``"all"`` mentors.
        needs_features: whether it reads `Outputs.features`.
        needs_preactivations: whether it reads features before their last ReLU, too.
        needs_index: whether it keeps something for each sample of the training set: then it is
            shown the set by `enroll`, and `lesson` takes the samples' numbers as ``index``.
        mutual: whether mentors may train along with the student (see `peer_loss`).
        soft_targets: whether a target may be probabilities ``[B, C]``, as of mixed samples.
        views: how many views of each sample it wants in a batch: first all samples in one view,
            then all in the next.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    year: ClassVar[int | None] = None
    kind: ClassVar[str] = "logit"
    listens: ClassVar[Literal["nobody", "one", "all"]] = "all"
    needs_features: bool = False
    needs_preactivations: bool = False
    needs_index: bool = False
    mutual: bool = False
    soft_targets: bool = True
    views: int = 1

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
            ValueError: if the method listens to one mentor and is given more or fewer, or needs
                the samples' numbers and is given none.
        """
        taught = [m if isinstance(m, Outputs) else Outputs(m) for m in mentors]
        if self.listens == "nobody":
            taught = []
        if self.listens == "one" and len(taught) != 1:
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

    def enroll(self, index: Tensor, target: Tensor) -> None:
        """Be shown the training set, before `setup`: its samples' numbers and labels, ``[N]``."""

    def setup(self, student: Outputs, mentors: Sequence[Outputs]) -> None:
        """Build trainable parts from the shapes of a first batch; called once, before training."""

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Be told that epoch ``epoch`` (from 0) of ``epochs`` begins."""

    def term(
        self, student: Outputs, mentor: Outputs, target: Tensor, index: Tensor | None = None
    ) -> Tensor:
        """What one mentor adds to the loss, weight included: ``[B]``, or ``[]`` for the batch.

        Implemented by methods that listen to one mentor; with it they can be part of a `classroom`.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement term()")

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
        task_weight: of the cross-entropy.
    """

    listens = "one"
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


class LogitMethod(Method):
    """A method made of four choices: who teaches, how much, how softly, by what divergence.

    Args:
        choices: the four.
        group: what is ranked together.
        warmup_epochs: in which the mentors' weight rises linearly to its full size.
    """

    def __init__(self, choices: Choices, group: Group = "sample", warmup_epochs: float = 0) -> None:
        super().__init__()
        self.choices = choices
        self.group: Group = group
        self.warmup_epochs = warmup_epochs
        self.ramp = 1.0

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Set the share of the mentors' weight: all of it after the warm-up."""
        self.ramp = min((epoch + 1) / self.warmup_epochs, 1.0) if self.warmup_epochs else 1.0

    def ramped(self) -> Choices:
        """The choices, with the weights of this moment of the warm-up."""
        if self.ramp == 1:
            return self.choices
        return replace(self.choices, weigh=lambda now: self.ramp * self.choices.weigh(now))

    def composition(self) -> tuple[Group, Choices]:
        """What is ranked together, and the choices with the weights of this moment."""
        return self.group, self.ramped()

    def term(
        self, student: Outputs, mentor: Outputs, target: Tensor, index: Tensor | None = None
    ) -> Tensor:
        """What the choices make of one mentor: ``[B]``."""
        blocks, others, targets, weight, _ = parse(student.logits, [mentor.logits], target)
        now = standing(blocks, others, targets, weight, self.group)
        return mentor_terms(blocks, now, self.ramped()).loss.squeeze(0)

    def lesson(self, student: Outputs, mentors: Sequence[Outputs], target: Tensor) -> Lesson:
        """The lesson that the choices make."""
        logits = [mentor.logits for mentor in mentors]
        return compose_lesson(self.ramped(), student.logits, logits, target, group=self.group)


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
        task_weight: of the cross-entropy.
    """
    blocks, others, targets, _, _ = parse(student.logits, [m.logits for m in mentors], target)
    now = standing(blocks, others, targets)
    task_loss = task_weight * cross_entropy(student.logits, targets[0].squeeze(1))
    return without_ranks(make_lesson(now, task_loss, mentor_loss))


_METHODS: dict[str, type[Method]] = {}


def register_method(name: str) -> Callable[[type[Method]], type[Method]]:
    """Class decorator that makes a method known by ``name``: in recipes, suites and on the CLI.

    Example:
        >>> @register_method("blind_trust")
        ... class BlindTrust(Method):
        ...     title = "Cross-entropy, and the mean of the mentors' KL"
        ...     def __init__(self, *, temperature: float = 2.0) -> None:
        ...         super().__init__()
        ...         self.temperature = temperature
        >>> "blind_trust" in list_methods()
        True
        >>> del _METHODS["blind_trust"]
    """

    def register(cls: type[Method]) -> type[Method]:
        if name in _METHODS:
            raise ValueError(f"method '{name}' is registered already, by {_METHODS[name].__name__}")
        cls.name = name
        _METHODS[name] = cls
        return cls

    return register


def list_methods() -> list[str]:
    """Names of all registered methods, sorted."""
    return sorted(_METHODS)


def method_class(name: str) -> type[Method]:
    """The class registered as ``name``; a ValueError names the nearest if there is none."""
    if name not in _METHODS:
        raise ValueError(unknown_name("method", name, _METHODS))
    return _METHODS[name]


def method_options(name: str) -> type[BaseModel]:
    """The options of a method as a pydantic model, made from its signature."""
    signature = inspect.signature(method_class(name), eval_str=True)
    named = [p for p in signature.parameters.values() if p.kind is not p.VAR_POSITIONAL]
    named = [p for p in named if p.kind is not p.VAR_KEYWORD]
    fields: dict[str, Any] = {p.name: (p.annotation, p.default) for p in named}
    return create_model(f"{name} options", __config__=ConfigDict(extra="forbid"), **fields)


def option_mistakes(name: str, options: Mapping[str, Any]) -> dict[str, str]:
    """What is wrong with a method's options: a message for each option, empty if all is well."""
    model = method_options(name)
    try:
        model.model_validate(dict(options))
    except ValidationError as error:
        known = model.model_fields
        mistakes: dict[str, str] = {}
        for item in error.errors():
            option, text = str(item["loc"][0]), item["msg"]
            if item["type"] == "extra_forbidden":
                hint = nearest(option, known)
                text = f"unknown option of {name}{hint} (known: {', '.join(known) or 'none'})"
            elif option in mistakes:  # each branch of a union says what it expects
                text = f"{mistakes[option]}, or {text.removeprefix('Input should be ')}"
            mistakes[option] = text
        return {
            option: f"{text}, got {options[option]!r}" if option in known else text
            for option, text in mistakes.items()
        }
    return {}


def create_method(name: str, **options: object) -> Method:
    """Build a method by name.

    Raises:
        ValueError: for an unknown method or option, naming the nearest, and for a bad value.

    Example:
        >>> create_method("kd", temperature=2).listens
        'one'
        >>> create_method("kd", temprature=2)
        Traceback (most recent call last):
        ...
        ValueError: temprature: unknown option of kd: did you mean 'temperature'? ...
    """
    if mistakes := option_mistakes(name, options):
        raise ValueError("; ".join(f"{option}: {text}" for option, text in mistakes.items()))
    values = method_options(name).model_validate(options)
    return method_class(name)(**{field: getattr(values, field) for field in options})
