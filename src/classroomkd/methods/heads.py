"""The map that a network pools, the classifier after it, and a student's way to another's.

Shapes: ``B`` samples, ``D`` channels, ``H`` and ``W`` pixels.
"""

from collections.abc import Mapping
from copy import deepcopy
from typing import NamedTuple

from torch import Tensor, nn

from classroomkd.core.divergence import statistics_dtype


class Projector(nn.Sequential):
    """From the student's channels to another network's, by way of a bottleneck.

    A 1x1, a 3x3 and a 1x1 convolution without bias, each followed by batch normalisation and ReLU.

    Args:
        in_channels: of the student's map.
        width: channels of the other network's map.
        bottleneck: channels in between.

    Example:
        >>> import torch
        >>> Projector(16, 64, bottleneck=32)(torch.rand(2, 16, 8, 8)).shape
        torch.Size([2, 64, 8, 8])
    """

    def __init__(self, in_channels: int, width: int, bottleneck: int) -> None:
        layers: list[nn.Module] = []
        for here, there, kernel in (
            (in_channels, bottleneck, 1),
            (bottleneck, bottleneck, 3),
            (bottleneck, width, 1),
        ):
            conv = nn.Conv2d(here, there, kernel, padding=kernel // 2, bias=False)
            layers += [conv, nn.BatchNorm2d(there), nn.ReLU()]
        super().__init__(*layers)
        self.width, self.bottleneck = width, bottleneck


class ReplacedHead(NamedTuple):
    """What takes the place of a student's classifier: ``classifier(mean of projector(map))``.

    Attributes:
        projector: of the map that the student pools.
        classifier: another network's, frozen.
    """

    projector: Projector
    classifier: nn.Linear


def head_map(features: Mapping[str, Tensor], whose: str) -> Tensor:
    """The map that a network pools, in full precision: ``[B, D, H, W]``.

    Args:
        features: of the network, by name.
        whose: the student's or the mentor's, for the message.

    Raises:
        ValueError: if it is not among them.
    """
    if "head" not in features:
        raise ValueError(
            f"the {whose} does not show the map that it pools, named 'head' (its features:"
            f" {', '.join(features) or 'none'}); give Outputs(logits, features, classifier) with"
            " the features of network.forward_stages(images)"
        )
    return features["head"].to(statistics_dtype(features["head"]))


def frozen_copy(classifier: nn.Linear | None, method: str) -> nn.Linear:
    """A copy of a mentor's classifier that is not trained.

    Raises:
        ValueError: if the mentor shows none.
    """
    if classifier is None:
        raise ValueError(
            f"{method} uses the classifier of a mentor, and this mentor shows none: its network"
            " must keep its last layer, an nn.Linear, as `classifier`, as all of the zoo do; in a"
            " loop of your own give Outputs(logits, features, network.classifier)"
        )
    # In training mode, as its method: it has no modes, but Lightning warns of parts in eval mode.
    return deepcopy(classifier).requires_grad_(False).train()
