"""Batches of views of an image set, made on the device in one piece.

Photographs are decoded, and cut to their size, by worker processes; all else is the same for them.

``B`` samples in a batch, or ``B`` rows where each sample comes in two views.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from classroomkd.data.crops import ResizedCrop
from classroomkd.data.draws import permutation
from classroomkd.data.images import ImageSet
from classroomkd.data.photos import PhotoReader, PhotoSet
from classroomkd.data.views import ViewFunction, make_view

_SECOND = 2**31  # from the seed of the first view to that of the second; a recipe's are below it


class Batch(NamedTuple):
    """Samples as a classroom sees them.

    ``images`` ``[B, 3, H, W]`` float32 in [0, 1]; ``target`` ``[B]`` int64; ``index`` ``[B]``
    int64, the samples' places in the original training set, which key the views. With two views of
    each sample, first come all samples in one view, then the same samples in the other.
    """

    images: Tensor
    target: Tensor
    index: Tensor


class ViewLoader:
    """An iterable over one epoch's batches.

    A set in memory lies on the device as a whole; a batch is gathered and augmented there at once,
    with neither worker processes nor a wait for the device. Of a `PhotoSet`, workers decode what
    the first view function shows if that is a `ResizedCrop`, and else the centre. The order of
    samples and every view depend on (seed, epoch, index) only, not on the batch size, on the
    workers, nor on what was read before.

    Args:
        image_set: What to show.
        batch_size: Samples in a batch.
        seed: Seed of the order, and of the views if they have none of their own.
        view_seed: Seed of the views.
        repeat: How many different views a sample has: epoch ``e`` shows those of epoch
            ``e % repeat``. None for new ones in each epoch.
        augment: View functions, applied in order; none for evaluation.
        second: View functions of a second view of each sample, drawn independently of the first, or
            None for one view. A batch then has twice as many images as samples.
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
        view_seed: int | None = None,
        repeat: int | None = None,
        augment: Sequence[ViewFunction] = (),
        second: Sequence[ViewFunction] | None = None,
        shuffle: bool = False,
        drop_last: bool = False,
        device: torch.device | str = "cpu",
        channels_last: bool = True,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more, not {batch_size}")
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.device = torch.device(device)
        self._reader = None
        if isinstance(image_set, PhotoSet):
            self._reader = PhotoReader(image_set, self.device)
        else:
            # In the format of the batches, a batch is gathered without a second copy.
            images = image_set.images.contiguous(memory_format=self.memory_format)
            image_set = replace(image_set, images=images)
        self.image_set = image_set.to(device)
        self._numbers = image_set.index.cpu()
        self.batch_size = batch_size
        self.seed = seed
        self.repeat = repeat
        own = seed if view_seed is None else view_seed
        self.views = [(own, tuple(augment))]
        if second is not None:
            self.views.append((own + _SECOND, tuple(second)))
        if self._reader is not None:
            taken = [(seed, *_take_crop(augment)) for seed, augment in self.views]
            self._crops = [(seed, crop) for seed, crop, _ in taken]
            self.views = [(seed, rest) for seed, _, rest in taken]
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.epoch = 0

    def __len__(self) -> int:
        full, rest = divmod(len(self.image_set), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0, of the next iteration."""
        self.epoch = epoch

    @property
    def view(self) -> int:
        """The number of the views that the next iteration shows, from 0."""
        return self.epoch % self.repeat if self.repeat else self.epoch

    def samples(self) -> Tensor:
        """``[n]`` int64, on the host: the samples of the next iteration, by their numbers."""
        return self._numbers[self._rows()]

    def _rows(self) -> Tensor:
        """``[n]`` int64, on the host: their places in `image_set`, in order."""
        count = len(self.image_set)
        shuffled = self.shuffle
        order = permutation(count, self.seed, self.epoch) if shuffled else torch.arange(count)
        return order[: len(self) * self.batch_size]

    def __iter__(self) -> Iterator[Batch]:
        epoch = self.view
        batches = self._rows().to(self.device).split(self.batch_size)[: len(self)]
        for rows, pixels in zip(batches, self._pixels(batches, epoch), strict=True):
            index, target = self.image_set.index[rows], self.image_set.target[rows]
            views = [
                make_view(images, index, seed=seed, epoch=epoch, augment=augment)
                for images, (seed, augment) in zip(pixels, self.views, strict=True)
            ]
            shown = views[0] if len(views) == 1 else torch.cat(views)
            yield Batch(
                shown.contiguous(memory_format=self.memory_format),
                target.repeat(len(views)),
                index.repeat(len(views)),
            )

    def _pixels(self, batches: Sequence[Tensor], epoch: int) -> Iterator[list[Tensor]]:
        """What the views of each batch start from: ``[B, 3, H, W]`` uint8 for each view."""
        if self._reader is not None:
            return self._reader([rows.cpu() for rows in batches], epoch, self._crops)
        return ([self.image_set.images[rows]] * len(self.views) for rows in batches)


def _take_crop(
    augment: Sequence[ViewFunction],
) -> tuple[ResizedCrop | None, tuple[ViewFunction, ...]]:
    """The random part that comes first, if it does, and the other view functions."""
    if augment and isinstance(augment[0], ResizedCrop):
        return augment[0], tuple(augment[1:])
    return None, tuple(augment)
