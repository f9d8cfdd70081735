"""Methods on logits from one teacher, and the student alone.

Shapes: ``B`` samples, ``C`` classes. ``CE`` is the cross-entropy, ``z_t`` the teacher's logits.
"""

from functools import partial

import torch
from torch import Tensor

from classroomkd.core.filter import Scores
from classroomkd.methods.composed import FromTeacher, OneTemperature
from classroomkd.methods.divergences import correlation, decoupled_kl, refined_kl
from classroomkd.methods.options import Temperature, Weight
from classroomkd.methods.registry import register_method


@register_method("none")
class Alone(OneTemperature):
    """The student without mentors: the cross-entropy, the baseline of every comparison."""

    title = "Student alone"
    kind = "alone"
    num_mentors = 0

    def __init__(self) -> None:
        super().__init__(temperature=1.0, weight=1.0)


@register_method("kd")
class KD(FromTeacher):
    r"""Knowledge distillation from one teacher.

    .. math:: L = \lambda CE + w \tau^2 KL(\sigma(z_t / \tau) \,\|\, \sigma(z_s / \tau))

    Args:
        temperature: ``tau``.
        weight: ``w``, of the teacher's term.
        task_weight: ``lambda``, of the cross-entropy.
        standardize: compare z-scores of the logits (LSKD): options that are not given are then
            those of `lskd`, temperature 2, weight 9 and task_weight 0.1.

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
        super().__init__(temperature, weight, task_weight, standardize=standardize)


@register_method("lskd")
class LSKD(FromTeacher):
    r"""KD of standardised logits: ``z`` becomes ``(z - mean z) / std z`` before it is softened.

    The same as ``kd`` with ``standardize``, which other logit methods have as well. Z-scores are
    small, and with them what they teach: at the temperature and weight of `kd`, the teacher's
    gradient would be some ten times as small.

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
        super().__init__(temperature, weight, task_weight, standardize=True)


@register_method("dkd")
class DKD(FromTeacher):
    r"""Decoupled KD: the true class against the rest, and the other classes among themselves.

    .. math:: L = CE + \tau^2 (\alpha KL(b_t \| b_s) + \beta KL(\hat p_t \| \hat p_s))

    Args:
        alpha: weight of the first term.
        beta: weight of the second. The benchmark's is 8 for most pairs, 2 for the thin ResNets
            (resnet56 to resnet20, resnet110 to resnet32), 6 where VGG or a wide ResNet teaches its
            like, and for vgg13 to MobileNetV2; recipes of these pairs take it (published.yaml).
        temperature: ``tau``.
        task_weight: of the cross-entropy.
        warmup_epochs: in which the teacher's weight rises to 1.
        standardize: compare z-scores of the logits (LSKD): options that are not given are then
            temperature 2 and 9 times the usual alpha and beta. LSKD's last public code multiplies
            beta by mistake from alpha (81 for every pair) and leaves DKD's temperature at 4, which
            comes to nearly the same gradient at beta 8.

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
            standardize=standardize,
            warmup_epochs=warmup_epochs,
            divergence=partial(decoupled_kl, alpha=alpha, beta=beta),
        )


@register_method("dist")
class DIST(FromTeacher):
    r"""Correlation instead of divergence: of each sample's classes, and of each class's samples.

    .. math:: L = CE + w \tau^2 (\beta \, mean_i (1 - \rho_i) + \gamma \, mean_k (1 - \rho_k))

    Args:
        beta: weight of the correlation over classes.
        gamma: weight of the correlation over the batch.
        temperature: ``tau``.
        weight: ``w``.
        task_weight: of the cross-entropy.
        standardize: compare z-scores of the logits (LSKD). It changes no other option: a
            correlation hardly depends on the scale of the logits.

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
            standardize=standardize,
            divergence=partial(correlation, beta=beta, gamma=gamma),
        )


@register_method("rld")
class RLD(FromTeacher):
    r"""Refined logits: a teacher that errs teaches nothing that contradicts the label.

    .. math:: L = CE + \alpha KL(b_t \| b_s) + \beta \tau^2 KL(\hat p_t \| \hat p_s)

    with ``b_t = (max p_t, 1 - max p_t)``, ``b_s = (p_s[y], 1 - p_s[y])`` at temperature 1, and
    ``p-hat`` the predictions over the classes that the teacher ranks below the true one.

    Args:
        alpha: weight of the first term.
        beta: weight of the second.
        temperature: ``tau``.
        task_weight: of the cross-entropy.
        warmup_epochs: in which the teacher's weight rises to 1.
        standardize: compare z-scores of the logits (LSKD): options that are not given are then
            temperature 2 and 9 times alpha and beta, as in `dkd`; for this method, they are ours.

    Reference: Sun et al., Knowledge Distillation with Refined Logits, 2024, arXiv 2408.07703;
    defaults of its public code.
    """

    title = "RLD"
    year = 2024

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
            standardize=standardize,
            warmup_epochs=warmup_epochs,
            divergence=partial(refined_kl, alpha=alpha, beta=beta),
        )


@register_method("wsld")
class WSLD(FromTeacher):
    r"""Weighted soft labels: a sample's soft label counts by how far the student is behind on it.

    .. math:: L = CE + w \, mean_i [ (1 - e^{-CE_s(i) / CE_t(i)}) \tau^2 KL_i ]

    Where targets are probabilities, the weights take the divergence from the target in place of
    the cross-entropies: either is 0 for a perfect prediction.

    Args:
        temperature: ``tau``.
        weight: ``w``.
        task_weight: of the cross-entropy.
        standardize: compare z-scores of the logits (LSKD): options that are not given are then
            temperature 2 and 9 times the weight, as in `dkd`; for this method, they are ours.

    Reference: Zhou et al., Rethinking Soft Labels for Knowledge Distillation, 2021, equation 12.
    Its public code trains ImageNet alone, at temperature 2 and weight 2.5; the defaults here are
    those of CIFAR-100 in cls_KD, code of others (yzd-v).
    """

    title = "WSLD"
    year = 2021

    def __init__(
        self,
        *,
        temperature: Temperature = 4.0,
        weight: Weight = 2.25,
        task_weight: Weight = 1.0,
        standardize: bool = False,
    ) -> None:
        def weighting(scores: Scores) -> Tensor:
            ratio = scores.student_divergence / (scores.mentor_divergence + 1e-7)
            return -weight * torch.expm1(-ratio)

        super().__init__(temperature, weighting, task_weight, standardize=standardize)
