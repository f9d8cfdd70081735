"""Methods made of four choices, which say all about them.

Shapes: ``M`` mentors, ``B`` samples, ``G`` ranks within a sample.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from classroomkd.core import Choices, Lesson, Signals, combine
from classroomkd.core.filter import Group, Scores, everyone, score_mentors, unit_weights
from classroomkd.core.lesson import mentor_terms
from classroomkd.core.mentoring import fixed_temperature
from classroomkd.methods.base import Method, Outputs, outputs_as_signals
from classroomkd.methods.divergences import logit_transform


class LogitMethod(Method):
    """A method made of four choices: who teaches, how much, how softly, by what divergence.

    Args:
        choices: the four.
        group: what is ranked together.
        warmup_epochs: in which the mentors' weight rises linearly to its full size.
    """

    takes_units = True

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
        return replace(self.choices, total=self.ramp * self.choices.total)

    def term(
        self, student: Outputs, mentor: Outputs, target: Tensor, index: Tensor | None = None
    ) -> Tensor:
        """What the choices make of one mentor: ``[B]``."""
        signals = outputs_as_signals([student, mentor], target)
        scores = score_mentors(signals, self.group)
        return mentor_terms(signals.student, scores, self.ramped()).loss.squeeze(0)

    def lesson(self, signals: Signals) -> Lesson:
        """The lesson that the choices make."""
        return combine(signals, self.ramped(), self.group)


class OneTemperature(LogitMethod):
    r"""Everyone teaches, at one temperature; methods differ in how much each counts.

    .. math:: L = \lambda CE + \sum_m w_m \tau^2 KL(\sigma(z_m/\tau) \,\|\, \sigma(z_s/\tau))

    Args:
        temperature: ``tau``.
        weight: ``w_m``: one number, or a function of the scores, ``[M, B, G]``.
        task_weight: ``lambda``.
        standardize: compare z-scores of the logits.
        warmup_epochs: in which the mentors' weight rises linearly to its full size.
        choices: fields of `Choices` in which a method differs from this.
    """

    def __init__(
        self,
        temperature: float,
        weight: float | Callable[[Scores], Tensor],
        task_weight: float = 1.0,
        *,
        standardize: bool = False,
        warmup_epochs: float = 0,
        **choices: Any,
    ) -> None:
        usual = Choices(
            select=everyone,
            weight=weight if callable(weight) else lambda scores: weight * unit_weights(scores),
            temperature=partial(fixed_temperature, value=temperature),
            task_weight=lambda scores: task_weight,
            transform=logit_transform(standardize),
        )
        super().__init__(replace(usual, **choices), warmup_epochs=warmup_epochs)


class FromTeacher(OneTemperature):
    """`OneTemperature`, from one mentor."""

    num_mentors = 1


class FromAll(OneTemperature):
    """`OneTemperature`, from any mentors, which may train along."""

    mutual = True


def equal_parts(scores: Scores, weight: float) -> Tensor:
    """A weight in equal parts to the mentors: ``weight / M``, ``[M, B, G]``."""
    return unit_weights(scores) * (weight / max(len(scores.valid), 1))
