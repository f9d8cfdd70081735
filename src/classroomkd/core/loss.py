"""`classroom_loss`: the paper in one function, and `ClassroomLoss`, a thin module around it.

Shapes: ``M`` mentors, ``B`` samples, ``C`` classes, ``U`` units, ``K`` bins.
"""

import warnings
from typing import Literal

from torch import Tensor, nn

from classroomkd.core.filter import Group
from classroomkd.core.inputs import Logits, MentorLogits, make_signals, with_old_names
from classroomkd.core.lesson import (
    Choices,
    Divergence,
    Lesson,
    Transform,
    combine,
    identity,
    kl,
)
from classroomkd.core.options import (
    OPTIONS,
    Mentoring,
    Mix,
    Select,
    TaskWeight,
    Weighting,
    classroom_choices,
)
from classroomkd.core.signals import Signals


@with_old_names
def classroom_loss(
    student_logits: Logits,
    mentor_logits: MentorLogits,
    target: Logits | None,
    *,
    unit_weight: Tensor | None = None,
    mentor_unit_weight: Tensor | None = None,
    mentor_mask: Tensor | None = None,
    rank_divergence: tuple[Tensor, Tensor] | None = None,
    temperature: float = 12.0,
    group: Group = "sample",
    filtering: bool = True,
    select: Select = "better",
    require_correct: bool = False,
    weighting: Weighting = "score",
    prior: Tensor | None = None,
    normalize: bool = False,
    mix: Mix = "terms",
    weight: float = 1.0,
    mentoring: Mentoring = "gap",
    task_weight: TaskWeight = "student",
    divergence: Divergence = kl,
    tau_squared: bool = True,
    transform: Transform = identity,
    compat: Literal["official"] | None = None,
) -> Lesson:
    r"""Distil from the mentors that do better than the student, each as softly as its gap is wide.

    With score ``r = exp(-KL(target || prediction))``, the true class's probability for labels:

    .. math::
        w_m = \frac{M r_m}{r_s + \sum_k r_k}, \quad a_m = [r_m > r_s], \quad
        \tau_m = 1 + T (1 - r_s / r_m)

        L = mean_i \Big[ \lambda(i) CE_s(i)
            + \sum_m a_m w_m \tau_m^2 KL(\sigma(z_m/\tau_m) \,\|\, \sigma(z_s/\tau_m)) \Big]

    Scores, weights, gates and temperatures carry no gradient and are in float32 (or float64).

    Args:
        student_logits: ``[B, C]``; or ``[B, U, K]`` for samples of several units (joints, tokens);
            or a tuple of such blocks where a unit has several axes (SimCC's x and y). Finite: to
            mask a class, give it a logit of -1e4 and not of ``-inf``, everywhere.
        mentor_logits: a sequence of ``M`` such logits, or ``[M, B, C]`` (``[M, B, U, K]``, or a
            tuple of stacked blocks). May be empty: the task loss remains. A mentor with a NaN or an
            infinity among its logits for a sample does not teach that sample.
        target: class indices ``[B]`` (``[B, U]``), or probabilities ``[B, C]`` (``[B, U, K]``);
            a tuple of blocks if the logits are. None without labels: there is no task loss then,
            and nobody can be ranked but by ``rank_divergence``.
        unit_weight: ``[B, U]``, 0 or more, such as visibility; a sample's units are averaged by
            it. Units of weight 0 are not ranked and not taught; their labels are not looked at.
            ``[B]`` for logits ``[B, C]``: samples of weight 0 are ignored (they count as a loss of
            0 in the mean), all others count alike.
        mentor_unit_weight: ``[B, U]``, weight of units in the mentors' terms, if another than that
            by which they rank: mentors may so teach joints that nobody has labelled, at their rank.
        mentor_mask: ``[M, U]`` or ``[M, B, U]`` (bool), the units that each mentor speaks about,
            such as the joints that it knows; all if left out. It is ranked on them against the
            student on the same units, and teaches them alone.
        rank_divergence: divergences to rank by in place of those from the target: the student's
            ``[B, U]`` and the mentors' ``[M, B, U]``, 0 for a perfect answer; scores are
            ``exp(-.)`` of their means. For mentors whose likelihoods cannot be compared.
        temperature: ``T``, the temperature's range: 12 for CIFAR-100, 4 to 8 for ImageNet.
        group: what is ranked together: each ``"sample"``, the whole ``"batch"`` (geometric mean),
            or each ``"unit"`` (then statistics have a further axis ``U``).
        filtering: False lets every mentor teach with weight 1: short for ``select="all"`` and
            ``weighting="equal"``. The authors' ablation without a filter has ``mentoring="none"``
            and ``task_weight=1`` besides.
        select: who teaches a sample: mentors ``"better"`` than the student (the knowledge filter);
            ``"all"``; only the ``"best"``; or all, each by a ``"soft"`` gate
            ``sigmoid((r_m - r_s) / 0.1)`` in its weight.
        require_correct: teach only where the mentor's most probable class is the true one, too.
        weighting: ``w_m`` by ``"score"`` as above, or ``"equal"`` to 1; or a function of
            the scores (`core.filter.Scores`), ``[M, B, G]``.
        prior: ``[M]``, by which each mentor's weight is multiplied on all samples, such as from
            its accuracy on development data.
        normalize: make the weights of those who teach a sample add up to 1.
        mix: ``"terms"``: each active mentor teaches by a term of its own; else all of them teach
            together as one, by the mean of their ``"logits"``, of their standardised logits
            (``"zscores"``) or of their ``"probabilities"``, by their weights made to add up to 1.
            The temperature then follows the gap of the ensemble, whose score is the weighted
            geometric mean of its members'.
        weight: of all mentors' terms together, beside the weights of each.
        mentoring: ``"gap"``; ``"none"`` for temperature 1; ``"fixed"`` for temperature ``T``;
            ``"dtkd"`` for DTKD's temperatures (the paper's ablations).
        task_weight: ``lambda``: the ``"student"``'s own score, the ``"batch"``'s, or a number.
        divergence: of a `LogitPair`, ``[M, B, U]``; the KL divergence by default.
        tau_squared: multiply the divergence by the squared temperature, with which a KL divergence
            shrinks; False for divergences that do not, such as correlations.
        transform: of the logits before they are compared, such as standardisation.
        compat: ``"official"`` reproduces the batch mode of the authors' code, with its rounded
            weights and its gate ``>=``; it ranks batches whatever `group` says, and the other
            switches must keep their defaults.

    Returns:
        The lesson: its differentiable ``loss``, and who taught what, per mentor and sample.

    Raises:
        ValueError: for shapes or options that do not fit, naming the one and what was expected.
        TypeError: for logits that are no tensors, such as the output object of a network.

    Example:
        >>> import torch
        >>> student = torch.tensor([[2.0, 1.0, 0.0]], requires_grad=True)
        >>> mentors = [torch.tensor([[4.0, 0.0, 0.0]]), torch.tensor([[0.0, 3.0, 0.0]])]
        >>> lesson = classroom_loss(student, mentors, torch.tensor([0]))
        >>> lesson.active.squeeze(1).tolist()
        [True, False]
        >>> lesson.loss.backward()

    Reference: Sarode et al., Classroom-Inspired Multi-Mentor Distillation with Adaptive Learning
    Strategies, 2024, arXiv 2409.20237.
    """
    signals = make_signals(
        student_logits,
        mentor_logits,
        target,
        unit_weight=unit_weight,
        mentor_unit_weight=mentor_unit_weight,
        mentor_mask=mentor_mask,
        rank_divergence=rank_divergence,
    )
    group, choices = classroom_choices(
        temperature=temperature,
        group=group,
        filtering=filtering,
        select=select,
        require_correct=require_correct,
        weighting=weighting,
        prior=prior,
        normalize=normalize,
        mix=mix,
        weight=weight,
        mentoring=mentoring,
        task_weight=task_weight,
        divergence=divergence,
        tau_squared=tau_squared,
        transform=transform,
        compat=compat,
    )
    return classroom_lesson(signals, group, choices, require_correct)


def classroom_lesson(
    signals: Signals, group: Group, choices: Choices, require_correct: bool = False
) -> Lesson:
    """The lesson of choices that are made; see `classroom_loss`."""
    if require_correct and group != "unit" and signals.has_units:
        raise ValueError("require_correct with several units needs group='unit': units differ")
    return combine(signals, choices, group)


@with_old_names
def compose_lesson(
    choices: Choices,
    student_logits: Logits,
    mentor_logits: MentorLogits,
    target: Logits,
    *,
    unit_weight: Tensor | None = None,
    mentor_unit_weight: Tensor | None = None,
    mentor_mask: Tensor | None = None,
    rank_divergence: tuple[Tensor, Tensor] | None = None,
    group: Group = "sample",
) -> Lesson:
    """`combine` by its name and arguments of before; it goes in the next release."""
    warnings.warn(
        "compose_lesson(choices, ...) is now combine(make_signals(...), choices); the old name goes"
        " in the next release",
        DeprecationWarning,
        stacklevel=3,
    )
    signals = make_signals(
        student_logits,
        mentor_logits,
        target,
        unit_weight=unit_weight,
        mentor_unit_weight=mentor_unit_weight,
        mentor_mask=mentor_mask,
        rank_divergence=rank_divergence,
    )
    return combine(signals, choices, group)


class ClassroomLoss(nn.Module):
    """`classroom_loss` as a module: the options at construction, the batch at the call.

    Example:
        >>> import torch
        >>> loss = ClassroomLoss(temperature=8.0)
        >>> lesson = loss(torch.zeros(2, 3), torch.randn(4, 2, 3), torch.tensor([0, 2]))
        >>> lesson.weight.shape
        torch.Size([4, 2])
    """

    prior: Tensor | None

    def __init__(self, **options: object) -> None:
        super().__init__()
        known = OPTIONS.keys()
        if unknown := options.keys() - known:
            raise TypeError(f"unknown options {sorted(unknown)}; known: {sorted(known)}")
        self.options = {name: value for name, value in options.items() if name != "prior"}
        self.register_buffer("prior", options.get("prior"))  # type: ignore[arg-type]
        self._made = self.prior, classroom_choices(**options)  # type: ignore[arg-type]

    @with_old_names
    def forward(
        self,
        student_logits: Logits,
        mentor_logits: MentorLogits,
        target: Logits | None,
        unit_weight: Tensor | None = None,
        mentor_unit_weight: Tensor | None = None,
        mentor_mask: Tensor | None = None,
        rank_divergence: tuple[Tensor, Tensor] | None = None,
    ) -> Lesson:
        """See `classroom_loss`."""
        return self.lesson(
            make_signals(
                student_logits,
                mentor_logits,
                target,
                unit_weight=unit_weight,
                mentor_unit_weight=mentor_unit_weight,
                mentor_mask=mentor_mask,
                rank_divergence=rank_divergence,
            )
        )

    def lesson(self, signals: Signals) -> Lesson:
        """The lesson of signals."""
        group, choices = self.choices()
        correct = bool(self.options.get("require_correct"))
        return classroom_lesson(signals, signals.group or group, choices, correct)

    def choices(self) -> tuple[Group, Choices]:
        """What is ranked together, and the choices that the options stand for."""
        if self._made[0] is not self.prior:  # it was set, or has moved to another device
            made = classroom_choices(prior=self.prior, **self.options)  # type: ignore[arg-type]
            self._made = self.prior, made
        return self._made[1]

    def extra_repr(self) -> str:
        """The options that differ from the defaults."""
        changed = {k: v for k, v in self.options.items() if v != OPTIONS[k]}
        return ", ".join(f"{name}={value!r}" for name, value in changed.items())
