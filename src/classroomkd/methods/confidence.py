"""Mentors that are right count more, in logits and in features: CA-MKD.

Shapes: ``M`` mentors, ``B`` samples, ``D`` channels, ``N`` pixels.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from classroomkd.core import Lesson, Signals
from classroomkd.core.divergence import cross_entropy
from classroomkd.core.filter import Scores
from classroomkd.methods.base import Outputs
from classroomkd.methods.composed import FromAll
from classroomkd.methods.heads import frozen_copy, head_map
from classroomkd.methods.options import Temperature, Weight
from classroomkd.methods.pairs import Regressor, finite_samples, same_size
from classroomkd.methods.registry import register_method


@register_method("ca_mkd")
class CAMKD(FromAll):
    r"""Mentors that are right count more: weights from their cross-entropy with the label.

    .. math:: L = \lambda CE + w \sum_m c_m \tau^2 KL(\sigma(z_m/\tau) \,\|\, \sigma(z_s/\tau))
              + \beta \sum_m c^{inter}_m \frac{1}{D_m N} \| r_m(F_s) - F_m \|^2

    .. math:: c_m = \frac{1 - softmax_m(CE_1, \dots, CE_M)}{M - 1}, \qquad
              c^{inter}_m = \frac{1 - softmax_m(CE^{inter}_1, \dots, CE^{inter}_M)}{M - 1}

    ``CE_m`` is the cross-entropy of mentor ``m``, ``CE^{inter}_m`` that of its classifier when it
    is given the student's map, regressed and pooled: who is right about what the student sees
    teaches it features. Weights are constants to the gradient and add up to 1 on every sample (a
    single mentor has 1). ``F`` is the map that a network pools; where sizes differ, the larger is
    average-pooled to the smaller. ``r_m`` is a 1x1 convolution with batch normalisation, trained
    along. The lesson's ``weight`` is that of the logits, ``w c_m``.

    A mentor whose logits for a sample are not finite does not teach it, nor does one by features
    that are not finite; the weights are those of the other mentors, ``M`` their number.

    Args:
        temperature: ``tau``.
        weight: ``w``, of the mentors' logits together.
        feature_weight: ``beta``, of their features together; with 0 no features are read, and
            mentors may train along.
        task_weight: ``lambda``, of the cross-entropy.
        standardize: compare z-scores of the logits (LSKD): options that are not given are then
            temperature 2 and 9 times the weight, as in `dkd`; for this method, they are ours.

    Reference: Zhang et al., Confidence-Aware Multi-Teacher Knowledge Distillation, ICASSP 2022,
    with the defaults of its public code.

    Deviations from the public code: weights that add up to 1 already are not divided by the number
    of mentors once more, so that its published numbers belong to ``weight=1/M`` and
    ``feature_weight=50/M``; features count from the first epoch on, there from the second; the
    regressors do not end in a
    ReLU, since not every mentor's map is positive; a student's map that is the smaller is not
    enlarged, and is not pooled for one mentor by what was pooled for another.
    """

    title = "CA-MKD"
    year = 2022
    kind = "feature"
    needs_features = True
    mutual = False

    def __init__(
        self,
        *,
        temperature: Temperature = 4.0,
        weight: Weight = 1.0,
        feature_weight: Weight = 50.0,
        task_weight: Weight = 1.0,
        standardize: bool = False,
    ) -> None:
        def weighting(scores: Scores) -> Tensor:
            return weight * confidence_weight(scores)

        super().__init__(temperature, weighting, task_weight, standardize=standardize)
        self.feature_weight = feature_weight
        self.needs_features = feature_weight > 0
        self.mutual = not self.needs_features
        self.regressors = nn.ModuleList()
        self.classifiers = nn.ModuleList()

    def setup(self, student: Outputs, mentors: Sequence[Outputs]) -> None:
        """Build a regressor for each mentor, and copy its classifier."""
        if not self.needs_features:
            return
        here = head_map(student.features, "student")
        widths = [head_map(mentor.features, "mentor").shape[1] for mentor in mentors]
        regressors = [Regressor(here.shape[1], width) for width in widths]
        classifiers = [frozen_copy(mentor.classifier, self.name) for mentor in mentors]
        self.regressors = nn.ModuleList(regressors).to(here.device)
        self.classifiers = nn.ModuleList(classifiers).to(here.device)

    def lesson(self, signals: Signals) -> Lesson:
        """The lesson of the logits, and what the features add."""
        lesson = super().lesson(signals)
        if not self.needs_features or not lesson.active.shape[0]:
            return lesson
        student, *mentors = signals.outputs
        terms = self.feature_terms(student, mentors, signals.label, lesson.active)
        return replace(
            lesson,
            loss=lesson.loss + terms.sum(0).mean(),
            mentor_loss=lesson.mentor_loss + terms.detach(),
        )

    def feature_terms(
        self, student: Outputs, mentors: Sequence[Outputs], target: Tensor, valid: Tensor
    ) -> Tensor:
        """What the features of each mentor add to the loss: ``[M, B]``.

        Args:
            student: what the student says.
            mentors: what its mentors say.
            target: ``[B]``.
            valid: ``[M, B]`` (bool), who may teach.
        """
        if len(self.regressors) != len(mentors):
            there = len(self.regressors)
            raise self.not_set_up(f"has regressors for {there} mentors instead of {len(mentors)}")
        feature = head_map(student.features, "student")
        shown, finite = zip(
            *(finite_samples(head_map(m.features, "mentor").detach()) for m in mentors), strict=True
        )
        valid = valid & torch.stack(finite)
        maps = [same_size(feature, there) for there in shown]
        regressed = [r(here) for r, (here, _) in zip(self.regressors, maps, strict=True)]
        distance = torch.stack(
            [
                (f - there).square().mean((1, 2, 3))
                for f, (_, there) in zip(regressed, maps, strict=True)
            ]
        )
        with torch.no_grad():
            judged = [
                cross_entropy(classifier(f.mean((2, 3))), target)
                for classifier, f in zip(self.classifiers, regressed, strict=True)
            ]
            share = confidence(torch.stack(judged).masked_fill(~valid, torch.inf))
        return self.feature_weight * share * distance


def confidence(loss: Tensor) -> Tensor:
    """Weights of mentors from their cross-entropies ``[M, ...]``, infinite for who is not to teach.

    They add up to 1 over the mentors whose cross-entropy is finite, and are 0 for all others.
    """
    valid = loss.isfinite()
    others = valid.sum(0) - 1
    wrong = torch.softmax(torch.where(valid, loss, -torch.inf), dim=0)
    return torch.where(valid, torch.where(others > 0, (1 - wrong) / others.clamp_min(1), 1), 0)


def confidence_weight(scores: Scores) -> Tensor:
    """CA-MKD's weights from the cross-entropies of predictions, ``[M, B, G]``."""
    return confidence(scores.mentor_divergence)
