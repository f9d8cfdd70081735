"""A method on factors of the last feature map: FT. Shapes as in `features`."""

from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from classroomkd.methods.options import Count, Weight
from classroomkd.methods.pairs import Pairs, same_size
from classroomkd.methods.phases import Share, TwoPhaseMethod
from classroomkd.methods.registry import register_method

Rate = Annotated[float, Field(gt=0, le=1)]


class Factors(nn.Module):
    """The parts of factor transfer: the teacher's paraphraser (an autoencoder), the translator.

    Args:
        in_channels: of the student.
        out_channels: of the teacher.
        rate: channels of a factor, as a share of the teacher's.
    """

    def __init__(self, in_channels: int, out_channels: int, rate: float) -> None:
        super().__init__()
        width = max(int(rate * out_channels), 1)
        self.paraphraser = convolutions([out_channels, out_channels, width, width])
        self.decoder = convolutions(
            [width, width, out_channels, out_channels], kind=nn.ConvTranspose2d
        )
        self.translator = convolutions([in_channels, in_channels, width, width], normalize=True)


def convolutions(
    widths: list[int],
    *,
    kind: type[nn.Conv2d] | type[nn.ConvTranspose2d] = nn.Conv2d,
    normalize: bool = False,
) -> nn.Sequential:
    """3x3 convolutions from each width to the next, each with a leaky ReLU."""
    layers: list[nn.Module] = []
    for before, after in zip(widths[:-1], widths[1:], strict=True):
        layers.append(kind(before, after, 3, padding=1))
        layers += [nn.BatchNorm2d(after)] if normalize else []
        layers.append(nn.LeakyReLU(0.1))
    return nn.Sequential(*layers)


def factor_map(factor: Tensor) -> Tensor:
    """Mean squared channels of a factor ``[B, K, H, W]``, scaled to length 1: ``[B, N]``."""
    return F.normalize(factor.square().mean(1).flatten(1), dim=1)


@register_method("ft")
class FactorTransfer(TwoPhaseMethod):
    r"""Factor transfer: the student's translation should tell what the teacher's paraphrase tells.

    A paraphraser, an encoder ``P`` with a decoder ``D``, learns to reconstruct the teacher's last
    map without labels; a translator ``T`` of the student's last map learns its factors. With
    ``A(f)_n`` the mean over channels of ``f_n^2``,

    .. math:: L_{rec} = \frac{1}{B D_t N} \| D(P(F_t)) - F_t \|^2, \qquad
              L_{FT} = \frac{1}{B N} \Big\| \frac{A(T(F_s))}{\|A(T(F_s))\|_2}
              - \frac{A(P(F_t))}{\|A(P(F_t))\|_2} \Big\|_1

    The first ``init_share`` of the epochs learn ``CE + L_rec``, in which the student is alone with
    its labels; all others ``CE + w L_FT``, in which the paraphraser stays as it is. ``init_epochs``
    before them learn ``L_rec`` alone, in which the student stays as it is (but for the running
    statistics of its batch normalisation). Where nobody calls `begin_epoch`, every step learns
    ``CE + L_rec + w L_FT``. No gradient goes from ``L_FT`` to the paraphraser, nor from ``L_rec``
    to the student.

    Args:
        weight: ``w``.
        rate: channels of a factor, as a share of the teacher's.
        init_share: of the epochs for the paraphraser, rounded up, one at least.
        init_epochs: for the paraphraser, before the run's epochs and at its learning rate, in place
            of a share of them: 30 in the benchmark.
        pairs: (the student's, the teacher's) by hand, summed over; None for the last stages.

    Reference: Kim et al., Paraphrasing Complex Network: Network Compression via Factor Transfer,
    NeurIPS 2018. Defaults and the form of ``A`` are those of the CRD benchmark (RepDistiller): a
    share of 0.125 is its 30 epochs of 240.

    Deviations: the paper compares the factors themselves, scaled to length 1, and has no ``A``; the
    weight belongs to the benchmark's form. In the benchmark the paraphraser's epochs come before
    the 240 (``init_epochs=30``), with a learning rate of 0.01 for ResNets; by default they are part
    of the run here, so that every method has as many epochs, and the student learns its labels
    meanwhile (maps of large values, such as those of an untrained teacher, may need
    ``train.clip``). Factors of two sizes are pooled to the smaller.
    """

    title = "FT"
    year = 2018
    adapts = True
    last_alone = True

    def __init__(
        self,
        *,
        weight: Weight = 200.0,
        rate: Rate = 0.5,
        init_share: Share = 0.125,
        init_epochs: Count | None = None,
        pairs: Pairs | None = None,
    ) -> None:
        super().__init__(1.0, pairs, init_share=init_share, init_epochs=init_epochs)
        self.factor_weight = weight  # of one of the two terms that `distance` adds
        self.rate = rate

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Choose between the paraphraser and the student, who learns the task in the run's own."""
        super().begin_epoch(epoch, epochs)
        self.task_weight = float(epoch >= 0)

    def adapter(self, student: Tensor, mentor: Tensor) -> nn.Module:
        """Paraphraser and translator of a pair."""
        return Factors(student.shape[1], mentor.shape[1], self.rate)

    def distance(self, student: Tensor, mentor: Tensor, adapter: nn.Module | None = None) -> Tensor:
        """The terms of this epoch, at their weights: ``[B]``."""
        assert isinstance(adapter, Factors)
        term = student.new_zeros(len(student))
        paraphrase = adapter.paraphraser(mentor)
        if self.first:
            term = term + (adapter.decoder(paraphrase) - mentor).square().mean((1, 2, 3))
        if self.second:
            here, there = same_size(adapter.translator(student), paraphrase.detach())
            difference = (factor_map(here) - factor_map(there)).abs().mean(1)
            term = term + self.factor_weight * difference
        return term
