"""Batches of views of an image set, made on the device in one piece.

``B`` samples in a batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from classroomkd.data.draws import permutation
from classroomkd.data.images import ImageSet
from classroomkd.data.views import ViewFunction, make_view


class Batch(NamedTuple):
    """Samples as a classroom sees them.

    ``images`` ``[B, 3, H, W]`` float32 in [0, 1]; ``target`` ``[B]`` int64; ``index`` ``[B]``
    int64, the samples' places in the original training set, which key the views.
    """

    images: Tensor
    target: Tensor
    index: Tensor


class ViewLoader:
    """An iterable over one epoch's batches.

    The whole set lies on the device; a batch is gathered and augmented there at once, with neither
    worker processes nor a wait for the device. The order of samples and every view depend on
    (seed, epoch, index) only, not on the batch size nor on what was read before.

    Args:
        image_set: What to show.
        batch_size: Samples in a batch.
        seed: Seed of order and views.
        augment: View functions, applied in order; none for evaluation.
        shuffle: Whether to draw a new order each epoch.
        drop_last: Whether to leave out a last batch that is not full.
        device: Where the batches are made.
        channels_last: Memory format of the images, which keep their shape.

    Raises:
        ValueError: If ``batch_size`` is below 1.

    >>> from classroomkd.data import crop, flip, load_image_set
    >>> loader = ViewLoader(
    ...     load_image_set("digits", "train"), 128, augment=[crop(1), flip()], shuffle=True
    ... )
    >>> loader.set_epoch(2)
    >>> batch = next(iter(loader))
    >>> len(loader), batch.images.shape
    (11, torch.Size([128, 3, 8, 8]))
    """

    def __init__(
        self,
        image_set: ImageSet,
        batch_size: int,
        *,
        seed: int = 0,
        augment: Sequence[ViewFunction] = (),
        shuffle: bool = False,
        drop_last: bool = False,
        device: torch.device | str = "cpu",
        channels_last: bool = True,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more, not {batch_size}")
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        # In the format of the batches, a batch is gathered without a second copy.
        images = image_set.images.contiguous(memory_format=self.memory_format)
        self.image_set = replace(image_set, images=images).to(device)
        self.batch_size = batch_size
        self.seed = seed
        self.augment = tuple(augment)
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.device = torch.device(device)
        self.epoch = 0

    def __len__(self) -> int:
        full, rest = divmod(len(self.image_set), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0, of the next iteration."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Batch]:
        epoch, count = self.epoch, len(self.image_set)
        order = permutation(count, self.seed, epoch) if self.shuffle else torch.arange(count)
        for rows in order.to(self.device).split(self.batch_size)[: len(self)]:
            index = self.image_set.index[rows]
            images = self.image_set.images[rows]
            views = make_view(images, index, seed=self.seed, epoch=epoch, augment=self.augment)
            views = views.contiguous(memory_format=self.memory_format)
            yield Batch(views, self.image_set.target[rows], index)
