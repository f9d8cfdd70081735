"""Colours of a batch of images, each changed by an amount of its own.

Images are float ``[B, 3, H, W]`` (red, green, blue); amounts are ``[B]``.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

_UNIT = 2.0**24  # what a level of 1 is in whole numbers: sums of 10^9 pixels fit into 64 bits


def blend(images: Tensor, others: Tensor, factor: Tensor, top: float) -> Tensor:
    """``factor`` of the images and ``1 - factor`` of the others, kept between 0 and ``top``.

    Factor 1 leaves images as they are, below 1 goes towards the others, above 1 away from them.

    >>> blend(torch.ones(1, 3, 1, 1), torch.zeros(1, 3, 1, 1), torch.tensor([0.5]), 1).flatten()
    tensor([0.5000, 0.5000, 0.5000])
    """
    factor = factor.view(-1, 1, 1, 1)
    return (images * factor + others * (1 - factor)).clamp(0, top)


def grey(images: Tensor) -> Tensor:
    """Brightness of each pixel as in ITU-R 601: ``[B, 1, H, W]``."""
    red, green, blue = images.split(1, dim=1)
    return 0.2989 * red + 0.587 * green + 0.114 * blue


def contrast_mean(greys: Tensor) -> Tensor:
    """Mean brightness of an image, what its contrast is measured from: ``[B, 1, 1, 1]``.

    >>> contrast_mean(torch.tensor([0.25, 0.75]).view(1, 1, 1, 2)).item()
    0.5
    """
    # In whole numbers: a sum of floats depends on its order, hence on the batch and the threads.
    total = (greys.double() * _UNIT).round().long().sum((1, 2, 3), keepdim=True)
    return (total.double() / (_UNIT * greys[0].numel())).to(greys.dtype)


def smooth(images: Tensor) -> Tensor:
    """Every pixel but those at the border as a mean of itself (5 parts) and its 8 neighbours."""
    if min(images.shape[-2:]) < 3:
        return images
    inner = images[..., 1:-1, 1:-1]
    out = images.clone()
    out[..., 1:-1, 1:-1] = (9 * F.avg_pool2d(images, 3, stride=1) + 4 * inner) / 13
    return out


def shift_hue(images: Tensor, turn: Tensor) -> Tensor:
    """Turn the hue by a share of the whole circle; pixels are in [0, 1].

    >>> red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    >>> shift_hue(red, torch.tensor([1 / 3])).flatten().round().tolist()  # green
    [0.0, 1.0, 0.0]
    """
    red, green, blue = images.unbind(1)
    top, span = images.amax(1), images.amax(1) - images.amin(1)
    unit = torch.where(span > 0, span, 1)
    hue = torch.where(
        top == red,
        (green - blue) / unit,
        torch.where(top == green, 2 + (blue - red) / unit, 4 + (red - green) / unit),
    )
    hue = hue + 6 * turn.view(-1, 1, 1)

    def channel(offset: int) -> Tensor:
        sector = (offset + hue) % 6
        return top - span * torch.minimum(sector, 4 - sector).clamp(0, 1)

    return torch.stack([channel(5), channel(3), channel(1)], 1)
