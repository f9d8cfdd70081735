"""Methods on logits from several mentors."""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from classroomkd.core import Choices, ClassroomLoss, Lesson
from classroomkd.core.filter import Group, Standing, everyone, unit_weights
from classroomkd.core.loss import Mentoring
from classroomkd.core.mentoring import fixed_temperature
from classroomkd.methods.base import LogitMethod, Method, Outputs, register_method
from classroomkd.methods.logits import Temperature, Weight


@register_method("aver")
class Average(LogitMethod):
    r"""Every mentor teaches with the same weight.

    .. math:: L = \lambda CE
              + w \frac{1}{M} \sum_m \tau^2 KL(\sigma(z_m/\tau) \,\|\, \sigma(z_s/\tau))

    Args:
        temperature: ``tau``.
        weight: ``w``, of the mentors' terms.
        task_weight: ``lambda``, of the cross-entropy.
        reduction: ``"mean"`` over mentors, or their ``"sum"`` (without ``1/M``): the mentors' total
            weight beside the cross-entropy then grows with their number.

    Reference: the baseline AVER of You et al., Learning from Multiple Teacher Networks, 2017, with
    the defaults of the CA-MKD comparison (weight 1 beside the cross-entropy, temperature 4).
    """

    title = "AVER"
    year = 2017

    def __init__(
        self,
        *,
        temperature: Temperature = 4.0,
        weight: Weight = 1.0,
        task_weight: Weight = 1.0,
        reduction: Literal["mean", "sum"] = "mean",
    ) -> None:
        def weigh(now: Standing) -> Tensor:
            count = len(now.mentor_divergence) if reduction == "mean" else 1
            return unit_weights(now) * (weight / max(count, 1))

        super().__init__(
            Choices(
                everyone,
                weigh,
                partial(fixed_temperature, value=temperature),
                lambda now: task_weight,
            )
        )


@register_method("classroom")
class Classroom(Method):
    """ClassroomKD: only mentors that do better teach, each as softly as its gap is wide.

    The loss and the meaning of every option: `classroomkd.classroom_loss`.

    Args:
        temperature: ``T`` of ``tau = 1 + T gap``.
        group: what is ranked together, each ``"sample"`` or the ``"batch"``.
        filtering: False lets every mentor teach with weight 1.
        require_correct: whether a mentor's prediction must be right, too.
        mentoring: ``"gap"``, ``"none"`` (temperature 1), ``"fixed"`` (T) or ``"dtkd"``.
        task_weight: of the cross-entropy: the ``"student"``'s score, the ``"batch"``'s, a number.
        compat: ``"official"`` for the batch mode of the authors' code.

    Reference: Sarode et al., Classroom-Inspired Multi-Mentor Distillation with Adaptive Learning
    Strategies, 2024.
    """

    title = "ClassroomKD"
    year = 2024

    def __init__(
        self,
        *,
        temperature: Weight = 12.0,
        group: Group = "sample",
        filtering: bool = True,
        require_correct: bool = False,
        mentoring: Mentoring = "gap",
        task_weight: Weight | Literal["student", "batch"] = "student",
        compat: Literal["official"] | None = None,
    ) -> None:
        super().__init__()
        self.loss = ClassroomLoss(
            temperature=temperature,
            group=group,
            filtering=filtering,
            require_correct=require_correct,
            mentoring=mentoring,
            task_weight=task_weight,
            compat=compat,
        )
        # Options that exclude each other are a mistake now, not in the first step.
        self.loss(torch.zeros(1, 1), [], torch.zeros(1, dtype=torch.long))

    def lesson(self, student: Outputs, mentors: Sequence[Outputs], target: Tensor) -> Lesson:
        """`classroom_loss` on the logits."""
        return self.loss(student.logits, [mentor.logits for mentor in mentors], target)
