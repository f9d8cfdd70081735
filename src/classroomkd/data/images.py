"""A set of small images in memory, and the development split taken from it.

``N`` images, ``C`` classes.
"""

import hashlib
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from classroomkd.data.draws import permutation
from classroomkd.errors import ClassroomError


def _no_index() -> Tensor:
    return torch.empty(0, dtype=torch.int64)


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images and their classes, all in memory. Never changed in place.

    Args:
        images: ``[N, 3, H, W]`` uint8, 0 to 255, in either memory format.
        target: ``[N]`` int64, each image's class.
        classes: Names of the ``C`` classes, in the order of the labels.
        mean: Mean of each channel over the training set, on the scale [0, 1].
        std: Standard deviation of each channel, likewise.
        name: What the set is called.
        index: ``[N]`` int64, each image's place in the original set. A subset keeps it, so that
            views, and the bank, know a sample by the same number. Left out: 0 to N - 1.
        notes: What a user should know about how the set was read, in sentences.

    Raises:
        ValueError: If a tensor has the wrong type or shape.

    >>> digits = ImageSet(
    ...     torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 0, 1]),
    ...     ("zero", "one"), mean=(0.3, 0.3, 0.3), std=(0.4, 0.4, 0.4), name="toy",
    ... )
    >>> ones = digits.subset(torch.tensor([1, 3]))
    >>> len(ones), ones.index.tolist()
    (2, [1, 3])
    """

    images: Tensor
    target: Tensor
    classes: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    name: str
    index: Tensor = field(default_factory=_no_index)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        images, count = self.images, len(self.images)
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(
                f"images must be uint8 [N, 3, H, W], not {images.dtype} {list(images.shape)}"
            )
        if not len(self.index):
            object.__setattr__(self, "index", torch.arange(count, device=images.device))
        for name, tensor in (("target", self.target), ("index", self.index)):
            if tensor.dtype != torch.int64 or tensor.shape != (count,):
                raise ValueError(
                    f"{name} must be int64 [{count}], not {tensor.dtype} {list(tensor.shape)}"
                )

    def __len__(self) -> int:
        return len(self.images)

    def subset(self, rows: Tensor) -> "ImageSet":
        """The images at ``rows`` (``[n]`` int64: places in this set), in that order."""
        rows = rows.to(self.images.device)
        return replace(
            self, images=self.images[rows], target=self.target[rows], index=self.index[rows]
        )

    def to(self, device: torch.device | str) -> "ImageSet":
        """The same set on ``device``."""
        return replace(
            self,
            images=self.images.to(device),
            target=self.target.to(device),
            index=self.index.to(device),
        )

    @cached_property
    def fingerprint(self) -> str:
        """64 hexadecimal digits of the content: images, targets, classes and index.

        Equal in every process and on every device, whatever the memory format.
        """
        digest = hashlib.sha256(repr((tuple(self.images.shape), self.classes)).encode())
        for tensor in (self.images, self.target, self.index):
            digest.update(tensor.cpu().contiguous().numpy().data)
        return digest.hexdigest()


def development_split(target: Tensor, size: int | float, seed: int) -> tuple[Tensor, Tensor]:
    """Split a training set in two, every class in proportion: a pure function.

    Args:
        target: ``[N]`` int64, each sample's class.
        size: Samples in the development split: how many (int), or which share (float).
        seed: Seed of the choice.

    Returns:
        The places of the training samples and of the development samples, both sorted. In the
        latter a class's count differs by less than one from its share.

    Raises:
        ClassroomError: If one of the two would be empty.

    >>> train, dev = development_split(torch.tensor([0, 1, 0, 1, 0, 1]), size=2, seed=0)
    >>> len(train), len(dev)
    (4, 2)
    """
    target, total = target.cpu(), len(target)
    wanted = round(size * total) if isinstance(size, float) else size
    if not 0 < wanted < total:
        raise ClassroomError(
            f"cannot take a development split of size {size} from {total} samples: choose a whole "
            f"number from 1 to {total - 1}, or a share above 0.0 and below 1.0"
        )
    counts = torch.bincount(target)
    quota = counts * wanted // total
    # Largest remainders take what rounding down has left; a seeded order settles ties.
    ties = permutation(len(counts), seed, 0, stream="split classes")
    ranking = ties[(counts * wanted % total)[ties].argsort(descending=True, stable=True)]
    quota[ranking[: wanted - int(quota.sum())]] += 1

    shuffled = permutation(total, seed, 0, stream="split")
    by_class = shuffled[target[shuffled].argsort(stable=True)]
    rank_in_class = torch.arange(total) - (counts.cumsum(0) - counts)[target[by_class]]
    chosen = rank_in_class < quota[target[by_class]]
    return by_class[~chosen].sort().values, by_class[chosen].sort().values
