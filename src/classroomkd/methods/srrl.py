"""A student whose features the teacher's classifier reads as its own: SRRL.

Shapes: ``B`` samples, ``C`` classes, ``D`` channels.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from classroomkd.methods.base import Outputs, SingleMethod
from classroomkd.methods.heads import frozen_copy, head_map
from classroomkd.methods.options import Weight
from classroomkd.methods.pairs import Regressor, exact
from classroomkd.methods.registry import register_method


@register_method("srrl")
class SRRL(SingleMethod):
    r"""The mean of the student's map, and what the teacher's classifier makes of it.

    .. math:: L = CE + w \Big[ \frac{1}{B D_t} \| x - x_t \|^2
              + \frac{v}{B C} \| c_t(x) - c_t(x_t) \|^2 \Big]

    ``x_t`` is the teacher's pooled feature, ``x`` the mean over the pixels of ``r(F_s)``, where
    ``F_s`` is the map that the student pools and ``r`` a 1x1 convolution with batch normalisation
    and ReLU, trained along. ``c_t`` is the teacher's classifier, frozen, in the order
    of the data's classes.

    Args:
        weight: ``w``.
        logit_weight: ``v``.

    Reference: Yang et al., Knowledge Distillation via Softmax Regression Representation Learning,
    ICLR 2021; network, reductions and weights of its public code, which is for ImageNet
    (jingyang2017/KD_SRRL). On CIFAR-100 a re-implementation (yzd-v/cls_KD) has ``v`` 5.
    """

    title = "SRRL"
    year = 2021
    kind = "feature"
    needs_features = True

    def __init__(self, *, weight: Weight = 1.0, logit_weight: Weight = 1.0) -> None:
        super().__init__()
        self.weight = weight
        self.logit_weight = logit_weight
        self.connector: nn.Sequential | None = None
        self.classifier: nn.Linear | None = None

    def setup(self, student: Outputs, mentors: Sequence[Outputs]) -> None:
        """Build the connector, and copy the teacher's classifier."""
        here = head_map(student.features, "student")
        classifier = frozen_copy(mentors[0].classifier, self.name)
        connector = nn.Sequential(Regressor(here.shape[1], classifier.in_features), nn.ReLU())
        self.connector = connector.to(here.device)
        self.classifier = classifier.to(here.device)

    def term(
        self, student: Outputs, mentor: Outputs, target: Tensor, index: Tensor | None = None
    ) -> Tensor:
        """Squared errors of the feature and of the teacher's logits, weighted: ``[B]``."""
        if self.connector is None or self.classifier is None:
            raise self.not_set_up("has no connector yet")
        here = self.connector(head_map(student.features, "student")).mean((2, 3))
        there = pooled(mentor).detach()
        of_logits = self.classifier(here) - self.classifier(there)
        errors = [gap.square().mean(1) for gap in (here - there, of_logits)]
        return self.weight * (errors[0] + self.logit_weight * errors[1])


def pooled(mentor: Outputs) -> Tensor:
    """What its classifier takes: ``[B, D]``."""
    if "pooled" in mentor.features:
        return exact(mentor.features["pooled"])
    return head_map(mentor.features, "mentor").mean((2, 3))
