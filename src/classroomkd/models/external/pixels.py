"""From the pixels of a view to what a network of another library was made for."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from classroomkd.models.network import Normalize

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Pixels:
    """What a network was made for.

    Attributes:
        size: height and width of its images; None for any.
        always: whether images of another size are always resized.
        interpolation: how: ``"bilinear"``, ``"bicubic"`` or ``"nearest"``.
        mean: of each channel.
        std: of each channel.
        bgr: whether the network takes blue first; ``mean`` and ``std`` have red first all the same.
    """

    size: tuple[int, int] | None = None
    always: bool = False
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    bgr: bool = False


class FitPixels(Normalize):
    """Resize images to a network's size, whole and antialiased, and normalise them.

    Networks of a fixed size (ViT, Swin) and pretrained ones always get their own size. Others get
    the images as they are, unless these are below half of it, where maps would shrink to nothing.
    Nothing is cut away: how much of a photograph is shown, be it its centre as in most libraries'
    evaluation (``crop_pct``), is for the view to say, which is the same for student and mentors.
    Size and rule are part of the ``state_dict``, so that a student that learnt from resized images
    is given such ones after it is loaded.

    Example:
        >>> fit = FitPixels(Pixels(size=(64, 64)))
        >>> [tuple(fit(torch.rand(1, 3, size, size)).shape[2:]) for size in (16, 48, 96)]
        [(64, 64), (48, 48), (96, 96)]
        >>> FitPixels(Pixels((64, 64), always=True))(torch.rand(1, 3, 96, 96)).shape[2:]
        torch.Size([64, 64])
    """

    def __init__(self, pixels: Pixels) -> None:
        super().__init__(pixels.mean, pixels.std)
        self.size = pixels.size
        self.always = pixels.always
        self.bgr = pixels.bgr
        self.interpolation = (
            pixels.interpolation if pixels.interpolation in ("bilinear", "nearest") else "bicubic"
        )

    def forward(self, images: Tensor) -> Tensor:
        """Resize and normalise ``images [B, 3, H, W]`` in [0, 1], red first."""
        normalised = super().forward(self.resize(images))
        return normalised.flip(1) if self.bgr else normalised

    def resize(self, images: Tensor) -> Tensor:
        """The images in the network's size, in [0, 1]; themselves where that is not wanted."""
        here = (images.shape[-2], images.shape[-1])
        size = self.shown(*here)
        if size == here:
            return images
        if self.interpolation == "nearest":
            return F.interpolate(images, size, mode="nearest-exact")
        resized = F.interpolate(images, size, mode=self.interpolation, antialias=True)
        return resized.clamp(0, 1)  # cubic curves overshoot

    def shown(self, height: int, width: int) -> tuple[int, int]:
        """The height and width at which the network sees images of another."""
        if self.size is None:
            return height, width
        small = 2 * height < self.size[0] or 2 * width < self.size[1]
        return self.size if self.always or small else (height, width)

    def get_extra_state(self) -> Tensor:
        """Height and width (0 for any), and whether images are always resized."""
        return torch.tensor([*(self.size or (0, 0)), int(self.always)])

    def set_extra_state(self, state: Any) -> None:
        """Take over what `get_extra_state` gave."""
        height, width, always = state.tolist()
        self.size, self.always = (height, width) if height else None, bool(always)
