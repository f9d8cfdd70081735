"""From a person's box to the network's input, and back: regions and points as they are mapped.

``B`` persons, ``U`` joints; an input is ``H`` by ``W`` pixels.

One convention throughout: ``x = 0`` is the centre of the leftmost pixel. A frame says where an
input lies in an image by what its centre shows. With ``m`` the input's centre, ``((W - 1) / 2,
(H - 1) / 2)``, input pixel ``u`` shows the image at ``centre + matrix @ (u - m)``. So a mirrored
input has the same centre and a negated first column, and its pixels are exactly the mirrored ones.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

Size = tuple[int, int]  # height, width


@dataclass(frozen=True, eq=False)
class Frames:
    """Where the inputs of some persons lie in their images.

    Args:
        centre: ``[B, 2]`` float64, what the centre of the input shows, in image pixels.
        matrix: ``[B, 2, 2]`` float64, image pixels for each input pixel to the right, and down: a
            turn, maybe mirrored, times a scale.
        size: Height and width of the input.
    """

    centre: Tensor
    matrix: Tensor
    size: Size

    @property
    def middle(self) -> Tensor:
        """``[2]``, x and y of the input's centre, in input pixels."""
        height, width = self.size
        return torch.tensor([(width - 1) / 2, (height - 1) / 2], dtype=torch.float64)

    @property
    def scale(self) -> Tensor:
        """``[B]``, image pixels along a side of an input pixel."""
        return torch.hypot(*self.matrix[..., 0].unbind(-1))

    @property
    def inverse(self) -> Tensor:
        """``[B, 2, 3]``, from input pixels to image pixels, for `apply_affine`."""
        offset = self.centre - (self.matrix * self.middle).sum(-1)
        return torch.cat([self.matrix, offset[..., None]], -1)

    def to_input(self, points: Tensor) -> Tensor:
        """Points ``[B, U, 2]`` of the images, in input pixels."""
        away = points.double() - self.centre[:, None]
        turned = (away[..., None] * self.matrix[:, None]).sum(-2)  # a turn's inverse: transposed
        return turned / self.scale.square()[:, None, None] + self.middle

    def inside(self, points: Tensor) -> Tensor:
        """Whether points ``[B, U, 2]``, in input pixels, lie in the input: ``[B, U]`` bool."""
        height, width = self.size
        end = torch.tensor([width, height]) - 0.5
        return ((points >= -0.5) & (points <= end)).all(-1)


def apply_affine(affine: Tensor, points: Tensor) -> Tensor:
    """Map points, such as those of a network back to the images by a batch's ``inverse``.

    Args:
        affine: ``[B, 2, 3]``.
        points: ``[B, U, 2]``, x then y.

    >>> half = torch.tensor([[[0.5, 0, 3], [0, 0.5, -1]]])
    >>> apply_affine(half, torch.tensor([[[2.0, 4.0]]]))
    tensor([[[4., 1.]]])
    """
    return points @ affine[..., :2].mT + affine[..., None, :, 2]


def fit_box(box: Tensor, size: Size, padding: float = 1.25) -> tuple[Tensor, Tensor]:
    """The region around a box that has the input's aspect.

    The shorter side is lengthened until the aspect fits, then both sides are.

    Args:
        box: ``[B, 4]``: left, top, width, height.
        size: Height and width of the input.
        padding: How many times as large the region is.

    Returns:
        Centre ``[B, 2]`` in image pixels, and scale ``[B]``: image pixels for one of the input.

    >>> centre, scale = fit_box(torch.tensor([[10.0, 20.0, 30.0, 64.0]]), (128, 96), padding=1.0)
    >>> centre.tolist(), scale.tolist()
    ([[25.0, 52.0]], [0.5])
    """
    height, width = size
    left, top, wide, high = box.double().unbind(-1)
    centre = torch.stack([left + wide / 2, top + high / 2], -1)
    return centre, torch.maximum(wide / width, high / height) * padding


def make_frames(
    centre: Tensor,
    scale: Tensor,
    size: Size,
    *,
    angle: Tensor | None = None,
    mirrored: Tensor | None = None,
) -> Frames:
    """Frames of regions.

    Args:
        centre: ``[B, 2]``.
        scale: ``[B]``, image pixels for one of the input.
        size: Height and width of the input.
        angle: ``[B]`` in degrees by which the shown person turns clockwise; None for 0.
        mirrored: ``[B]`` bool, whether left and right are exchanged; None for not.

    >>> frames = make_frames(torch.zeros(1, 2), torch.ones(1), (3, 3), angle=torch.tensor([90.0]))
    >>> frames.to_input(torch.tensor([[[1.0, 0.0]]])).round().tolist()  # right of the centre: below
    [[[1.0, 2.0]]]
    """
    centre, scale = centre.double(), scale.double()
    turn = torch.deg2rad(torch.zeros_like(scale) if angle is None else angle.double())
    cos, sin = scale * turn.cos(), scale * turn.sin()
    sign = torch.ones_like(scale) if mirrored is None else 1 - 2 * mirrored.double()
    right, down = torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)
    return Frames(centre, torch.stack([right * sign[:, None], down], -1), size)
