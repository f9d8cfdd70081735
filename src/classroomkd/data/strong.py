"""Strong views: RandAugment, colour jitter, random erasing, cutout.

Each works on a whole batch ``[B, 3, H, W]`` at once, with parameters drawn for every image: a
pure function of (seed, epoch, index) as all views. Numbers and ranges are those of torchvision.
"""

import math
from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from classroomkd.data import options as check
from classroomkd.data.colour import blend, contrast_mean, grey, shift_hue, smooth
from classroomkd.data.draws import Draws
from classroomkd.data.views import ViewFunction, register_view

OPERATIONS = (
    "identity",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "brightness",
    "colour",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "autocontrast",
    "equalize",
)
_TRIES = 10


@register_view("randaugment")
def randaugment(num_ops: int = 2, magnitude: int = 9) -> ViewFunction:
    """Apply operations drawn from `OPERATIONS` to each image, one after the other.

    Geometric ones take the nearest pixel and fill with black; directions are drawn. Float images
    are rounded to 256 levels first.

    Args:
        num_ops: How many for an image.
        magnitude: How strong they are, from 0 to 30.

    Raises:
        ValueError: If ``num_ops`` or ``magnitude`` is out of range.

    Reference: Cubuk et al., RandAugment, 2020, as in torchvision.
    """
    check.whole("num_ops", num_ops, 1, 100)
    check.whole("magnitude", magnitude, 0, 30)
    return partial(_randaugment, num_ops=num_ops, magnitude=magnitude)


@register_view("jitter")
def jitter(
    brightness: float = 0.4, contrast: float = 0.4, saturation: float = 0.4, hue: float = 0.1
) -> ViewFunction:
    """Change an image's brightness, contrast, saturation and hue by random amounts, in this order.

    Args:
        brightness: The factor is drawn from ``1 - brightness`` (0 at least) to ``1 + brightness``.
        contrast: The same.
        saturation: The same.
        hue: Turned by ``-hue`` to ``hue`` of a whole turn; up to 0.5.

    Raises:
        ValueError: If an amount is out of range.

    Reference: torchvision's ColorJitter, which draws the order, too.
    """
    amounts = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
    for name, amount in amounts.items():
        check.number(name, amount, 0, 100)
    check.number("hue", hue, 0, 0.5)
    return partial(_jitter, amounts=tuple(amounts.values()), hue=hue)


@register_view("erase")
def erase(
    p: float = 0.5,
    scale: Sequence[float] = (0.02, 0.33),
    ratio: Sequence[float] = (0.3, 3.3),
) -> ViewFunction:
    """Blacken a rectangle of an image at a random place.

    Args:
        p: The probability that it happens to an image.
        scale: Least and most of the rectangle's area, as a share of the image's.
        ratio: Least and most of its height divided by its width.

    Raises:
        ValueError: If an option is out of range.

    Reference: Zhong et al., Random Erasing Data Augmentation, 2020, as in torchvision: of ten
    rectangles drawn, the first that fits is taken; if none fits, the image stays as it is.
    """
    check.number("p", p, 0, 1)
    check.pair("scale", scale, 0, 1)
    check.pair("ratio", ratio, 1e-3, 1e3)
    return partial(_erase, p=p, scale=tuple(scale), ratio=tuple(ratio))


@register_view("cutout")
def cutout(most: float = 0.5, fill: Sequence[int] = (125, 123, 114)) -> ViewFunction:
    """Cover a square of every image, centred at any pixel; it may reach over the edge.

    Args:
        most: The side is drawn from 0 to this share of the image's width.
        fill: What covers it: red, green and blue, from 0 to 255.

    Raises:
        ValueError: If an option is out of range.

    Reference: DeVries and Taylor, Improved Regularization of Convolutional Neural Networks with
    Cutout, 2017, with a drawn side and a grey square as in FixMatch's RandAugment.
    """
    check.number("most", most, 0, 1)
    if not isinstance(fill, list | tuple) or len(fill) != 3:
        raise ValueError(f"fill must be three numbers, red, green and blue, not {fill!r}")
    for level in fill:
        check.whole("fill", level, 0, 255)
    return partial(_cutout, most=most, fill=tuple(fill))


def _randaugment(images: Tensor, draws: Draws, *, num_ops: int, magnitude: int) -> Tensor:
    whole = not images.is_floating_point()
    levels = images if whole else (images * 255).round().to(torch.uint8)
    chosen = draws.integers("randaugment", 0, len(OPERATIONS), n=num_ops)
    sign = torch.where(draws.uniform("randaugment sign", n=num_ops) < 0.5, -1.0, 1.0)
    for column in range(num_ops):
        levels = apply(levels, chosen[:, column], sign[:, column], magnitude)
    return levels if whole else levels.to(images.dtype) / 255


def apply(images: Tensor, chosen: Tensor, sign: Tensor, magnitude: int) -> Tensor:
    """Apply to each image ``[B, 3, H, W]`` uint8 the operation of its number in `OPERATIONS`.

    Each of the three groups leaves an image as it is whose operation is not one of its own.

    Args:
        images: uint8.
        chosen: ``[B]``, numbers of operations.
        sign: ``[B]``, 1 or -1: their direction.
        magnitude: from 0 to 30.
    """
    share = magnitude / 30
    images = _move(images, chosen, sign * share)
    images = _tint(images, chosen, 1 + 0.9 * share * sign)
    return _retone(images, chosen, share)


def _is(name: str, chosen: Tensor) -> Tensor:
    """Whether this is the operation: ``[B, 1, 1, 1]``."""
    return (chosen == OPERATIONS.index(name)).view(-1, 1, 1, 1)


def _move(images: Tensor, chosen: Tensor, amount: Tensor) -> Tensor:
    """Shear about the upper left corner, translate, or rotate about the centre."""
    height, width = images.shape[-2:]

    def where(name: str, value: Tensor) -> Tensor:
        return torch.where(_is(name, chosen).flatten(), value, 0)

    angle = where("rotate", amount * math.pi / 6)
    shear_x, shear_y = where("shear_x", 0.3 * amount), where("shear_y", 0.3 * amount)
    right = where("translate_x", (150 / 331 * width * amount).trunc())
    down = where("translate_y", (150 / 331 * height * amount).trunc())
    # Where a pixel comes from, in pixels from the centre; then in the units of affine_grid.
    to_x = torch.stack(
        [angle.cos() * width, (shear_x - angle.sin()) * height, shear_x * height - 2 * right], 1
    )
    to_y = torch.stack(
        [(shear_y + angle.sin()) * width, angle.cos() * height, shear_y * width - 2 * down], 1
    )
    matrix = torch.stack([to_x / width, to_y / height], 1)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    moved = F.grid_sample(images.float(), grid, mode="nearest", align_corners=False)
    return moved.to(images.dtype)


def _tint(images: Tensor, chosen: Tensor, factor: Tensor) -> Tensor:
    """Blend with black, with grey, with the mean, or with a smooth image."""
    pixels = images.float()
    greys = grey(pixels).floor()
    other = torch.zeros_like(pixels)  # black, for the brightness
    for name, values in {
        "colour": greys,
        "contrast": contrast_mean(greys),
        "sharpness": smooth(pixels).round(),
    }.items():
        other = torch.where(_is(name, chosen), values, other)
    first, last = OPERATIONS.index("brightness"), OPERATIONS.index("sharpness")
    factor = torch.where((chosen >= first) & (chosen <= last), factor, 1)
    return blend(pixels, other, factor, 255).to(images.dtype)


def _retone(images: Tensor, chosen: Tensor, share: float) -> Tensor:
    """Posterise, solarise, stretch or equalise the levels of each channel."""
    from torchvision.transforms.v2 import functional  # slow to import

    out = images
    for name, toned in {
        "posterize": functional.posterize(images, bits=8 - round(4 * share)),
        "solarize": functional.solarize(images, threshold=255 * (1 - share)),
        "autocontrast": functional.autocontrast(images),
        "equalize": functional.equalize(images),
    }.items():
        out = torch.where(_is(name, chosen), toned, out)
    return out


def _jitter(images: Tensor, draws: Draws, *, amounts: tuple[float, ...], hue: float) -> Tensor:
    whole = not images.is_floating_point()
    pixels = images.float() / 255 if whole else images
    drawn = draws.uniform("jitter", n=4).to(pixels.dtype).unbind(1)
    factors = [
        max(0.0, 1 - amount) + u * (1 + amount - max(0.0, 1 - amount))
        for u, amount in zip(drawn[:3], amounts, strict=True)
    ]
    pixels = blend(pixels, torch.zeros_like(pixels), factors[0], 1)
    pixels = blend(pixels, contrast_mean(grey(pixels)), factors[1], 1)
    pixels = blend(pixels, grey(pixels), factors[2], 1)
    pixels = shift_hue(pixels, hue * (2 * drawn[3] - 1))
    return (pixels * 255).round().to(images.dtype) if whole else pixels


def _erase(
    images: Tensor, draws: Draws, *, p: float, scale: Sequence[float], ratio: Sequence[float]
) -> Tensor:
    size = images.shape[-2:]
    least, most = (math.log(r) for r in ratio)
    area = scale[0] + (scale[1] - scale[0]) * draws.uniform("erase area", n=_TRIES)
    shape = torch.exp(least + (most - least) * draws.uniform("erase ratio", n=_TRIES))
    area = area * size[0] * size[1]
    heights, widths = (area * shape).sqrt().round(), (area / shape).sqrt().round()
    fits = (heights < size[0]) & (widths < size[1])
    first = fits.int().argmax(1, keepdim=True)
    mask = fits.any(1, keepdim=True) & (draws.uniform("erase") < p)
    mask = mask[:, :, None]
    place = draws.uniform("erase place", n=2)
    for axis, lengths in enumerate((heights, widths)):
        length = lengths.gather(1, first)
        start = (place[:, axis : axis + 1] * (size[axis] - length + 1)).floor()
        pixel = torch.arange(size[axis], device=images.device)
        inside = (pixel >= start) & (pixel < start + length)
        mask = mask & inside.unsqueeze(2 - axis)
    return images.masked_fill(mask.unsqueeze(1), 0)


def _cutout(images: Tensor, draws: Draws, *, most: float, fill: Sequence[int]) -> Tensor:
    height, width = images.shape[-2:]
    side = most * width * draws.uniform("cutout side")
    centre = draws.uniform("cutout place", n=2)
    mask = torch.ones(len(images), 1, 1, dtype=torch.bool, device=images.device)
    for axis, length in enumerate((height, width)):
        middle = centre[:, axis : axis + 1] * length
        pixel = torch.arange(length, device=images.device)
        # Every pixel that the square touches, whole.
        first, end = (middle - side / 2).clamp_min(0).floor(), middle + side / 2
        inside = (pixel >= first) & (pixel < end) & (side > 0)
        mask = mask & inside.unsqueeze(2 - axis)
    levels = torch.tensor(fill, device=images.device).view(3, 1, 1)
    colour = levels / 255 if images.is_floating_point() else levels
    return torch.where(mask.unsqueeze(1), colour.to(images.dtype), images)
