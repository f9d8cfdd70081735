"""A method on the flow between feature maps: FSP. Shapes as in `features`."""

from torch import Tensor, nn

from classroomkd.methods.base import Outputs
from classroomkd.methods.options import Count, Weight
from classroomkd.methods.pairs import Pairs, Regressor, pool_to
from classroomkd.methods.phases import PreparingMethod, Share
from classroomkd.methods.registry import register_method


@register_method("fsp")
class FSP(PreparingMethod):
    r"""Flow of the solution procedure: how consecutive maps of a network go together.

    The flow from a map ``E`` to the next, ``F``, is their Gram matrix ``[B, D_E, D_F]``; the larger
    of the two is average-pooled to the size of the smaller, with ``N`` pixels:

    .. math:: G(E, F)_{ij} = \frac{1}{N} \sum_n E_{in} F_{jn}, \qquad
              L_{FSP} = w \sum_{k} \frac{1}{B D_k D_{k+1}}
              \| G(F_s^k, F_s^{k+1}) - G(F_t^k, F_t^{k+1}) \|^2

    over consecutive pairs ``k``, the stems included. It prepares the student: the first
    ``init_share`` of the epochs learn ``L_FSP`` alone, in which the classifier stays as it is; all
    others the cross-entropy alone, in which no teacher takes part. With ``joint``, and where nobody
    calls `begin_epoch`, every step learns ``CE + L_FSP``. As a second method of a `classroom`,
    ``L_FSP`` ends at the same epoch (not with ``joint``), while the classroom's own loss is learnt
    throughout.

    Args:
        weight: ``w``.
        init_share: of the epochs for ``L_FSP``, rounded up, one at least: a run of a single epoch
            learns no classification.
        init_epochs: for ``L_FSP``, before the run's epochs and at its learning rate, in place of a
            share of them: 30 in the benchmark.
        joint: learn both in every epoch, another method. At a weight of 1 the gradient of ``L_FSP``
            is of the cross-entropy's order, 0.6 to 4 times as large in the pairs looked at.
        pairs: (the student's, the teacher's) by hand, shallow to deep; at least two.

    Reference: Yim et al., A Gift from Knowledge Distillation, CVPR 2017, in the form of the CRD
    benchmark (RepDistiller): the flow is learnt without a weight for 30 epochs before the 240, of
    which a share of 0.125 is as many. (The weight of 50 of its run script multiplies a loss of 0.)

    Deviations: in the benchmark the 30 epochs come before the 240 (``init_epochs=30``); by default
    they are part of the run here, so that every method has as many epochs. The optimizer goes on
    from one phase to the next. Maps are pooled by their mean, as in the benchmark; the paper takes
    the maximum. Both need networks of equal widths: here, a student's map of another width than the
    teacher's passes a trained 1x1 convolution with batch normalisation first.
    """

    title = "FSP"
    year = 2017
    adapts = True

    def __init__(
        self,
        *,
        weight: Weight = 1.0,
        init_share: Share = 0.125,
        init_epochs: Count | None = None,
        joint: bool = False,
        pairs: Pairs | None = None,
    ) -> None:
        if joint and init_epochs is not None:
            raise ValueError("fsp has no first phase with joint: leave out init_epochs, or joint")
        super().__init__(weight, pairs, init_share=init_share, init_epochs=init_epochs, stem=True)
        self.joint = joint

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Choose between the teacher's flow and the task, unless both are learnt throughout."""
        if not self.joint:
            super().begin_epoch(epoch, epochs)

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
