"""A method on the singular vectors of feature maps: KDSVD.

Shapes: ``B`` samples, ``D`` channels, ``N`` pixels, ``K`` singular vectors, ``R`` the smaller of
``N`` and ``D``.
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

    Cost: a singular value decomposition of every map in every step, which on a GPU waits for the
    device.

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

    The values are those of maps whose largest entry is 1. The vectors have the gradient of first
    order perturbation theory, with ``1 / gap`` between squared singular values damped to
    ``gap / (gap^2 + eps^2)``: it stays finite where they coincide, as in a map of zeros.
    """
    x = torch.nan_to_num(feature.flatten(2).mT)
    x = x / x.detach().abs().amax((1, 2), keepdim=True).clamp_min(1e-30)
    u, s, vh = torch.linalg.svd(x.detach(), full_matrices=False)
    v = vh.mT
    u_k, s_k, v_k = u[..., :count], s[:, :count], v[..., :count]

    change = x - x.detach()  # 0, but for its gradient
    left = change.mT @ u_k  # [B, D, K]
    inside = v.mT @ left  # [B, R, K]
    across = u.mT @ (change @ v_k)  # [B, R, K]
    eps = (1e-4 * s[:, :1].square()).clamp_min(1e-8).unsqueeze(2)
    gap = s_k.square().unsqueeze(1) - s.square().unsqueeze(2)
    turn = inside * s_k.unsqueeze(1) + across * s.unsqueeze(2)
    out_of_span = (left - v @ inside) * (s_k / (s_k.square() + eps.squeeze(2))).unsqueeze(1)
    return s_k, v_k + v @ (turn * gap / (gap.square() + eps.square())) + out_of_span
