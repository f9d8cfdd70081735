"""Methods on logits from one teacher, and the student alone.

Shapes: ``B`` samples, ``C`` classes. ``CE`` is the cross-entropy, ``z_t`` the teacher's logits.
"""

from functools import partial
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from classroomkd.core import Choices, Comparison
from classroomkd.core.divergence import kl_divergence, statistics_dtype
from classroomkd.core.filter import Standing, everyone, unit_weights
from classroomkd.core.mentoring import dtkd_temperature, fixed_temperature
from classroomkd.methods.base import LogitMethod, register_method
from classroomkd.methods.divergences import correlation, decoupled_kl, logit_transform

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


class _FromTeacher(LogitMethod):
    """Everybody teaches (there is one teacher), with a fixed weight at a fixed temperature."""

    listens = "one"

    def __init__(
        self, temperature: float, weight: float, task_weight: float, **choices: object
    ) -> None:
        warmup = choices.pop("warmup_epochs", 0)
        usual = {
            "choose": everyone,
            "weigh": lambda now: weight * unit_weights(now),
            "temper": partial(fixed_temperature, value=temperature),
            "task_weight": lambda now: task_weight,
        }
        super().__init__(Choices(**(usual | choices)), warmup_epochs=warmup)  # type: ignore[arg-type]


@register_method("kd")
class KD(_FromTeacher):
    r"""Knowledge distillation from one teacher.

    .. math:: L = \lambda CE + w \tau^2 KL(\sigma(z_t / \tau) \,\|\, \sigma(z_s / \tau))

    Args:
        temperature: ``tau``.
        weight: ``w``, of the teacher's term.
        task_weight: ``lambda``, of the cross-entropy.
        standardize: compare z-scores of the logits (LSKD).

    Reference: Hinton et al., Distilling the Knowledge in a Neural Network, 2015. Defaults are those
    of the CIFAR-100 benchmark (mdistiller).
    """

    title = "KD"
    year = 2015

    def __init__(
        self,
        *,
        temperature: Temperature = 4.0,
        weight: Weight = 0.9,
        task_weight: Weight = 0.1,
        standardize: bool = False,
    ) -> None:
        super().__init__(temperature, weight, task_weight, transform=logit_transform(standardize))


@register_method("lskd")
class LSKD(_FromTeacher):
    r"""KD of standardised logits: ``z`` becomes ``(z - mean z) / std z`` before it is softened.

    The same as ``kd`` with ``standardize`` and these defaults; other logit methods have the switch
    as well.

    Args:
        temperature: ``tau``.
        weight: of the teacher's term.
        task_weight: of the cross-entropy.

    Reference: Sun et al., Logit Standardization in Knowledge Distillation, 2024; defaults of its
    public code (KD with standardisation).
    """

    title = "KD + LSKD"
    year = 2024

    def __init__(
        self, *, temperature: Temperature = 2.0, weight: Weight = 9.0, task_weight: Weight = 0.1
    ) -> None:
        super().__init__(temperature, weight, task_weight, transform=logit_transform(True))


@register_method("dkd")
class DKD(_FromTeacher):
    r"""Decoupled KD: the true class against the rest, and the other classes among themselves.

    .. math:: L = CE + \tau^2 (\alpha KL(b_t \| b_s) + \beta KL(\hat p_t \| \hat p_s))

    Args:
        alpha: weight of the first term.
        beta: weight of the second; 8 for most pairs, 2 for wide teachers of ResNets, 6 for VGG.
        temperature: ``tau``.
        task_weight: of the cross-entropy.
        warmup_epochs: in which the teacher's weight rises to 1.
        standardize: compare z-scores of the logits (LSKD).

    Reference: Zhao et al., Decoupled Knowledge Distillation, 2022; defaults of mdistiller.
    """

    title = "DKD"
    year = 2022

    def __init__(
        self,
        *,
        alpha: Weight = 1.0,
        beta: Weight = 8.0,
        temperature: Temperature = 4.0,
        task_weight: Weight = 1.0,
        warmup_epochs: Weight = 20.0,
        standardize: bool = False,
    ) -> None:
        super().__init__(
            temperature,
            1.0,
            task_weight,
            divergence=partial(decoupled_kl, alpha=alpha, beta=beta),
            transform=logit_transform(standardize),
            warmup_epochs=warmup_epochs,
        )


@register_method("dist")
class DIST(_FromTeacher):
    r"""Correlation instead of divergence: of each sample's classes, and of each class's samples.

    .. math:: L = CE + w \tau^2 (\beta \, mean_i (1 - \rho_i) + \gamma \, mean_k (1 - \rho_k))

    Args:
        beta: weight of the correlation over classes.
        gamma: weight of the correlation over the batch.
        temperature: ``tau``.
        weight: ``w``.
        task_weight: of the cross-entropy.
        standardize: compare z-scores of the logits (LSKD).

    Reference: Huang et al., Knowledge Distillation from a Stronger Teacher, 2022; defaults of its
    public code for CIFAR-100.
    """

    title = "DIST"
    year = 2022

    def __init__(
        self,
        *,
        beta: Weight = 1.0,
        gamma: Weight = 1.0,
        temperature: Temperature = 4.0,
        weight: Weight = 2.0,
        task_weight: Weight = 1.0,
        standardize: bool = False,
    ) -> None:
        super().__init__(
            temperature,
            weight,
            task_weight,
            divergence=partial(correlation, beta=beta, gamma=gamma),
            transform=logit_transform(standardize),
        )


@register_method("wsld")
class WSLD(_FromTeacher):
    r"""Weighted soft labels: a sample's soft label counts by how far the student is behind on it.

    .. math:: L = CE + w \, mean_i [ (1 - e^{-CE_s(i) / CE_t(i)}) \tau^2 KL_i ]

    Where targets are probabilities, the weights take the divergence from the target in place of
    the cross-entropies: either is 0 for a perfect prediction.

    Args:
        temperature: ``tau``.
        weight: ``w``.
        task_weight: of the cross-entropy.
        standardize: compare z-scores of the logits (LSKD).

    Reference: Zhou et al., Rethinking Soft Labels for Knowledge Distillation, 2021, equation 12;
    defaults of its public code.
    """

    title = "WSLD"
    year = 2021

    def __init__(
        self,
        *,
        temperature: Temperature = 2.0,
        weight: Weight = 2.5,
        task_weight: Weight = 1.0,
        standardize: bool = False,
    ) -> None:
        def weigh(now: Standing) -> Tensor:
            ratio = now.student_divergence / (now.mentor_divergence + 1e-7)
            return -weight * torch.expm1(-ratio)

        super().__init__(
            temperature, 1.0, task_weight, weigh=weigh, transform=logit_transform(standardize)
        )


@register_method("dtkd")
class DTKD(_FromTeacher):
    r"""Dynamic temperatures from the largest logits of either side, beside plain KD.

    .. math:: L = CE + \alpha \tau_t \tau_s KL(\sigma(z_t/\tau_t) \| \sigma(z_s/\tau_s))
              + \beta T^2 KL(\sigma(z_t/T) \| \sigma(z_s/T)), \quad
              \tau_j = 2 T max z_j / (max z_t + max z_s)

    As in the public code, the gradient flows through the temperatures, too: the first term does not
    depend on the scale of the student's logits.

    Args:
        alpha: weight of the term with dynamic temperatures.
        beta: weight of plain KD.
        temperature: ``T``.
        task_weight: of the cross-entropy.
        warmup_epochs: in which the teacher's weight rises to its full size.

    Reference: Wei and Bai, Dynamic Temperature Knowledge Distillation, 2024; defaults of its public
    code.
    """

    title = "DTKD"
    year = 2024

    def __init__(
        self,
        *,
        alpha: Weight = 3.0,
        beta: Weight = 1.0,
        temperature: Temperature = 4.0,
        task_weight: Weight = 1.0,
        warmup_epochs: Weight = 20.0,
    ) -> None:
        def both(pair: Comparison) -> Tensor:
            taus = _sharpness(pair.student, pair.mentors, temperature)
            dynamic = taus[0] * taus[1] * kl_divergence(pair.student, pair.mentors, *taus)
            plain = kl_divergence(pair.student, pair.mentors, temperature, temperature)
            # What the lesson multiplies by has no gradient, so it is taken out here.
            factor = pair.student_temperature * pair.mentor_temperature
            return (alpha * dynamic + beta * temperature**2 * plain) / factor

        super().__init__(
            temperature,
            1.0,
            task_weight,
            temper=partial(dtkd_temperature, scale=temperature),
            divergence=both,
            warmup_epochs=warmup_epochs,
        )


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
