"""From an image file of any kind to a square of red, green and blue pixels.

Turned as the camera says (EXIF); 16 bits scaled to 8; transparent pixels over white; palettes, grey
and CMYK as Pillow converts them; of an animation the first picture.
"""

import os
import warnings
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

MIN_SIDE = 8  # pixels; what is smaller is no photograph but a placeholder
_ORIENTATION = 0x0112
_WIDTH, _HEIGHT = 0x0100, 0x0101
_TURNED = (5, 6, 7, 8)  # orientations that exchange width and height

Source = str | os.PathLike[str] | BinaryIO
Box = Sequence[float]  # left, top, width, height


class BadImage(Exception):
    """A file that is no image, is damaged, or too small; says why, and ``name`` says which."""

    def __init__(self, reason: str, name: str) -> None:
        super().__init__(reason)
        self.name = name


class Photo:
    """An image file, opened: its header is read, its pixels are not.

    ``source`` is the file's path, or the file, opened; ``name`` is what to call it in messages.
    ``size`` is width and height as it is to be seen. What is no image, or has a side below
    `MIN_SIDE`, is a BadImage.
    """

    def __init__(self, source: Source, name: str | None = None) -> None:
        self.name = str(source) if name is None else name
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of damaged EXIF, of very large images
                self._image = Image.open(source)
                width, height, turned = _read_header(self._image)
        except Exception as error:  # a damaged file can raise nearly anything
            raise self._bad(error) from error
        self.size = (height, width) if turned else (width, height)
        if min(self.size) < MIN_SIDE:
            self._image.close()
            raise BadImage(f"{width} x {height} pixels, {MIN_SIDE} is the least", self.name)

    def square(self, box: Box, size: int) -> np.ndarray:
        """Decode a box and resize it, with antialiasing, to ``[size, size, 3]`` uint8; once only.

        A JPEG that is more than four times as large as needed is decoded at a half, a quarter or an
        eighth of its size, which is much faster and leaves at least twice the pixels needed.
        """
        left, top, width, height = box
        for reduced in (8, 4, 2):
            if min(width, height) >= 2 * size * reduced:
                own = self._image.size
                self._image.draft(None, (own[0] // reduced, own[1] // reduced))
                break
        pixels = self._pixels()
        x, y = pixels.width / self.size[0], pixels.height / self.size[1]
        corners = (
            left * x,
            top * y,
            min((left + width) * x, pixels.width),
            min((top + height) * y, pixels.height),
        )
        return np.asarray(pixels.resize((size, size), Image.Resampling.BILINEAR, box=corners))

    def close(self) -> None:
        """Close the file, if decoding has not."""
        self._image.close()

    def check(self) -> None:
        """Decode everything, which closes the file; a BadImage if that fails."""
        self._pixels()

    def _pixels(self) -> Image.Image:
        try:
            with warnings.catch_warnings(), self._image as image:
                warnings.simplefilter("ignore")
                image.load()
                return to_rgb(ImageOps.exif_transpose(image))
        except Exception as error:
            raise self._bad(error) from error

    def _bad(self, error: Exception) -> BadImage:
        """The reason in words, without the path."""
        if isinstance(error, Image.UnidentifiedImageError):
            return BadImage("no image that Pillow knows", self.name)
        return BadImage(str(error) or type(error).__name__, self.name)


def _read_header(image: Image.Image) -> tuple[int, int, bool]:
    """Width and height as stored, and whether they are exchanged for the eye; closed on an error.

    Of a PNG all is decoded, since what the camera says may come last.
    """
    try:
        turned = image.getexif().get(_ORIENTATION) in _TURNED
        # Of a TIFF, some releases of Pillow give the size as it is to be seen.
        tags = getattr(image, "tag_v2", None)
        width, height = image.size if tags is None else (tags[_WIDTH], tags[_HEIGHT])
    except BaseException:
        image.close()
        raise
    return width, height, turned


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to 8 bits of red, green and blue; a ValueError if that cannot be.

    >>> to_rgb(Image.new("I;16", (1, 1), 65535)).getpixel((0, 0))
    (255, 255, 255)
    >>> to_rgb(Image.new("RGBA", (1, 1), (255, 0, 0, 0))).getpixel((0, 0))
    (255, 255, 255)
    """
    if image.mode == "F":
        raise ValueError("pixels are floating-point numbers, whose range is unknown")
    if image.mode.startswith("I"):
        levels = np.asarray(image).astype(np.float64).clip(0, 65535) / 257
        return Image.fromarray(levels.round().astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        colours = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, colours).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
