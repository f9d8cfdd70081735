r"""Methods of pose estimation, as choices over any logits.

There, logits are heatmaps or SimCC vectors ``h`` times a scale ``beta`` (10 by default), and units
are joints. Shapes: ``M`` mentors, ``B`` samples, ``U`` units, ``K`` bins. ``L_task`` is the
student's own loss: in pose, ``beta**2 / 2`` times the mean squared error of heatmaps, or the
cross-entropy of SimCC vectors.
"""

from math import exp

from torch import Tensor

from classroomkd.core import LogitPair
from classroomkd.core.divergence import statistics_dtype
from classroomkd.core.filter import Scores
from classroomkd.methods.composed import FromTeacher, OneTemperature, equal_parts
from classroomkd.methods.options import Temperature, Weight
from classroomkd.methods.registry import register_method


def squared_error(pair: LogitPair) -> Tensor:
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

    The task is the same error to the heatmaps of the labels (``lessons.task: mse``). Beside the
    cross-entropy over bins, whose gradient is some sixty times as large, the teacher would not be
    heard: a recipe that names another task is refused.

    Args:
        balance: ``a``, the teacher's part.

    Reference: Zhang et al., Fast Human Pose Estimation, 2019; ``a`` is that of the public code.
    """

    title = "FPD"
    year = 2019
    kind = "pose"
    own_task = "mse"

    def __init__(self, *, balance: Weight = 0.5) -> None:
        super().__init__(
            temperature=1.0, weight=balance, task_weight=1 - balance, divergence=squared_error
        )


@register_method("dwpose")
class DWPose(FromTeacher):
    r"""DWPose's logit term: the KL divergence at temperature 1, which fades over the epochs.

    .. math:: L = L_{task} + w (1 - e / E) KL(\sigma(z_t) \,\|\, \sigma(z_s))

    in epoch ``e`` of ``E``, from 0. It was made for SimCC vectors. Its feature term and its second
    stage, in which a head teaches itself, are left out; joints without label are left out, too,
    unless the recipe has them taught.

    Args:
        weight: ``w``. The public weight, 0.1, stands beside a task that is the sum over the ``N``
            persons of a device of means over ``W`` bins, and so is ``0.1 W / N`` of ours, which is
            the mean of sums: 0.17 for the published 384 and 512 bins and 256 persons.

    Reference: Yang et al., Effective Whole-body Pose Estimation with Two-stages Distillation, 2023;
    its public code for the weight.
    """

    title = "DWPose (logits)"
    year = 2023
    kind = "pose"

    def __init__(self, *, weight: Weight = 0.17) -> None:
        super().__init__(temperature=1.0, weight=weight)

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Let the teacher's weight fade."""
        self.ramp = 1 - epoch / epochs


@register_method("okdhp")
class OKDHP(OneTemperature):
    r"""Every mentor's heatmaps as distributions over the bins, as in online distillation of poses.

    .. math:: L = L_{task} + w \frac{U}{K} \rho(e)
              \frac{1}{M} \sum_m \tau^2 KL(\sigma(z_m/\tau) \,\|\, \sigma(z_s/\tau))

    averaged over the ``U`` joints of ``K`` bins, with the ramp
    ``rho(e) = exp(-5 (1 - min(e / E, 1))**2)`` in epoch ``e``, from 0. With ``tau`` equal to the
    heatmaps' scale ``beta``, the softmax is that of raw heatmaps, as published; ``tau**2`` brings
    the term to the unit of the task, which is the squared error (``lessons.task: mse``).

    Args:
        temperature: ``tau``.
        weight: ``w``, in the unit of the public code, which sums the divergence over joints and
            divides it by the number of bins: 5 as its configuration has it (its script for MPII
            has 2). For 16 joints and 64 x 64 bins it is 0.02 in the unit of the other methods. That
            is little: the term moves a student by some percent of what the task does.
        warmup_epochs: ``E``, the length of the ramp, 60 of the published 140 epochs; with 0 the
            weight is whole at once.

    Reference: Li et al., Online Knowledge Distillation for Efficient Pose Estimation, 2021; its
    public code for the options. Deviations: the published method trains the branches that teach
    along with the student and teaches by their gated mean; here mentors are frozen, and each
    teaches. Where a joint has rows for x and y (SimCC), ``K`` is their mean length.
    """

    title = "OKDHP (KL)"
    year = 2021
    kind = "pose"
    own_task = "mse"

    def __init__(
        self,
        *,
        temperature: Temperature = 10.0,
        weight: Weight = 5.0,
        warmup_epochs: Weight = 60.0,
    ) -> None:
        super().__init__(
            temperature, lambda scores: equal_parts(scores, weight * joints_per_bin(scores))
        )
        self.warmup_epochs = warmup_epochs

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Let the mentors' weight rise."""
        left = max(1 - epoch / self.warmup_epochs, 0.0) if self.warmup_epochs else 0.0
        self.ramp = exp(-5 * left**2)


def joints_per_bin(scores: Scores) -> float:
    """Units over the bins of a block, ``U / K``, or over the blocks' mean number of bins."""
    bins = [block.shape[-1] for block in scores.student]
    return scores.student[0].shape[-2] * len(bins) / sum(bins)
