"""Methods on logits from one teacher, and the student alone."""

from functools import partial
from typing import Annotated

from pydantic import Field

from classroomkd.core import Choices
from classroomkd.core.filter import everyone, unit_weights
from classroomkd.core.mentoring import fixed_temperature
from classroomkd.methods.base import LogitMethod, register_method

Temperature = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@register_method("none")
class Alone(LogitMethod):
    """The student without mentors: the cross-entropy, the baseline of every comparison."""

    title = "Student alone"
    kind = "alone"
    listens = "nobody"

    def __init__(self) -> None:
        super().__init__(Choices(everyone, unit_weights, partial(fixed_temperature, value=1.0)))


@register_method("kd")
class KD(LogitMethod):
    r"""Knowledge distillation from one teacher.

    .. math:: L = \lambda CE + w \tau^2 KL(\sigma(z_t / \tau) \,\|\, \sigma(z_s / \tau))

    Args:
        temperature: ``tau``.
        weight: ``w``, of the teacher's term.
        task_weight: ``lambda``, of the cross-entropy.

    Reference: Hinton et al., Distilling the Knowledge in a Neural Network, 2015. Defaults are those
    of the CIFAR-100 benchmark (mdistiller).
    """

    title = "KD"
    year = 2015
    listens = "one"

    def __init__(
        self, *, temperature: Temperature = 4.0, weight: Weight = 0.9, task_weight: Weight = 0.1
    ) -> None:
        super().__init__(
            Choices(
                everyone,
                lambda now: weight * unit_weights(now),
                partial(fixed_temperature, value=temperature),
                lambda now: task_weight,
            )
        )
