"""Methods on the relations of a batch's samples, from one teacher: PKT, SP, RKD, CC as benchmarked.

Shapes: ``B`` samples, ``D`` channels or width; ``x`` are features ``[B, D_s]`` of the student and
``[B, D_t]`` of the teacher, whose widths need not be equal. All add ``weight`` times one number for
the batch to the cross-entropy, so that ``mentor_loss`` is ``[1]``. None has a temperature,
and only `cc_benchmark` parameters of its own. All depend on the batch size.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from classroomkd.methods.base import Outputs, SingleMethod
from classroomkd.methods.options import Count, Weight
from classroomkd.methods.pairs import FeatureMethod, Pairs, exact
from classroomkd.methods.registry import register_method


class PooledRelation(SingleMethod):
    """A method that compares how samples relate in the pooled features; see `relation`."""

    kind = "relation"
    takes_units = True
    needs_features = True

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def setup(self, student: Outputs, mentors: Sequence[Outputs]) -> None:
        """Check that both show their pooled feature."""
        for outputs in (student, mentors[0]):
            self.pooled(outputs)

    def pooled(self, outputs: Outputs) -> Tensor:
        """The pooled feature ``[B, D]`` in full precision."""
        if "pooled" not in outputs.features:
            raise ValueError(
                f"{self.name} needs the feature 'pooled': give Outputs(logits, features) with the"
                " features of network.forward_stages(images)"
            )
        return exact(outputs.features["pooled"])

    def term(
        self, student: Outputs, mentor: Outputs, target: Tensor, index: Tensor | None = None
    ) -> Tensor:
        """How much the relations differ, weighted: ``[]``."""
        return self.weight * self.relation(self.pooled(student), self.pooled(mentor).detach())

    def relation(self, student: Tensor, mentor: Tensor) -> Tensor:
        """How much the samples' relations differ: ``[]``; to be implemented."""
        raise NotImplementedError(f"{type(self).__name__} does not implement relation()")


@register_method("pkt")
class PKT(PooledRelation):
    r"""Probabilistic knowledge transfer: which samples are neighbours, as probabilities.

    .. math:: p_{ij} = \frac{1 + \cos(x_i, x_j)}{\sum_k 1 + \cos(x_i, x_k)}, \qquad
              L = CE + w \frac{1}{B^2} \sum_{ij} p^t_{ij}
              \log \frac{p^t_{ij} + \epsilon}{p^s_{ij} + \epsilon}, \quad \epsilon = 10^{-7}

    Args:
        weight: ``w``.

    Reference: Passalis and Tefas, Learning Deep Representations with Probabilistic Knowledge
    Transfer, ECCV 2018. Default of the CIFAR-100 benchmark (mdistiller). Deviations: as in the
    authors' code, a sample is its own neighbour, too, and the mean is over all ``B^2`` pairs.
    """

    title = "PKT"
    year = 2018

    def __init__(self, *, weight: Weight = 3e4) -> None:
        super().__init__(weight)

    def relation(self, student: Tensor, mentor: Tensor) -> Tensor:
        """Mean over pairs of the divergence's terms: ``[]``."""
        here, there = neighbours(student), neighbours(mentor)
        return (there * ((there + 1e-7) / (here + 1e-7)).log()).mean()


def neighbours(x: Tensor) -> Tensor:
    """Probabilities that a sample (row) has another (column) as its neighbour: ``[B, B]``."""
    unit = F.normalize(x, dim=1, eps=1e-7)
    similarity = 1 + unit @ unit.T
    return similarity / similarity.sum(1, keepdim=True)


@register_method("sp")
class SimilarityPreserving(FeatureMethod):
    r"""Similarity-preserving distillation: samples that are alike to the teacher should be alike.

    .. math:: G_{i:} = \frac{(Q Q^\top)_{i:}}{\|(Q Q^\top)_{i:}\|_2}, \qquad
              L = CE + w \frac{1}{B^2} \| G_t - G_s \|_F^2

    ``Q [B, D H W]`` are the flattened maps of the last stage; they need not have one size.

    Args:
        weight: ``w``.
        pairs: (the student's, the teacher's) by hand, summed over; None for the last stages.

    Reference: Tung and Mori, Similarity-Preserving Knowledge Distillation, ICCV 2019. Default of
    the CIFAR-100 benchmark (mdistiller). Deviations: the last stage only, as in the benchmark.
    """

    title = "SP"
    year = 2019
    kind = "relation"
    last_alone = True

    def __init__(self, *, weight: Weight = 3000.0, pairs: Pairs | None = None) -> None:
        super().__init__(weight, pairs)

    def distance(self, student: Tensor, mentor: Tensor, adapter: nn.Module | None = None) -> Tensor:
        """Mean squared difference of the similarities: ``[]``."""
        return (similarities(mentor) - similarities(student)).square().mean()


def similarities(feature: Tensor) -> Tensor:
    """The Gram matrix of a batch of maps, each row of length 1: ``[B, B]``."""
    rows = feature.flatten(1)
    return F.normalize(rows @ rows.T, dim=1)


@register_method("rkd")
class RKD(PooledRelation):
    r"""Relational knowledge distillation: distances between samples, and angles among three.

    .. math:: d_{ij} = \frac{\|x_i - x_j\|}{\bar d}, \qquad
              a_{ijk} = \cos \angle (x_j - x_i, x_k - x_i), \qquad
              L = CE + w \Big[ \lambda_d \frac{1}{B^2} \sum_{ij} h(d^s_{ij}, d^t_{ij})
              + \lambda_a \frac{1}{B^3} \sum_{ijk} h(a^s_{ijk}, a^t_{ijk}) \Big]

    ``h`` is the smooth L1 loss (Huber's with delta 1), ``d`` bar the mean over pairs of two
    samples. Needs two samples; costs ``B^3`` numbers for the angles.

    Args:
        weight: ``w``.
        distance_weight: ``lambda_d``.
        angle_weight: ``lambda_a``.

    Reference: Park et al., Relational Knowledge Distillation, CVPR 2019, with the authors' weights
    as used by the CIFAR-100 benchmark (mdistiller). Deviations: as in the authors' code, means run
    over degenerate pairs and triples, too, where both sides are 0.
    """

    title = "RKD"
    year = 2019

    def __init__(
        self,
        *,
        weight: Weight = 1.0,
        distance_weight: Weight = 25.0,
        angle_weight: Weight = 50.0,
    ) -> None:
        super().__init__(weight)
        self.distance_weight = distance_weight
        self.angle_weight = angle_weight

    def relation(self, student: Tensor, mentor: Tensor) -> Tensor:
        """The weighted sum of the distances' and the angles' loss: ``[]``."""
        if len(student) < 2:
            raise ValueError("rkd relates samples to each other: a batch needs two at least")
        here, here_angle = geometry(student)
        there, there_angle = geometry(mentor)
        distance = F.smooth_l1_loss(here, there)
        angle = F.smooth_l1_loss(here_angle, there_angle)
        return self.distance_weight * distance + self.angle_weight * angle


def geometry(x: Tensor) -> tuple[Tensor, Tensor]:
    """Distances by their mean ``[B, B]``, and cosines at the first of three ``[B, B, B]``.

    Both from inner products, so that no ``[B, B, D]`` is made; centred and in float64, because
    differences of them lose digits. Where two samples coincide, both are 0.
    """
    centred = (x - x.mean(0)).double()
    centred = centred / centred.detach().abs().max().clamp_min(1e-30)  # neither depends on the size
    gram = centred @ centred.T
    own = gram.diagonal()
    square = own.unsqueeze(0) + own.unsqueeze(1) - 2 * gram
    apart = square > 1e-10 * own.mean()
    apart = apart & ~torch.eye(len(x), dtype=torch.bool, device=x.device)
    length = torch.where(apart, square, 1.0).sqrt()  # at 0 the root has an infinite slope
    distance = torch.where(apart, length, 0)
    mean = distance.sum() / (len(x) * (len(x) - 1))
    # (x_j - x_i) . (x_k - x_i) for i, j, k
    product = gram.unsqueeze(0) - gram.unsqueeze(2) - gram.unsqueeze(1) + own.view(-1, 1, 1)
    cosine = product.to(x.dtype) / (length.unsqueeze(2) * length.unsqueeze(1)).to(x.dtype)
    angles = torch.where(apart.unsqueeze(2) & apart.unsqueeze(1), cosine, 0)
    return (distance / mean.clamp_min(1e-12)).to(x.dtype), angles


@register_method("cc_benchmark")
class NeighbourCorrelation(PooledRelation):
    r"""Correlation congruence in the benchmark's form: differences of neighbours go apart.

    .. math:: \delta_b = | E_s x_s^b - E_t x_t^b |, \qquad
              L = CE + w \frac{1}{B - 1} \sum_{b < B} \delta_b \cdot \delta_{b+1}

    ``E_s`` and ``E_t`` (linear layers with bias to ``dim`` numbers) are both trained along. A
    neighbour is the next sample of the batch. Needs two samples. What the paper describes, a kernel
    of the samples, is `cc`.

    Args:
        weight: ``w``.
        dim: width of the embeddings.

    Reference: Peng et al., Correlation Congruence for Knowledge Distillation, ICCV 2019, in the
    code that its authors gave to the CRD benchmark (RepDistiller), from which the usually quoted
    numbers are; its defaults. Nothing there keeps the two embeddings from becoming constant, where
    the loss is 0.
    """

    title = "CC (benchmark)"
    year = 2019

    def __init__(self, *, weight: Weight = 0.02, dim: Count = 128) -> None:
        super().__init__(weight)
        self.dim = dim
        self.embeddings = nn.ModuleList()

    def setup(self, student: Outputs, mentors: Sequence[Outputs]) -> None:
        """Build the embeddings."""
        features = [self.pooled(outputs) for outputs in (student, mentors[0])]
        self.embeddings = nn.ModuleList(
            nn.Linear(f.shape[1], self.dim).to(f.device) for f in features
        )

    def relation(self, student: Tensor, mentor: Tensor) -> Tensor:
        """Mean product of neighbours' absolute differences, summed over the embedding: ``[]``."""
        if len(student) < 2:
            raise ValueError(
                f"{self.name} relates samples to each other: a batch needs two at least"
            )
        if not self.embeddings:
            raise self.not_set_up("has no embeddings yet")
        here, there = self.embeddings
        apart = (here(student) - there(mentor)).abs()
        return (apart[:-1] * apart[1:]).sum(1).mean()
