"""What an image processor of transformers does to pixels, found out by showing it colours.

Its settings differ from class to class (an offset, a second normalisation, channels as BGR), and
some are nowhere but in its code. What comes out of it is what the network was made for.
"""

from typing import Any

import torch
from PIL import Image
from torch import Tensor

from classroomkd.errors import ClassroomError
from classroomkd.models.external.pixels import Pixels

# As PIL counts them; what is neither of the first two is closest to a cubic curve.
_INTERPOLATIONS = {0: "nearest", 2: "bilinear"}


def watch_processor(processor: Any, who: str) -> Pixels:
    """The size, mean, std and order of channels that a processor gives to square images.

    Of squares of one colour each pixel becomes ``(pixel - mean) / std``, wherever it is; from those
    of black, red, green and blue, mean and std of each channel follow.

    Args:
        processor: called with PIL images, as those of transformers are.
        who: the network's name, for messages.

    Raises:
        ClassroomError: if it gives something else than images of three channels, or mixes these.

    Example:
        >>> from transformers import ViTImageProcessor
        >>> pixels = watch_processor(ViTImageProcessor(rescale_factor=1 / 127.5), "hf/vit")
        >>> pixels.size, pixels.mean, pixels.std
        ((224, 224), (0.25, 0.25, 0.25), (0.25, 0.25, 0.25))
    """
    shown = _shown(processor, who, 96, "black", "red", "lime", "blue")
    black, *pure = shown[:, :, shown.shape[2] // 2, shown.shape[3] // 2]
    gain = torch.stack([colour - black for colour in pure], 1)  # [given, shown]
    bgr = bool(gain[0, 2].abs() > gain[0, 0].abs())
    if bgr:
        gain, black = gain.flip(0), black.flip(0)
    own = gain.diagonal()
    stray = (gain - own.diag()).abs().max()
    if not (own.min() > 0 and stray <= 1e-3 * own.min()):  # nor if they are no numbers
        raise ClassroomError(
            f"{who}: its image processor does not shift and scale each colour by itself: check"
            " image_mean and image_std in its preprocessor_config.json, or use another model"
        )
    size = (shown.shape[2], shown.shape[3])
    if size == (96, 96) and _shown(processor, who, 160, "black").shape[2] == 160:
        return Pixels(None, True, _interpolation(processor), *_scale(black, own), bgr)
    return Pixels(size, True, _interpolation(processor), *_scale(black, own), bgr)


def _shown(processor: Any, who: str, side: int, *colours: str) -> Tensor:
    """What it makes of squares of one colour each: ``[colours, 3, H, W]``."""
    images = [Image.new("RGB", (side, side), colour) for colour in colours]
    try:
        given = processor(images, return_tensors="pt").get("pixel_values")
    except Exception as error:  # whatever settings that do not go together provoke
        raise ClassroomError(f"{who}: its image processor fails: {error}") from error
    if not isinstance(given, Tensor) or given.ndim != 4 or given.shape[1] != 3:
        raise ClassroomError(
            f"{who}: its image processor does not give images of three channels: use another model"
        )
    return given.double()


def _scale(black: Tensor, gain: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of each channel, to the six digits that are sure."""
    mean, std = -black / gain + 0.0, 1 / gain
    return tuple(_rounded(mean)), tuple(_rounded(std))


def _rounded(values: Tensor) -> list[float]:
    return [0.0 if abs(value) < 1e-7 else float(f"{value:.6g}") for value in values.tolist()]


def _interpolation(processor: Any) -> str:
    resample = getattr(processor, "resample", None)
    return "bilinear" if resample is None else _INTERPOLATIONS.get(int(resample), "bicubic")
