"""What every network of the zoo offers: images in, logits and named features out.

Shapes: ``B`` samples, ``C`` classes, ``D`` width of the pooled feature, ``H`` and ``W`` pixels.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CIFAR100_MEAN = (0.5071, 0.4865, 0.4409)
CIFAR100_STD = (0.2673, 0.2564, 0.2762)


class Normalize(nn.Module):
    """Shift and scale the channels of images: ``(images - mean) / std``.

    ``mean`` and ``std`` are buffers of shape ``[3, 1, 1]`` and part of the ``state_dict``, so that
    saved weights carry the normalisation that they were trained with.

    Example:
        >>> normalize = Normalize(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
        >>> normalize(torch.ones(1, 3, 8, 8)).unique()
        tensor([2.])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != 3 or len(std) != 3:
            raise ValueError(f"mean and std need 3 values each, got {mean} and {std}")
        if min(std) <= 0:
            raise ValueError(f"std must be positive, got {std}")
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Normalise ``images [B, 3, H, W]``."""
        return (images - self.mean) / self.std


class ActivatedBlock(nn.Module, ABC):
    """A block that ends in a ReLU, with what goes into that ReLU in reach.

    Example:
        >>> import torch
        >>> class Negate(ActivatedBlock):
        ...     def preactivation(self, x):
        ...         return -x
        >>> Negate()(torch.tensor([-1.0, 2.0]))
        tensor([1., 0.])
    """

    @abstractmethod
    def preactivation(self, x: Tensor) -> Tensor:
        """Compute the block up to its last ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block."""
        return F.relu(self.preactivation(x))


class Network(nn.Module, ABC):
    """An image classifier that takes pixels in [0, 1] and can show its stages.

    A network owns its normalisation, so networks trained with different ones can share a batch.
    A family provides ``classifier``, :meth:`stem`, :meth:`stages` and, where it has layers between
    its last stage and the pooling, :meth:`head`.

    Attributes:
        name: the name it was built by, such as ``"resnet8x4"``.
        num_classes: ``C``.
        normalize: the normalisation of the images.
        classifier: the last layer, ``[B, D] -> [B, C]``.

    Args:
        num_classes: ``C``.
        mean: mean of each channel over the training images.
        std: standard deviation of each channel.

    Example:
        >>> from classroomkd.models import build_model
        >>> network = build_model("resnet8", num_classes=10)
        >>> features = network.forward_stages(torch.rand(2, 3, 32, 32))
        >>> {name: tuple(feature.shape[1:]) for name, feature in features.items()}
        {'stem': (16, 32, 32), 'stage1': (16, 32, 32), 'stage2': (32, 16, 16),
         'stage3': (64, 8, 8), 'head': (64, 8, 8), 'pooled': (64,), 'logits': (10,)}
    """

    classifier: nn.Linear

    def __init__(
        self,
        num_classes: int,
        mean: Sequence[float] = CIFAR100_MEAN,
        std: Sequence[float] = CIFAR100_STD,
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        self.name = type(self).__name__
        self.num_classes = num_classes
        self.normalize = Normalize(mean, std)

    @property
    def stage_names(self) -> tuple[str, ...]:
        """Names of the features in order: ``stem``, ``stage1``, ..., ``head``, ``pooled``."""
        stages = (f"stage{i}" for i, _ in enumerate(self.stages(), start=1))
        return ("stem", *stages, "head", "pooled")

    @abstractmethod
    def stem(self, x: Tensor) -> Tensor:
        """Turn normalised images into the first feature map."""

    @abstractmethod
    def stages(self) -> tuple[nn.Module, ...]:
        """List the stages, each taking the feature map of the one before."""

    def head(self, x: Tensor) -> Tensor:
        """Turn the map of the last stage into the one that is pooled; by default the same."""
        return x

    def preactivation(self, number: int, stage: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        """What goes into the ReLU that follows a stage, and what the stage gives.

        Args:
            number: of the stage, from 1.
            stage: one of :meth:`stages`.
            x: what it takes.

        Returns:
            Two maps; the same one twice for a stage that is linear at its end.
        """
        blocks = [stage] if isinstance(stage, ActivatedBlock) else list(stage.children())
        if not isinstance(blocks[-1], ActivatedBlock):
            out = stage(x)
            return out, out
        for block in blocks[:-1]:
            x = block(x)
        before = blocks[-1].preactivation(x)
        return before, F.relu(before)

    def forward_stages(self, images: Tensor, *, preactivations: bool = False) -> dict[str, Tensor]:
        """Compute every feature on the way to the logits.

        Args:
            images: ``[B, 3, H, W]`` in [0, 1].
            preactivations: also give ``stage1_preact``, ...: the stages before their last ReLU.

        Returns:
            The maps ``stem``, ``stage1``, ... and ``head`` (the one that is pooled; in many
            networks the last stage itself), ``[B, channels, height, width]``, then ``pooled``
            ``[B, D]`` and ``logits`` ``[B, C]``, in this order.
        """
        x = self.stem(self.normalize(images))
        features = {"stem": x}
        for i, stage in enumerate(self.stages(), start=1):
            if preactivations:
                features[f"stage{i}_preact"], x = self.preactivation(i, stage, x)
            else:
                x = stage(x)
            features[f"stage{i}"] = x
        features["head"] = self.head(x)
        features["pooled"] = features["head"].mean((2, 3))
        features["logits"] = self.classifier(features["pooled"])
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits ``[B, C]`` of ``images [B, 3, H, W]`` in [0, 1]."""
        return self.forward_stages(images)["logits"]
