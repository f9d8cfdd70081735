"""Colours of a batch of images, each changed by an amount of its own.

Images are float ``[B, 3, H, W]`` (red, green, blue); amounts are ``[B]``.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


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
    """Mean brightness of an image, what its contrast is measured from: ``[B, 1, 1, 1]``."""
    return greys.mean((1, 2, 3), keepdim=True)


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
