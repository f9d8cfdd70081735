"""A method on the flow between feature maps: FSP. Shapes as in `features`."""

from torch import Tensor, nn

from classroomkd.methods.base import Outputs
from classroomkd.methods.options import Weight
from classroomkd.methods.pairs import FeatureMethod, Pairs, Regressor, pool_to
from classroomkd.methods.registry import register_method


@register_method("fsp")
class FSP(FeatureMethod):
    r"""Flow of the solution procedure: how consecutive maps of a network go together.

    The flow from a map ``E`` to the next, ``F``, is their Gram matrix ``[B, D_E, D_F]``; the larger
    of the two is average-pooled to the size of the smaller, with ``N`` pixels:

    .. math:: G(E, F)_{ij} = \frac{1}{N} \sum_n E_{in} F_{jn}, \qquad
              L = CE + w \sum_{k} \frac{1}{B D_k D_{k+1}}
              \| G(F_s^k, F_s^{k+1}) - G(F_t^k, F_t^{k+1}) \|^2

    over consecutive pairs ``k``, the stems included.

    Args:
        weight: ``w``.
        pairs: (the student's, the teacher's) by hand, shallow to deep; at least two.

    Reference: Yim et al., A Gift from Knowledge Distillation, CVPR 2017. Default and reduction of
    the CRD benchmark (RepDistiller).

    Deviations: flow and task are learnt together; the stage that trains the flow alone first (in
    the paper, and for 30 epochs in the benchmark) is not done. Maps are pooled by their mean, as
    in the benchmark; the paper takes the maximum. Both need networks of equal widths: here, a
    student's map of another width than the teacher's passes a trained 1x1 convolution with batch
    normalisation first.
    """

    title = "FSP"
    year = 2017
    adapts = True

    def __init__(self, *, weight: Weight = 50.0, pairs: Pairs | None = None) -> None:
        super().__init__(weight, pairs, stem=True)

    def adapter(self, student: Tensor, mentor: Tensor) -> nn.Module:
        """Nothing where the widths are equal."""
        if student.shape[1] == mentor.shape[1]:
            return nn.Identity()
        return Regressor(student.shape[1], mentor.shape[1])

    def names(self, student: Outputs, mentor: Outputs) -> list[tuple[str, str]]:
        """The names of the pairs, two at least, shallow to deep."""
        pairs = super().names(student, mentor)
        if len(pairs) < 2:
            raise ValueError(
                "fsp needs two pairs of maps at least: a flow goes from one to another"
            )
        return pairs

    def distances(self, maps: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
        """Mean squared difference of each flow: ``[B]``."""
        here = [adapter(s) for (s, _), adapter in zip(maps, self.adapters, strict=True)]
        there = [t for _, t in maps]
        return [
            (flow(*here[k : k + 2]) - flow(*there[k : k + 2])).square().mean((1, 2))
            for k in range(len(maps) - 1)
        ]


def flow(first: Tensor, second: Tensor) -> Tensor:
    """The Gram matrix of two maps of a network: ``[B, D_first, D_second]``."""
    size = (min(first.shape[2], second.shape[2]), min(first.shape[3], second.shape[3]))
    first, second = pool_to(first, size).flatten(2), pool_to(second, size).flatten(2)
    return first @ second.mT / first.shape[2]
