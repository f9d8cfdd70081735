"""Where a network believes a person's joints to be, whatever its head is: maps to be drawn.

Shapes: ``U`` joints, ``Ky`` by ``Kx`` bins.
"""

from dataclasses import dataclass

import numpy as np

from classroomkd.core.signals import Blocks
from classroomkd.tasks.pose.models.codec import Codec


@dataclass(frozen=True)
class JointHeatmaps:
    """Where a network believes a person's joints to be.

    Attributes:
        name: of the network.
        maps: ``[U, Ky, Kx]``, each from 0 to 1 at its largest.
        extent: left, right, bottom and top edge of the maps, as shares of the input.
    """

    name: str
    maps: np.ndarray
    extent: tuple[float, float, float, float]

    def edges(self, width: int, height: int) -> tuple[float, float, float, float]:
        """The extent in pixels of a picture."""
        left, right, bottom, top = self.extent
        return left * width - 0.5, right * width - 0.5, bottom * height - 0.5, top * height - 0.5


def belief(
    name: str,
    outputs: Blocks,
    codec: Codec,
    input_size: tuple[int, int],
    row: int = 0,
    temperature: float = 4.0,
) -> JointHeatmaps:
    """What a network's outputs say about one person: probabilities, whatever the head is.

    They are softened, as a mentor's are that teaches: sharp ones are too small a spot to be seen.

    Args:
        name: of the network.
        outputs: for a batch.
        codec: the network's.
        input_size: its height and width.
        row: of the person in the batch.
        temperature: that the logits are divided by.

    >>> import torch
    >>> from classroomkd.tasks.pose.models.codec import simcc_codec
    >>> codec = simcc_codec((16, 8))
    >>> seen = belief("student", codec.encode(torch.tensor([[[3.0, 9.0]]])), codec, (16, 8))
    >>> seen.maps.shape, seen.edges(width=80, height=160)
    ((1, 32, 16), (-0.5, 79.5, 159.5, -0.5))
    """
    one = tuple(block[row : row + 1].detach().float() for block in outputs)
    shares = [(block[0] / temperature).softmax(-1) for block in codec.logits(one)]
    if len(shares) == 1:
        maps = shares[0].unflatten(-1, (codec.y.bins, codec.x.bins))
    else:
        x, y = shares
        maps = y[:, :, None] * x[:, None, :]
    maps = maps / maps.amax((-2, -1), keepdim=True)
    edges = []
    for grid, size in ((codec.x, input_size[1]), (codec.y, input_size[0])):
        places = grid.within(size)
        first = places.offset - places.step / 2
        edges.append((first, first + places.step * places.bins))
    (left, right), (top, bottom) = edges
    return JointHeatmaps(name, maps.nan_to_num().cpu().numpy(), (left, right, bottom, top))
