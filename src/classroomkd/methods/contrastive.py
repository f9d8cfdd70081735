"""Contrastive representation distillation, with a memory of every training sample.

Shapes: ``B`` samples of a batch, ``N`` of the training set, ``K`` negatives, ``D`` the embeddings'
width. An axis of 2 holds two sides: first the student's, then the mentor's.
"""

from collections.abc import Sequence
from math import log, log1p, sqrt
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from classroomkd.methods.base import Outputs
from classroomkd.methods.options import Count, Temperature, Weight
from classroomkd.methods.registry import register_method
from classroomkd.methods.relations import PooledRelation

Momentum = Annotated[float, Field(ge=0, lt=1)]


@register_method("crd")
class CRD(PooledRelation):
    r"""Contrastive representation distillation: student and teacher know a sample among many.

    Two linear maps embed the pooled features, ``v_s`` and ``v_t`` of length 1. Two memories keep an
    embedding of every training sample, ``m^s`` and ``m^t``. Each side is to tell sample ``i``
    itself from a set ``S_i`` of ``K`` samples of other classes, in the other side's memory:

    .. math:: P_s(j) = \frac{1}{Z_s} e^{\langle m^t_j, v_s \rangle / T}, \qquad
              P_t(j) = \frac{1}{Z_t} e^{\langle m^s_j, v_t \rangle / T}, \qquad
              c = \frac{K}{N} + \epsilon, \quad \epsilon = 10^{-7}

    .. math:: L = CE - w \frac{1}{B} \sum_i \sum_{P \in \{P_s, P_t\}} \Big[
              \log \frac{P(i)}{P(i) + c} + \sum_{j \in S_i} \log \frac{K / N}{P(j) + c} \Big]

    ``Z_s`` and ``Z_t`` are ``N`` times the mean of the exponentials in the first batch, and remain.
    After the loss, in training mode, the memories of the batch's samples move,
    ``m_i <- normalize(momentum m_i + (1 - momentum) v_i)``. The gradient reaches both embeddings,
    hence the teacher's embedding is trained, too; the teacher's feature is not.

    The memories are ``2 N D`` numbers (51 MB for the 50 000 images of CIFAR), which checkpoints
    hold and each step copies. The products of a step take ``2 B min(N, (K + 1) D)`` numbers: 26 MB
    for a batch of 64 with the defaults; a copy of the negatives for both sides, as in the authors'
    code, takes 1.1 GB.

    Args:
        weight: ``w``.
        negatives: ``K``; some hundreds are quick on a CPU.
        temperature: ``T``.
        momentum: how much of the old remains in a memory.
        dim: ``D``.

    Reference: Tian et al., Contrastive Representation Distillation, ICLR 2020. Defaults and
    constants (``Z``, ``epsilon``) are those of the authors' code (RepDistiller).

    Where samples are mixed, each is still the sample that its number says, and has negatives of
    other classes than its own, among them its partner's.

    Deviations: negatives are drawn anew in each step with replacement (the authors draw without,
    where a class has others enough); logarithms are computed as such, so that small temperatures do
    not overflow. As in the authors' code, of a sample that is in a batch twice one embedding is
    kept.
    """

    title = "CRD"
    year = 2020
    takes_units = False
    needs_index = True
    memory: Tensor
    log_z: Tensor

    def __init__(
        self,
        *,
        weight: Weight = 0.8,
        negatives: Count = 16384,
        temperature: Temperature = 0.07,
        momentum: Momentum = 0.5,
        dim: Count = 128,
    ) -> None:
        super().__init__(weight)
        self.negatives = negatives
        self.temperature = temperature
        self.momentum = momentum
        self.dim = dim
        self.rows: Rows | None = None
        self.embed = nn.ModuleList()
        self.register_buffer("memory", None)
        self.register_buffer("log_z", torch.full((2,), torch.nan))  # nan: not known yet

    def on_train_set(self, index: Tensor, target: Tensor) -> None:
        """Give every sample of the training set its row in the memories."""
        self.rows = Rows(index, target)

    def setup(self, student: Outputs, mentors: Sequence[Outputs]) -> None:
        """Build the embeddings, and memories of random directions."""
        if self.rows is None:
            raise RuntimeError(
                "crd remembers every sample: call method.on_train_set(index, target) with the"
                " training set's sample numbers and labels before method.setup(student, mentors)"
            )
        pooled = [self.pooled(outputs) for outputs in (student, mentors[0])]
        self.embed = nn.ModuleList(Embedding(feature.shape[1], self.dim) for feature in pooled)
        bound = 1 / sqrt(self.dim / 3)
        self.memory = torch.empty(2, len(self.rows), self.dim).uniform_(-bound, bound)
        self.to(pooled[0].device)

    def term(
        self, student: Outputs, mentor: Outputs, target: Tensor, index: Tensor | None = None
    ) -> Tensor:
        """The contrast of both sides, weighted: ``[B]``; in training mode, remembers the batch."""
        pooled = self.pooled(student), self.pooled(mentor).detach()
        if self.rows is None or index is None or not self.embed:
            raise RuntimeError(
                "crd has no memory yet: call method.on_train_set(index, target), then"
                " method.setup(student, mentors) with the outputs of a first batch, before the"
                " optimizer is made; term() needs the samples' numbers as index"
            )
        row = self.rows.row[index]
        chosen = torch.cat([row.unsqueeze(1), self.rows.negatives(row, self.negatives)], 1)
        embedded = torch.stack([e(x) for e, x in zip(self.embed, pooled, strict=True)])
        loss, log_z = contrast(embedded, self.memory, chosen, self.log_z, self.temperature)
        if self.training:
            self.memory = renewed(self.memory, row, embedded.detach(), self.momentum)
            self.log_z = log_z
        return self.weight * loss


class Embedding(nn.Linear):
    """A linear map whose results have length 1.

    Example:
        >>> Embedding(64, 128)(torch.rand(2, 64)).norm(dim=1).round(decimals=4).tolist()
        [1.0, 1.0]
    """

    def forward(self, input: Tensor) -> Tensor:
        """From ``[B, width]`` to ``[B, D]``."""
        return F.normalize(super().forward(input), dim=1)


class Rows(nn.Module):
    """A row from 0 to N - 1 for each sample of a training set, the rows of a class side by side.

    The samples of other classes are then all rows but one range.

    Args:
        index: ``[N]``, the samples' numbers, in any order and with gaps.
        target: ``[N]``, their labels.

    Attributes:
        row: of each sample number, ``[max(index) + 1]``; -1 in the gaps.
        first: of each row, the first row of its class, ``[N]``.
        count: of each row, the size of its class, ``[N]``.

    Raises:
        ValueError: if all samples are of one class.

    Example:
        >>> rows = Rows(torch.tensor([5, 2, 9]), torch.tensor([7, 3, 7]))
        >>> rows.row[torch.tensor([2, 5, 9])]
        tensor([0, 1, 2])
        >>> rows.negatives(torch.tensor([1, 2]), 3)  # of class 7: row 0 is the only other
        tensor([[0, 0, 0],
                [0, 0, 0]])
    """

    row: Tensor
    first: Tensor
    count: Tensor

    def __init__(self, index: Tensor, target: Tensor) -> None:
        super().__init__()
        _, count = target.unique(return_counts=True)
        if len(count) < 2:
            raise ValueError(
                "crd contrasts each sample with samples of other classes: the training set needs"
                f" two classes at least, and has {len(count)}"
            )
        row = index.new_full((int(index.max()) + 1,), -1)
        row[index[target.argsort(stable=True)]] = torch.arange(len(index), device=index.device)
        self.register_buffer("row", row)
        self.register_buffer("first", (count.cumsum(0) - count).repeat_interleave(count))
        self.register_buffer("count", count.repeat_interleave(count))

    def __len__(self) -> int:
        return len(self.first)

    def negatives(self, row: Tensor, number: int) -> Tensor:
        """Rows of other classes than that of each of ``[B]`` rows, drawn alike: ``[B, number]``."""
        first, count = self.first[row].unsqueeze(1), self.count[row].unsqueeze(1)
        # Of 2^62 numbers, the remainders are equally likely but for one part in 10^12.
        place = torch.randint(2**62, (len(row), number), device=row.device) % (len(self) - count)
        return torch.where(place < first, place, place + count)


def contrast(
    embedded: Tensor, memory: Tensor, chosen: Tensor, log_z: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """How badly each side knows a sample in the other side's memory among ``K`` others.

    Args:
        embedded: ``[2, B, D]``, of length 1.
        memory: ``[2, N, D]``.
        chosen: rows of the memory ``[B, K + 1]``: each sample's own, then its negatives.
        log_z: of each memory ``[2]``, the logarithm of ``Z``; nan to estimate it.
        temperature: ``T``.

    Returns:
        The loss of each sample, both sides summed, ``[B]``; and ``log_z``, known now.
    """
    score = products(embedded.flip(0), memory, chosen) / temperature
    exponents = score.detach().flatten(1)
    estimate = exponents.logsumexp(1) + log(memory.shape[1] / exponents.shape[1])
    log_z = torch.where(log_z.isnan(), estimate, log_z)
    log_p = score - log_z[:, None, None]
    return noise_contrast(log_p, memory.shape[1]).sum(0), log_z


def products(embedded: Tensor, memory: Tensor, chosen: Tensor) -> Tensor:
    """Dot products of embeddings and chosen rows, by the cheaper of two ways: ``[2, B, K + 1]``."""
    if memory.shape[1] <= chosen.shape[1] * memory.shape[2]:
        return (embedded @ memory.mT).gather(2, chosen.expand(2, -1, -1))
    return (memory[:, chosen] @ embedded.unsqueeze(3)).squeeze(3)


def noise_contrast(log_p: Tensor, population: int, eps: float = 1e-7) -> Tensor:
    """The loss of telling a sample, the first of ``[..., K + 1]``, from noise, all others.

    Args:
        log_p: logarithms of ``P``.
        population: ``N``.
        eps: added to ``K / N`` where it is added to ``P``.

    Returns:
        ``[...]``.

    Example:
        >>> certain = torch.tensor([50.0, -50.0, -50.0])
        >>> round(noise_contrast(certain, population=2, eps=0.0).item(), 6)
        0.0
    """
    negatives = log_p.shape[-1] - 1
    noise = negatives / population
    logit = log_p - log(noise + eps)
    positive, negative = F.logsigmoid(logit[..., 0]), F.logsigmoid(-logit[..., 1:]).sum(-1)
    return negatives * log1p(eps / noise) - positive - negative


def renewed(memory: Tensor, row: Tensor, embedded: Tensor, momentum: float) -> Tensor:
    """The memories with the rows ``[B]`` moved towards embeddings ``[2, B, D]``: ``[2, N, D]``.

    A new tensor: the gradient of the loss still needs the old one.
    """
    moved = momentum * memory[:, row] + (1 - momentum) * embedded
    return memory.index_copy(1, row, F.normalize(moved, dim=2))
