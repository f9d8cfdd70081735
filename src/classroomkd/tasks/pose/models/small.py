"""Small backbones for small crops: 96 x 96 in minutes on a CPU.

Shapes: ``B`` persons, ``C`` channels, ``H`` and ``W`` pixels.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from classroomkd.models.cifar.resnet import BasicBlock

SMALL: dict[str, tuple[tuple[int, int, int, int], tuple[int, int, int], int]] = {
    "tiny": ((16, 24, 48, 64), (1, 1, 2), 32),
    "small": ((24, 48, 96, 128), (1, 2, 2), 64),
    "base": ((32, 64, 128, 256), (2, 2, 2), 96),
}


class SmallBackbone(nn.Module):
    """Residual stages at strides 4, 8 and 16, and the way back up with lateral connections.

    Args:
        widths: channels of the stem (stride 2) and of the three stages.
        depths: residual blocks in each stage.
        channels: ``C`` of the map it gives.
        stride: of the map it gives: 4 or 8.

    Example:
        >>> import torch
        >>> backbone = SmallBackbone(*SMALL["tiny"])
        >>> backbone(torch.rand(2, 3, 64, 48)).shape
        torch.Size([2, 32, 16, 12])
    """

    deepest = 16

    def __init__(
        self, widths: Sequence[int], depths: Sequence[int], channels: int, stride: int = 4
    ) -> None:
        super().__init__()
        stem, *stages = widths
        self.stem = nn.Sequential(
            nn.Conv2d(3, stem, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(stem),
            nn.ReLU(inplace=True),
        )
        self.stages = nn.ModuleList()
        previous = stem
        for width, depth in zip(stages, depths, strict=True):
            blocks = [BasicBlock(previous, width, stride=2)]
            blocks += [BasicBlock(width, width, stride=1) for _ in range(depth - 1)]
            self.stages.append(nn.Sequential(*blocks))
            previous = width
        self.channels, self.stride = channels, stride
        used = stages[::-1] if stride == 4 else stages[:0:-1]
        self.lateral = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in used)
        self.merge = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, channels, 3, padding=1, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(inplace=True),
            )
            for _ in used[1:]
        )

    def forward(self, x: Tensor) -> Tensor:
        """The map ``[B, C, H / stride, W / stride]`` of normalised images ``[B, 3, H, W]``."""
        return self.show(x)["head"]

    def show(self, x: Tensor) -> dict[str, Tensor]:
        """The maps of the stem and of each stage, and ``head``, what `forward` gives."""
        shown = {"stem": (x := self.stem(x))}
        shown |= {f"stage{n}": (x := stage(x)) for n, stage in enumerate(self.stages, start=1)}
        maps = list(shown.values())[:0:-1]
        x = self.lateral[0](maps[0])
        for finer, lateral, merge in zip(maps[1:], self.lateral[1:], self.merge, strict=False):
            x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
            x = merge(x + lateral(finer))
        return {**shown, "head": x}
