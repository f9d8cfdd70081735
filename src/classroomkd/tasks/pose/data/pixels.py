"""Images of many sizes in one flat tensor, and crops of them made at once for a whole batch.

``B`` persons, ``I`` images, ``L`` levels; an input is ``H`` by ``W`` pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from classroomkd.tasks.pose.data.crop import Size

LEVELS = 5  # the image, and a half, a quarter, an eighth and a sixteenth of it
_TILE = 1 << 17  # pixels made at a time on a CPU: they stay in its cache, which is 3 times as fast


@dataclass(frozen=True, eq=False)
class Pixels:
    """Images of any size in memory, each at some levels; level ``l`` is reduced by ``2**l``.

    Args:
        table: int32, all pixels, red in the lowest 8 bits, then green and blue. Each image has a
            black border of one pixel, so that interpolation at its edge needs no exception.
        start: ``[L, I]`` int64, where in the table each image starts.
        width: ``[L, I]`` int64, without the border.
        height: ``[L, I]`` int64, likewise.
    """

    table: Tensor
    start: Tensor
    width: Tensor
    height: Tensor

    @classmethod
    def empty(cls, sizes: Tensor, levels: int) -> "Pixels":
        """Room for images of ``[I, 2]`` widths and heights, all black."""
        sides = [sizes]
        for _ in range(levels - 1):
            sides.append((sides[-1] + 1) // 2)
        width, height = torch.stack(sides).unbind(-1)
        ends = ((width + 2) * (height + 2)).flatten().cumsum(0)
        start = torch.cat([ends.new_zeros(1), ends[:-1]]).view(width.shape)
        total = int(ends[-1]) if len(ends) else 0
        return cls(torch.zeros(total, dtype=torch.int32), start, width, height)

    @classmethod
    def of(cls, images: Sequence[np.ndarray], levels: int) -> "Pixels":
        """Of images ``[height, width, 3]`` uint8."""
        sizes = torch.tensor([(image.shape[1], image.shape[0]) for image in images])
        pixels = cls.empty(sizes, levels)
        for place, image in enumerate(images):
            pixels.put(place, image)
        return pixels

    def put(self, place: int, image: np.ndarray) -> None:
        """Write an image, ``[height, width, 3]`` uint8, into its place."""
        table = self.table.numpy()
        for level in range(len(self.start)):
            if level:
                image = halve(image)
            height, width = image.shape[:2]
            start = int(self.start[level, place])
            room = table[start : start + (height + 2) * (width + 2)]
            red, green, blue = image.astype(np.int32).transpose(2, 0, 1)
            room.reshape(height + 2, width + 2)[1:-1, 1:-1] = red | green << 8 | blue << 16

    def to(self, device: torch.device) -> "Pixels":
        """The same images on ``device``."""
        moved = {name: getattr(self, name).to(device) for name in self.__dataclass_fields__}
        return replace(self, **moved)

    def crop(
        self, image: Tensor, level: Tensor, centre: Tensor, matrix: Tensor, size: Size
    ) -> Tensor:
        """Show a part of an image for each person, by bilinear interpolation; black outside.

        A person's pixels do not depend on the batch. All arguments lie where the images lie.

        Args:
            image: ``[B]`` int64, places of the images.
            level: ``[B]`` int64, which level of each to take, as `choose_levels` does.
            centre: ``[B, 2]``, of frames.
            matrix: ``[B, 2, 2]``, of frames.
            size: ``H`` and ``W``.

        Returns:
            ``[B, 3, H, W]`` uint8.
        """
        # From pixel centres at full size to those at the level: x -> (x + 0.5) / 2**l - 0.5.
        reduced = torch.pow(2.0, level.double())[:, None]
        centre = ((centre.double() + 0.5) / reduced - 0.5).float()
        matrix = (matrix.double() / reduced[..., None]).float()
        which = (level, image)
        found = (self.start[which], self.width[which], self.height[which], centre, matrix)
        at_once = len(image) if image.is_cuda else max(1, _TILE // (size[0] * size[1]))
        out = torch.empty(len(image), 3, *size, dtype=torch.uint8, device=image.device)
        for place in range(0, len(image), at_once):
            part = slice(place, place + at_once)
            self._interpolate(out[part], *(tensor[part] for tensor in found))
        return out

    def _interpolate(
        self,
        out: Tensor,
        start: Tensor,
        width: Tensor,
        height: Tensor,
        centre: Tensor,
        matrix: Tensor,
    ) -> None:
        """Fill ``out``, ``[B, 3, H, W]`` uint8; start, width and height are those of its images.

        Products and sums are written out: fused ones are rounded otherwise at a tensor's end.
        """
        rows, columns = out.shape[-2:]
        u = torch.arange(columns, device=out.device) - (columns - 1) / 2
        v = (torch.arange(rows, device=out.device) - (rows - 1) / 2)[:, None]
        # Half as many bits are twice as fast, and enough for 8 GB of pixels.
        whole = torch.int32 if self.table.numel() < 2**31 else torch.int64
        start, stride = (_spread(n).to(whole) for n in (start, width + 2))
        (ax, bx), (ay, by) = ([_spread(n) for n in row.unbind(1)] for row in matrix.unbind(1))
        cx, cy = (_spread(n) for n in centre.unbind(1))
        x0, right = _split(ax * u + (bx * v + cx), _spread(width))
        y0, below = _split(ay * u + (by * v + cy), _spread(height))

        corner = start + (y0.to(whole) + 1) * stride + (x0.to(whole) + 1)
        left, above = 1 - right, 1 - below
        taps = [
            (self.table.index_select(0, pixel.flatten()).view(pixel.shape), weight)
            for pixel, weight in (
                (corner, left * above),
                (corner + 1, right * above),
                (corner + stride, left * below),
                (corner + stride + 1, right * below),
            )
        ]
        for channel in range(3):
            mixed = torch.zeros_like(right)
            for colour, weight in taps:
                mixed += (colour >> 8 * channel & 255) * weight
            out[:, channel] = mixed.round_()


def halve(image: np.ndarray) -> np.ndarray:
    """An image at half its size, each pixel the mean of four; an odd edge is repeated.

    >>> halve(np.array([[[0], [4], [9]]], np.uint8))[..., 0]
    array([[2, 9]], dtype=uint8)
    """
    height, width = image.shape[:2]
    even = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge").astype(np.uint16)
    pairs = even[::2] + even[1::2]
    return ((pairs[:, ::2] + pairs[:, 1::2] + 2) // 4).astype(np.uint8)


def choose_levels(scale: Tensor, levels: int) -> Tensor:
    """The level whose pixels are least below the input's size, so that few are passed over.

    Args:
        scale: ``[B]``, image pixels for one of the input.
        levels: How many there are.

    Returns:
        ``[B]`` int64: ``floor(log2(scale))``, from 0 to ``levels - 1``.

    >>> choose_levels(torch.tensor([0.5, 1.9, 2.0, 5.0, 99.0]), 5).tolist()
    [0, 0, 1, 2, 4]
    """
    return torch.frexp(scale)[1].long().sub(1).clamp(0, levels - 1)


def _spread(values: Tensor) -> Tensor:
    return values[:, None, None]


def _split(place: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """The pixel before a place, from the border at -1 on, and how far beyond it the place is."""
    first = place.floor().clamp_(min=-1).minimum(end - 1)
    return first, (place - first).clamp_(0, 1)
