"""Which part of an image is shown: a random one for training, the centre for evaluation.

``B`` images of many sizes. A box is left, top, width and height in pixels: ``[B, 4]`` float64, in
which the same numbers come out whatever the batch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from classroomkd.data import options as check
from classroomkd.data.draws import Draws
from classroomkd.data.views import register_view

_TRIES = 10


@dataclass(frozen=True)
class ResizedCrop:
    """A random part of an image, resized: a view function, and the boxes for who decodes files.

    ``scale`` and ``ratio`` are those of `resized_crop`.

    >>> draws = Draws(seed=0, epoch=0, index=torch.arange(2))
    >>> boxes = ResizedCrop(scale=(0.25, 0.25), ratio=(1, 1)).boxes(
    ...     draws, torch.tensor([80, 40]), torch.tensor([80, 40])
    ... )
    >>> boxes[:, 2:].tolist()
    [[40.0, 40.0], [20.0, 20.0]]
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def boxes(self, draws: Draws, widths: Tensor, heights: Tensor) -> Tensor:
        """A box for each image, of ``[B]`` widths and heights.

        Of ten boxes drawn, the first that fits is taken; if none fits, the largest in the centre
        whose ratio is allowed.
        """
        width, height = widths.double()[:, None], heights.double()[:, None]
        area = _between(self.scale, draws.uniform("crop area", n=_TRIES)) * width * height
        least, most = (math.log(r) for r in self.ratio)
        ratio = _between((least, most), draws.uniform("crop ratio", n=_TRIES)).exp()
        wide, high = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
        fits = (wide >= 1) & (wide <= width) & (high >= 1) & (high <= height)
        first, any_fits = fits.int().argmax(1, keepdim=True), fits.any(1, keepdim=True)
        wide = torch.where(any_fits, wide.gather(1, first), (height * self.ratio[1]).round())
        high = torch.where(any_fits, high.gather(1, first), (width / self.ratio[0]).round())
        wide, high = torch.minimum(wide, width), torch.minimum(high, height)
        place = draws.uniform("crop place", n=2).double()
        left = (place[:, :1] * (width - wide + 1)).floor()
        top = (place[:, 1:] * (height - high + 1)).floor()
        left = torch.where(any_fits, left, ((width - wide) / 2).floor())
        top = torch.where(any_fits, top, ((height - high) / 2).floor())
        return torch.cat([left, top, wide, high], 1)

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        """Images in memory, ``[B, 3, H, W]``: the part is resized to H x W, bilinearly."""
        height, width = images.shape[-2:]
        sizes = torch.tensor([width, height], device=images.device).expand(len(images), 2)
        left, top, wide, high = self.boxes(draws, sizes[:, 0], sizes[:, 1]).unbind(1)
        none = torch.zeros_like(left)
        # In affine_grid's units an image reaches from -1 to 1.
        to_x = torch.stack([wide / width, none, (2 * left + wide) / width - 1], 1)
        to_y = torch.stack([none, high / height, (2 * top + high) / height - 1], 1)
        matrix = torch.stack([to_x, to_y], 1).float()
        grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
        shown = F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
        return shown.to(images.dtype) if images.is_floating_point() else shown.round().byte()


@register_view("resized_crop")
def resized_crop(
    scale: Sequence[float] = (0.08, 1.0), ratio: Sequence[float] = (3 / 4, 4 / 3)
) -> ResizedCrop:
    """Show a random part of an image, resized; a photograph's first view says what is decoded.

    Args:
        scale: Least and most of the part's area, as a share of the image's.
        ratio: Least and most of its width divided by its height.

    Raises:
        ValueError: If an option is out of range.

    Reference: Szegedy et al., Going deeper with convolutions, 2015, as torchvision's
    RandomResizedCrop.
    """
    check.pair("scale", scale, 1e-6, 1)
    check.pair("ratio", ratio, 1e-3, 1e3)
    return ResizedCrop((scale[0], scale[1]), (ratio[0], ratio[1]))


def central_boxes(widths: Tensor, heights: Tensor, share: float) -> Tensor:
    """The square in the centre whose side is a share of the shorter side.

    With a share of 0.875 and resized to 224, it is the centre of 224 of an image resized to 256.

    >>> central_boxes(torch.tensor([100]), torch.tensor([80]), 0.5).tolist()
    [[30.0, 20.0, 40.0, 40.0]]
    """
    side = torch.minimum(widths, heights).double() * share
    return torch.stack([(widths - side) / 2, (heights - side) / 2, side, side], 1)


def _between(limits: tuple[float, float], uniform: Tensor) -> Tensor:
    return limits[0] + (limits[1] - limits[0]) * uniform.double()
