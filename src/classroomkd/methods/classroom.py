"""ClassroomKD as a method of recipes, alone or together with any method of one mentor.

Shapes: ``M`` mentors, ``B`` samples.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from classroomkd.core import ClassroomLoss, Lesson, Signals
from classroomkd.core.filter import Group
from classroomkd.core.options import OPTIONS, Mentoring, Mix, Select
from classroomkd.methods.base import Method, Outputs
from classroomkd.methods.confidence import confidence_weight
from classroomkd.methods.divergences import DivergenceName, logit_transform, named_divergence
from classroomkd.methods.multi import entropy_weight
from classroomkd.methods.options import Weight
from classroomkd.methods.registry import register_method
from classroomkd.methods.second import Also, SecondMethod, chosen_method
from classroomkd.moved import names_of

Ablation = Literal["no_filter", "no_mentoring", "dtkd"]
ABLATIONS: dict[str, dict[str, Any]] = {
    "no_filter": {"filtering": False, "mentoring": "none", "task_weight": 1.0},
    "no_mentoring": {"mentoring": "none"},
    "dtkd": {"mentoring": "dtkd"},
}


def _ablated(options: dict[str, Any], ablation: Ablation | None) -> dict[str, Any]:
    """The options with those that an ablation of the paper stands for."""
    if ablation is None:
        return options
    changes = ABLATIONS[ablation]
    if clash := [
        name for name, value in changes.items() if options[name] not in (value, OPTIONS[name])
    ]:
        raise ValueError(f"ablation={ablation!r} decides {', '.join(clash)}: leave the default")
    if options["compat"] is None:
        return options | changes
    if ablation == "no_mentoring":  # the batch mode without a gap: temperature 1
        return options | {"temperature": 0.0}
    raise ValueError(
        f"compat='official' has no ablation {ablation!r}; without a filter it is the same as"
        " ablation='no_filter' alone, and its temperatures of DTKD are another thing: leave compat"
        " out"
    )


def accuracy_prior(accuracy: Tensor) -> Tensor:
    r"""Weights of mentors from their accuracies, ``[M] -> [M]``, 1 on average.

    .. math:: \pi_m = M \frac{e^{a_m / 5}}{\sum_k e^{a_k / 5}}

    ``a`` is in percent: who is five points better counts ``e`` times as much.

    Example:
        >>> accuracy_prior(torch.tensor([60.0, 55.0])).round(decimals=3)
        tensor([1.4620, 0.5380])
    """
    return len(accuracy) * torch.softmax(accuracy / 5.0, dim=0)


@register_method("classroom")
class ClassroomKD(Method):
    r"""ClassroomKD: only mentors that do better teach, each as softly as its gap is wide.

    The loss and the meaning of the options are those of `classroomkd.classroom_loss`. With
    ``also``, each active mentor teaches by a second method at the classroom's weights:

    .. math:: L = L_{classroom} + mean_i \sum_m a_m(i) w_m(i) T_m(i)

    where ``T_m`` is the term of that method for mentor ``m`` (its ``weight`` included, without its
    cross-entropy); a term that relates samples, and so has one value for a batch, counts by the
    batch's mean of ``a_m w_m``. Each mentor has adapters of its own.

    Args:
        temperature: ``T`` of ``tau = 1 + T gap``.
        group: what is ranked together, each ``"sample"`` or the ``"batch"``.
        filtering: False lets every mentor teach with weight 1: short for ``select: all`` and
            ``weighting: equal``.
        select: who teaches a sample: mentors ``"better"`` than the student (the filter), ``"all"``,
            the ``"best"`` alone, or all by a ``"soft"`` gate.
        require_correct: whether a mentor's prediction must be right, too.
        weighting: of those: by ``"score"`` (the paper), ``"equal"``, by ``"confidence"`` (CA-MKD:
            low cross-entropy with the label) or ``"entropy"`` (EBKD: sure predictions).
        prior: ``"accuracy"`` multiplies a mentor's weight by ``exp(a / 5)``, scaled to 1 on
            average over the mentors, where ``a`` is its accuracy in percent on the development
            split, measured before training.
        normalize: whether the weights of those who teach a sample add up to 1.
        mix: ``"terms"``: each teaches by itself; else all teach as one, by the mean of their
            ``"logits"``, of standardised logits (``"zscores"``) or of ``"probabilities"``.
        weight: of the mentors' terms together.
        mentoring: ``"gap"``, ``"none"`` (temperature 1), ``"fixed"`` (T) or ``"dtkd"``.
        task_weight: of the cross-entropy: the ``"student"``'s score, the ``"batch"``'s, a number.
        divergence: what is learnt from an active mentor: ``"kl"``, ``"dkd"``, ``"rld"`` or
            ``"dist"``, the latter with their usual options, or ``"none"`` for what ``also`` says
            alone. DIST's correlations do not shrink with the temperature, and so are not
            multiplied by its square: they have the published weight of 32 at any.
        standardize: compare z-scores of the logits (LSKD). It changes no other option, and mentors
            then teach less, for z-scores are small: their gradient is 1.2 times as small where the
            student's logits have a deviation of 1, about 5 times where it is 2. A ``weight`` of 9,
            LSKD's, makes up for it.
        also: a method of one mentor by name, or its name and options, such as ``at`` or
            ``{name: at, weight: 500}``.
        compat: ``"official"`` for the batch mode of the authors' code.
        ablation: the paper's ablations, which set the options that belong together:
            ``"no_filter"`` (every mentor, weight 1, temperature 1, task weight 1),
            ``"no_mentoring"`` (temperature 1), ``"dtkd"`` (temperatures of DTKD).

    Reference: Sarode et al., Classroom-Inspired Multi-Mentor Distillation with Adaptive Learning
    Strategies, 2024. ``also`` is ours.

    Example:
        >>> ClassroomKD(divergence="dist", also="fitnets").needs_features
        True
    """

    title = "ClassroomKD"
    year = 2024
    mutual = True

    def __init__(
        self,
        *,
        temperature: Weight = 12.0,
        group: Group = "sample",
        filtering: bool = True,
        select: Select = "better",
        require_correct: bool = False,
        weighting: Literal["score", "equal", "confidence", "entropy"] = "score",
        prior: Literal["accuracy"] | None = None,
        normalize: bool = False,
        mix: Mix = "terms",
        weight: Weight = 1.0,
        mentoring: Mentoring = "gap",
        task_weight: Weight | Literal["student", "batch"] = "student",
        divergence: DivergenceName = "kl",
        standardize: bool = False,
        also: Also | None = None,
        compat: Literal["official"] | None = None,
        ablation: Ablation | None = None,
    ) -> None:
        super().__init__()
        learnt = named_divergence(divergence)
        options: dict[str, Any] = {
            "temperature": temperature,
            "group": group,
            "filtering": filtering,
            "select": select,
            "require_correct": require_correct,
            "weighting": {"confidence": confidence_weight, "entropy": entropy_weight}.get(
                weighting, weighting
            ),
            "normalize": normalize,
            "mix": mix,
            "weight": weight,
            "mentoring": mentoring,
            "task_weight": task_weight,
            "divergence": learnt.divergence,
            "tau_squared": learnt.tau_squared,
            "transform": logit_transform(standardize),
            "compat": compat,
        }
        self.loss = ClassroomLoss(**_ablated(options, ablation))
        self.needs_accuracy = prior is not None
        self.second = None if also is None else SecondMethod(**chosen_method(also))
        self.takes_units = self.second is None or self.second.wants.takes_units
        if self.second is not None:
            wants = self.second.wants
            self.mutual = False
            self.needs_features = wants.needs_features
            self.needs_preactivations = wants.needs_preactivations
            self.needs_index = wants.needs_index
            self.soft_targets = wants.soft_targets
            self.views = wants.views

    def set_accuracy(self, accuracy: Sequence[float]) -> None:
        """Weigh each mentor by its accuracy; see `accuracy_prior`."""
        self.loss.prior = accuracy_prior(torch.tensor(accuracy, dtype=torch.float64)).float()

    def on_train_set(self, index: Tensor, target: Tensor) -> None:
        """Keep the training set for the second method, until `setup`."""
        if self.second is not None:
            self.second.on_train_set(index, target)

    def setup(self, student: Outputs, mentors: Sequence[Outputs]) -> None:
        """Build the second method, one to a mentor."""
        if self.second is not None:
            self.second.setup(student, mentors)

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Tell the second method."""
        if self.second is not None:
            self.second.begin_epoch(epoch, epochs)

    def lesson(self, signals: Signals) -> Lesson:
        """`classroom_loss` on the logits, and what the second method adds."""
        if self.needs_accuracy and self.loss.prior is None:
            raise RuntimeError(
                "prior='accuracy' needs the mentors' accuracies: call method.set_accuracy(percents)"
            )
        lesson = self.loss.lesson(signals)
        return lesson if self.second is None else self.second.added_to(lesson, signals)


__getattr__ = names_of(__name__, {
    "Classroom": "classroomkd.methods.classroom:ClassroomKD",
})  # fmt: skip
