"""A method whose temperatures follow the sharpness of either side's logits: DTKD.

Shapes: ``M`` mentors, ``B`` samples, ``U`` units. ``CE`` is the cross-entropy, ``z_t`` the
teacher's logits.
"""

from functools import partial

from torch import Tensor

from classroomkd.core import Choices, LogitPair
from classroomkd.core.divergence import kl_divergence, statistics_dtype
from classroomkd.core.filter import everyone, unit_weights
from classroomkd.core.mentoring import dtkd_temperature
from classroomkd.methods.composed import LogitMethod
from classroomkd.methods.options import Temperature, Weight
from classroomkd.methods.registry import register_method


@register_method("dtkd")
class DTKD(LogitMethod):
    r"""Dynamic temperatures from the largest logits of either side, beside plain KD.

    .. math:: L = CE + \alpha \tau_t \tau_s KL(\sigma(z_t/\tau_t) \| \sigma(z_s/\tau_s))
              + \beta T^2 KL(\sigma(z_t/T) \| \sigma(z_s/T)), \quad
              \tau_j = 2 T max z_j / (max z_t + max z_s)

    As in the public code, the gradient flows through the temperatures, too: the first term does not
    depend on the scale of the student's logits.

    Args:
        alpha: weight of the term with dynamic temperatures.
        beta: weight of plain KD. Both differ for some pairs in the public code: 1 and 0.5 for
            resnet56 to resnet20, resnet110 to resnet32 and wrn_40_2 to wrn_40_1, 3 and 2 for
            ResNet50 to MobileNetV2, 2 and 0.5 for wrn_40_2 to ShuffleNetV1; recipes of these pairs
            take them (published.yaml).
        temperature: ``T``.
        task_weight: of the cross-entropy.
        warmup_epochs: in which the teacher's weight rises to its full size.

    Reference: Wei and Bai, Dynamic Temperature Knowledge Distillation, 2024; defaults of its public
    code.
    """

    title = "DTKD"
    year = 2024
    num_mentors = 1

    def __init__(
        self,
        *,
        alpha: Weight = 3.0,
        beta: Weight = 1.0,
        temperature: Temperature = 4.0,
        task_weight: Weight = 1.0,
        warmup_epochs: Weight = 20.0,
    ) -> None:
        def both(pair: LogitPair) -> Tensor:
            taus = _sharpness(pair.student, pair.mentors, temperature)
            dynamic = taus[0] * taus[1] * kl_divergence(pair.student, pair.mentors, *taus)
            plain = kl_divergence(pair.student, pair.mentors, temperature, temperature)
            # What the lesson multiplies by has no gradient, so it is taken out here.
            factor = pair.student_temperature * pair.mentor_temperature
            return (alpha * dynamic + beta * temperature**2 * plain) / factor

        choices = Choices(
            select=everyone,
            weight=unit_weights,
            temperature=partial(dtkd_temperature, scale=temperature),
            task_weight=lambda scores: task_weight,
            divergence=both,
        )
        super().__init__(choices, warmup_epochs=warmup_epochs)


def _sharpness(student: Tensor, mentors: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Temperatures of student and mentors from their largest logits, with gradient: ``[M, B, U]``.

    Largest logits are kept above 1e-3, as in `dtkd_temperature`.
    """
    here, there = (
        logits.to(statistics_dtype(logits)).amax(-1).clamp_min(1e-3)
        for logits in (student, mentors)
    )
    common = 2 * scale / (here + there)
    return common * here, common * there
