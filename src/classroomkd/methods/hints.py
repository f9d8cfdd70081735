"""Hints from several mentors at once: FitNets-MKD.

Shapes: ``M`` mentors, ``B`` samples, ``D`` channels, ``N`` pixels.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from classroomkd.core import Lesson, Signals
from classroomkd.core.ensemble import shares
from classroomkd.core.filter import Scores, everyone
from classroomkd.methods.base import Outputs
from classroomkd.methods.composed import FromAll
from classroomkd.methods.features import FitNets
from classroomkd.methods.options import Count, Temperature, Weight
from classroomkd.methods.pairs import FeatureMethod, finite_samples
from classroomkd.methods.registry import register_method


@register_method("fitnets_mkd")
class FitNetsMKD(FromAll):
    r"""The mean of all mentors' logits and hints: AVER and FitNets together.

    .. math:: L = \lambda CE
              + \frac{w}{M} \sum_m \tau^2 KL(\sigma(z_m/\tau) \,\|\, \sigma(z_s/\tau))
              + \frac{\beta}{M} \sum_m \frac{1}{D_m N} \| r_m(F_s) - F_m \|^2

    The hints are those of `fitnets`, each mentor with a regressor of its own. A mentor whose logits
    for a sample are not finite does not teach it, nor does one by a map that is not finite; the
    means are of the others.

    Args:
        temperature: ``tau``.
        weight: ``w``, of the mentors' logits together.
        feature_weight: ``beta``, of their hints together.
        hint: which pair of stages, counted from 1.
        task_weight: ``lambda``, of the cross-entropy.

    Reference: a baseline of Zhang et al., Confidence-Aware Multi-Teacher Knowledge Distillation,
    ICASSP 2022, with the defaults of its public code.

    Deviations: the public code collects the hints' losses in a way that loses their gradient, so
    that its regressors are never trained and its student learns what AVER teaches; here they teach.
    Hints count from the first epoch on, there from the second. Regressors as in `fitnets`.
    """

    title = "FitNets-MKD"
    year = 2022
    kind = "feature"
    needs_features = True
    mutual = False

    def __init__(
        self,
        *,
        temperature: Temperature = 4.0,
        weight: Weight = 1.0,
        feature_weight: Weight = 100.0,
        hint: Count = 2,
        task_weight: Weight = 1.0,
    ) -> None:
        def weighting(scores: Scores) -> Tensor:
            return weight * shares(everyone(scores).to(scores.dtype))

        super().__init__(temperature, weighting, task_weight)
        self.feature_weight = feature_weight
        self.hint = hint
        self.hints = nn.ModuleList()

    def setup(self, student: Outputs, mentors: Sequence[Outputs]) -> None:
        """Build a regressor for each mentor."""
        hints = [FitNets(weight=1.0, hint=self.hint) for _ in mentors]
        for hint, mentor in zip(hints, mentors, strict=True):
            hint.setup(student, [mentor])
        self.hints = nn.ModuleList(hints)

    def lesson(self, signals: Signals) -> Lesson:
        """The lesson of the logits, and what the hints add."""
        lesson = super().lesson(signals)
        student, *mentors = signals.outputs
        if not mentors:
            return lesson
        hints = [hint for hint in self.hints if isinstance(hint, FeatureMethod)]
        if len(hints) != len(mentors):
            there = len(hints)
            raise self.not_set_up(f"has regressors for {there} mentors instead of {len(mentors)}")
        terms, finite = [], []
        for hint, mentor in zip(hints, mentors, strict=True):
            [(_, name)] = hint.names(student, mentor)
            shown, spoke = finite_samples(mentor.features[name].detach())
            clean = replace(mentor, features={**mentor.features, name: shown})
            terms.append(hint.term(student, clean, signals.label))
            finite.append(spoke)
        valid = lesson.active & torch.stack(finite)
        distance = torch.stack(terms)
        term = self.feature_weight * shares(valid.to(distance.dtype)) * distance
        return replace(
            lesson,
            loss=lesson.loss + term.sum(0).mean(),
            mentor_loss=lesson.mentor_loss + term.detach(),
        )
