r"""Methods of pose estimation, as choices over any logits.

There, logits are heatmaps or SimCC vectors ``h`` times a scale ``beta`` (10 by default), and units
are joints. Shapes: ``M`` mentors, ``B`` samples, ``U`` units, ``K`` bins. ``L_task`` is the
student's own loss: in pose, ``beta**2 / 2`` times the mean squared error of heatmaps, or the
cross-entropy of SimCC vectors.
"""

from functools import partial

from torch import Tensor

from classroomkd.core import Comparison
from classroomkd.core.divergence import statistics_dtype
from classroomkd.methods.composed import FromTeacher, OneTemperature, equal_parts
from classroomkd.methods.options import Temperature, Weight
from classroomkd.methods.registry import register_method


def squared_error(pair: Comparison) -> Tensor:
    r"""Half the mean squared difference of logits, ``[M, B, U]``.

    .. math:: \frac{1}{2 K} \sum_k (z_{s,k} - z_{m,k})^2

    With ``z = beta h`` it is ``beta**2 / 2`` times the mean squared error of heatmaps, and what
    ``tau**2`` KL tends to for large temperatures (up to the means of the logits).
    """
    student, mentors = (z.to(statistics_dtype(z)) for z in (pair.student, pair.mentors))
    return (student - mentors).square().mean(-1) / 2


@register_method("fpd")
class FPD(FromTeacher):
    r"""Fast pose distillation: the teacher's heatmaps are a second target, bin by bin.

    .. math:: L = (1 - a) L_{task} + a \frac{1}{2 K} \sum_k (z_{s,k} - z_{t,k})^2

    Args:
        balance: ``a``, the teacher's part.

    Reference: Zhang et al., Fast Human Pose Estimation, 2019.
    """

    title = "FPD"
    year = 2019
    kind = "pose"

    def __init__(self, *, balance: Weight = 0.5) -> None:
        super().__init__(
            temperature=1.0, weigh=balance, task_weight=1 - balance, divergence=squared_error
        )


@register_method("dwpose")
class DWPose(FromTeacher):
    r"""DWPose's logit term: the KL divergence at temperature 1, which fades over the epochs.

    .. math:: L = L_{task} + w (1 - e / E) KL(\sigma(z_t) \,\|\, \sigma(z_s))

    in epoch ``e`` of ``E``, from 0. It was made for SimCC vectors. Its feature term and its second
    stage, in which a head teaches itself, are left out; joints without label are left out, too,
    unless the recipe has them taught.

    Args:
        weight: ``w``.

    Reference: Yang et al., Effective Whole-body Pose Estimation with Two-stages Distillation, 2023.
    """

    title = "DWPose (logits)"
    year = 2023
    kind = "pose"

    def __init__(self, *, weight: Weight = 0.1) -> None:
        super().__init__(temperature=1.0, weigh=weight)

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Let the teacher's weight fade."""
        self.ramp = 1 - epoch / epochs


@register_method("okdhp")
class OKDHP(OneTemperature):
    r"""Every mentor's heatmaps as distributions over the bins, as in online distillation of poses.

    .. math:: L = L_{task}
              + w \frac{1}{M} \sum_m \tau^2 KL(\sigma(z_m/\tau) \,\|\, \sigma(z_s/\tau))

    With ``tau`` equal to the heatmaps' scale ``beta``, the softmax is that of raw heatmaps, as
    published; ``tau**2`` brings the term to the unit of the task. The published method trains the
    branches that teach along with the student; here mentors are frozen.

    Args:
        temperature: ``tau``.
        weight: ``w``.

    Reference: Li et al., Online Knowledge Distillation for Efficient Pose Estimation, 2021.
    """

    title = "OKDHP (KL)"
    year = 2021
    kind = "pose"

    def __init__(self, *, temperature: Temperature = 10.0, weight: Weight = 1.0) -> None:
        super().__init__(temperature, partial(equal_parts, weight=weight))
