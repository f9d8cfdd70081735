"""Object keypoint similarity (OKS): how near predicted joints are to the true ones, as COCO has it.

Shapes: ``M`` mentors, ``B`` persons, ``U`` joints.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

_TINY_AREA = 1e-6  # pixels^2: keeps an area of 0 from making 0 / 0


def oks_divergence(
    points: Tensor,
    truth: Tensor,
    visible: Tensor,
    area: Tensor,
    sigmas: Tensor | Sequence[float],
) -> Tensor:
    r"""The negative logarithm of each joint's OKS: a squared distance, as shares of a tolerance.

    .. math:: d^2 / (2 s^2 \kappa^2), \quad s^2 = area, \quad \kappa = 2 \sigma

    It is a Gaussian's negative log-likelihood but for a constant, hence ranks networks whatever
    their heads and resolutions are.

    Args:
        points: ``[..., B, U, 2]`` predicted, in pixels; leading axes (mentors) as one likes.
        truth: ``[B, U, 2]``, in the same pixels.
        visible: ``[B, U]``, above 0 where a joint is labelled.
        area: ``[B]``, of the persons, in those pixels squared.
        sigmas: ``[U]``, the joints' tolerances (a tensor on the device spares a copy).

    Returns:
        ``[..., B, U]`` float32; 0 where the joint is not labelled, whatever its coordinates are.

    >>> truth = torch.tensor([[[10.0, 10.0], [20.0, 20.0]]])
    >>> points = truth + torch.tensor([3.0, 4.0])
    >>> oks_divergence(points, truth, torch.tensor([[2, 0]]), torch.tensor([100.0]), [0.25, 0.25])
    tensor([[0.5000, 0.0000]])
    """
    sigmas = torch.as_tensor(sigmas, dtype=torch.float32, device=points.device)
    labelled = visible > 0
    distance2 = (points.float() - truth.float()).square().sum(-1)
    tolerance2 = area.float().clamp(min=_TINY_AREA)[:, None] * (2 * sigmas).square()
    return torch.where(labelled, distance2 / (2 * tolerance2), 0.0)


def oks(
    points: Tensor,
    truth: Tensor,
    visible: Tensor,
    area: Tensor,
    sigmas: Tensor | Sequence[float],
) -> Tensor:
    """Each joint's similarity in [0, 1], ``exp(-oks_divergence)``; arguments as there.

    Returns:
        ``[..., B, U]`` float32; 0 where the joint is not labelled, so that the sum over joints,
        divided by the number of labelled ones, is the person's OKS (`person_oks`).

    >>> truth = torch.tensor([[[10.0, 10.0], [20.0, 20.0]]])
    >>> oks(truth, truth, torch.tensor([[2, 0]]), torch.tensor([100.0]), [0.25, 0.25])
    tensor([[1., 0.]])
    """
    similarity = torch.exp(-oks_divergence(points, truth, visible, area, sigmas))
    return torch.where(visible > 0, similarity, 0.0)


def person_oks(
    points: Tensor,
    truth: Tensor,
    visible: Tensor,
    area: Tensor,
    sigmas: Tensor | Sequence[float],
) -> Tensor:
    """The mean of `oks` over a person's labelled joints.

    Returns:
        ``[..., B]`` float32; nan where no joint is labelled.

    >>> truth = torch.zeros(1, 3, 2)
    >>> points = torch.tensor([[[0.0, 0.0], [1e3, 1e3], [5.0, 5.0]]])
    >>> person_oks(points, truth, torch.tensor([[1, 1, 0]]), torch.tensor([100.0]), [0.1] * 3)
    tensor([0.5000])
    """
    similarity = oks(points, truth, visible, area, sigmas)
    return similarity.sum(-1) / (visible > 0).sum(-1)


def oks_nms(
    points: Tensor,
    score: Tensor,
    area: Tensor,
    image_id: Tensor,
    sigmas: Tensor | Sequence[float],
    threshold: float = 0.9,
) -> Tensor:
    """Which persons to keep when several boxes of an image may have found the same one.

    From the highest score down, a person is dropped whose OKS (all joints, the mean of both areas)
    with one that is kept exceeds the threshold.

    Args:
        points: ``[N, U, 2]``, in image pixels.
        score: ``[N]``.
        area: ``[N]`` of the persons' boxes, in pixels squared.
        image_id: ``[N]``; persons of different images do not meet.
        sigmas: ``[U]``.
        threshold: in [0, 1].

    Returns:
        ``[N]`` bool, on the points' device.

    >>> points = torch.tensor([[[0.0, 0.0]], [[0.1, 0.0]], [[50.0, 0.0]]])
    >>> score, area = torch.tensor([0.5, 0.9, 0.1]), torch.full((3,), 100.0)
    >>> oks_nms(points, score, area, torch.zeros(3), [0.1]).tolist()
    [False, True, True]
    """
    kept = torch.zeros(len(points), dtype=torch.bool)
    for image in image_id.unique():
        rows = (image_id == image).nonzero()[:, 0]
        rows = rows[score[rows].argsort(descending=True, stable=True)]
        alike = (_mutual_oks(points[rows], area[rows], sigmas) > threshold).cpu()
        chosen: list[int] = []
        for person in range(len(rows)):
            if not alike[person, chosen].any():
                chosen.append(person)
        kept[rows.cpu()[chosen]] = True
    return kept.to(points.device)


def _mutual_oks(points: Tensor, area: Tensor, sigmas: Tensor | Sequence[float]) -> Tensor:
    """``[n, n]``: the OKS of every person with every other one."""
    everything = torch.ones(points.shape[:-1], device=points.device)
    rows = [
        person_oks(points, one.expand_as(points), everything, (area + its) / 2, sigmas)
        for one, its in zip(points, area, strict=True)
    ]
    return torch.stack(rows)
