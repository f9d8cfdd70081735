"""A student that learns to be read by its teacher's classifier: SimKD.

Shapes: ``B`` samples, ``D`` channels, ``N`` pixels.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from classroomkd.core import Lesson, Signals
from classroomkd.methods.base import Outputs, SingleMethod, feature_lesson, outputs_as_signals
from classroomkd.methods.heads import Projector, ReplacedHead, frozen_copy, head_map
from classroomkd.methods.options import Count, Weight
from classroomkd.methods.pairs import same_size
from classroomkd.methods.registry import register_method


@register_method("simkd")
class SimKD(SingleMethod):
    r"""The teacher's classifier is reused; the student learns the map that it takes.

    .. math:: L = \frac{w}{B D_t N} \| P(F_s) - F_t \|^2

    ``F`` is the map that a network pools. ``P`` is trained along: three convolutions (1x1, 3x3,
    1x1; ``D_t / r`` channels in between), each with batch normalisation and ReLU. There is no
    cross-entropy.

    The student that is judged and deployed is its backbone, ``P`` and the teacher's classifier,
    frozen (see `head`): ``z = classifier(mean over pixels of P(F_s))``. From these logits come the
    lesson's scores, too; the student's own classifier is neither trained nor exported. As part of
    a `classroom` the method is a term like any other, and the student keeps its own classifier.

    Args:
        weight: ``w``.
        factor: ``r``.

    Reference: Chen et al., Knowledge Distillation with the Reused Teacher Classifier, CVPR 2022,
    with the projector, the factor and the weight of its public code.

    Deviations: where the student's map is the larger, the public code pools it before the
    projector; here both maps are pooled after it, so that the deployed student need not know the
    size of the teacher's map.
    """

    title = "SimKD"
    year = 2022
    kind = "feature"
    needs_features = True
    task_weight = 0.0

    def __init__(self, *, weight: Weight = 1.0, factor: Count = 2) -> None:
        super().__init__()
        self.weight = weight
        self.factor = factor
        self.projector: Projector | None = None
        self.classifier: nn.Linear | None = None

    def setup(self, student: Outputs, mentors: Sequence[Outputs]) -> None:
        """Build the projector, and copy the teacher's classifier."""
        here = head_map(student.features, "student")
        width = head_map(mentors[0].features, "mentor").shape[1]
        projector = Projector(here.shape[1], width, max(width // self.factor, 1))
        self.projector = projector.to(here.device)
        self.classifier = frozen_copy(mentors[0].classifier, self.name).to(here.device)

    def head(self) -> ReplacedHead:
        """The projector and the teacher's classifier."""
        if self.projector is None or self.classifier is None:
            raise self.not_set_up("has no projector yet")
        return ReplacedHead(self.projector, self.classifier)

    def lesson(self, signals: Signals) -> Lesson:
        """The distance of the maps; scores are those of the teacher's classifier."""
        student, mentor = signals.outputs
        projected = self._project(student)
        term = self._distance(projected, mentor)
        logits = self.head().classifier(projected.detach().mean((2, 3)))
        reused = outputs_as_signals([Outputs(logits), mentor], signals.label)
        return feature_lesson(reused, term.unsqueeze(0), self.task_weight)

    def term(
        self, student: Outputs, mentor: Outputs, target: Tensor, index: Tensor | None = None
    ) -> Tensor:
        """Mean squared error of the projected map, weighted: ``[B]``."""
        return self._distance(self._project(student), mentor)

    def _project(self, student: Outputs) -> Tensor:
        features = head_map(student.features, "student")
        return self.head().projector(features)

    def _distance(self, projected: Tensor, mentor: Outputs) -> Tensor:
        here, there = same_size(projected, head_map(mentor.features, "mentor").detach())
        return self.weight * (here - there).square().mean((1, 2, 3))
