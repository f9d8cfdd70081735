"""A method on the singular vectors of feature maps: KDSVD.

Shapes: ``B`` samples, ``D`` channels, ``N`` pixels, ``K`` singular vectors.
"""

import torch
from torch import Tensor, nn

from classroomkd.methods.base import Outputs
from classroomkd.methods.options import Count, Weight
from classroomkd.methods.pairs import FeatureMethod, Pairs
from classroomkd.methods.registry import register_method

_SPARE = 3  # as many more vectors of the student: it may have them in another order


@register_method("kdsvd")
class KDSVD(FeatureMethod):
    r"""How the main directions of consecutive maps, found by singular values, lie to each other.

    Of a map ``F [N, D]`` the right singular vectors ``v_1, ..., v_K`` (directions in the space of
    channels) of the largest singular values are kept. Each of the teacher's is matched with the
    student's of the largest absolute cosine among its first ``K + 3``, whose sign is turned to its
    own; both are multiplied by the teacher's singular value (all ``K`` scaled to length 1):

    .. math:: R^l_{ijk} = \exp\Big(-\frac{(v^{l+1}_{ik} - v^l_{jk})^2}{8}\Big), \qquad
              L = CE + w \sum_l \frac{1}{B} \| R^l_s - R^l_t \|^2

    over consecutive pairs of stages ``l``. Student and teacher need equally wide stages; their
    sizes may differ.

    Cost: eigenvalues of a matrix of the smaller of ``N`` and ``D`` for every map in every step, for
    which a GPU is waited for; for a batch of 64 of resnet32x4's maps about a second on one core.

    Args:
        weight: ``w``.
        k: ``K``.
        pairs: (the student's, the teacher's) by hand, shallow to deep; at least two.

    Reference: Lee et al., Self-supervised Knowledge Distillation Using Singular Value
    Decomposition, ECCV 2018. Defaults and reduction of the CRD benchmark (RepDistiller); the
    authors' code sums over the batch, too, and halves.

    Deviations: the signs of singular vectors, which decompositions leave open, are chosen so that
    the teacher's entries sum to a positive number. Gradients where two singular values nearly
    agree, infinite by their formula, are damped; the public codes leave out what is not finite.
    mdistiller decomposes maps as ``[D H, W]``, and so compares columns of pixels; here as in
    RepDistiller and the authors' code.
    """

    title = "KDSVD"
    year = 2018

    def __init__(self, *, weight: Weight = 1.0, k: Count = 1, pairs: Pairs | None = None) -> None:
        super().__init__(weight, pairs)
        self.k = k

    def names(self, student: Outputs, mentor: Outputs) -> list[tuple[str, str]]:
        """The names of the pairs, two at least, of equal widths, shallow to deep."""
        pairs = super().names(student, mentor)
        if len(pairs) < 2:
            raise ValueError("kdsvd needs two pairs of maps at least: it relates one to another")
        for here, there in pairs:
            own, other = student.features[here].shape[1], mentor.features[there].shape[1]
            if own != other:
                raise ValueError(
                    f"kdsvd compares directions in the space of channels: {here} of the student has"
                    f" {own}, {there} of the mentor {other}; take networks of equally wide stages"
                )
        return pairs

    def distances(self, maps: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
        """Squared difference of the kernels of consecutive stages: ``[B]``."""
        stages = [aligned(s, t, self.k) for s, t in maps]
        return [
            (kernel(here, before) - kernel(there, before_there)).square().sum((1, 2, 3))
            for (before, before_there), (here, there) in zip(stages, stages[1:], strict=False)
        ]


def aligned(student: Tensor, mentor: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The mentor's first vectors, and those of the student that match: ``[B, D, K]`` each."""
    values, there = singular_vectors(mentor.detach(), k)
    there = there * sign(there.sum(1, keepdim=True))
    _, here = singular_vectors(student, k + _SPARE)
    cosine = here.detach().mT @ there  # [B, K + 3, K]
    best = cosine.abs().argmax(1, keepdim=True)
    here = here.gather(2, best.expand(-1, here.shape[1], -1)) * sign(cosine.gather(1, best))
    scale = nn.functional.normalize(values, dim=1).unsqueeze(1)
    return here * scale, there * scale


def sign(x: Tensor) -> Tensor:
    """1 where a number is not negative, else -1."""
    return torch.where(x < 0, -1.0, 1.0).to(x.dtype)


def kernel(here: Tensor, before: Tensor) -> Tensor:
    """The radial basis function of all pairs of entries: ``[B, D, D_before, K]``."""
    return torch.exp(-(here.unsqueeze(2) - before.unsqueeze(1)).square() / 8)


def singular_vectors(feature: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The largest singular values ``[B, K]`` of maps, detached, and right vectors ``[B, D, K]``.

    The values are those of maps whose largest entry is 1.
    """
    x = torch.nan_to_num(feature.flatten(2).mT)
    x = x / x.detach().abs().amax((1, 2), keepdim=True).clamp_min(1e-30)
    if x.shape[1] >= x.shape[2]:
        return leading_vectors(x, count)
    values, left = leading_vectors(x.mT, count)
    return values, nn.functional.normalize(x.mT @ left, dim=1, eps=1e-4)


def leading_vectors(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The same of tall matrices ``[B, N, D]``: roots and vectors of the Gram matrices' eigenvalues.

    Much faster than a decomposition of the matrices themselves, and as good for the largest. The
    vectors have the gradient of first-order perturbation theory, with ``1 / gap`` between
    eigenvalues damped to ``gap / (gap^2 + eps^2)``: it stays finite where they coincide, as in a
    map of zeros.
    """
    fixed = x.detach()
    squares, v = torch.linalg.eigh(fixed.mT @ fixed)
    squares, v = squares.flip(1), v.flip(2)  # they came in ascending order
    first = v[..., :count]
    change = x - fixed  # 0, but for its gradient
    moved = v.mT @ (change.mT @ (fixed @ first) + fixed.mT @ (change @ first))  # [B, D, K]
    gap = squares[:, :count].unsqueeze(1) - squares.unsqueeze(2)
    eps = (1e-4 * squares[:, :1]).clamp_min(1e-8).unsqueeze(2)
    turn = moved * gap / (gap.square() + eps.square())
    return squares[:, :count].clamp_min(0).sqrt(), first + v @ turn
