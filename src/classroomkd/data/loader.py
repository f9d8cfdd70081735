"""Batches of views of an image set, made on the device in one piece.

Photographs are decoded, and cut to their size, by worker processes; all else is the same for them.

``B`` samples in a batch, or ``B`` rows where each sample comes in two views; ``C`` classes; ``n``
samples in an epoch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from classroomkd.data.crops import ResizedCrop
from classroomkd.data.draws import Draws, permutation
from classroomkd.data.epochs import Epochs
from classroomkd.data.images import ImageSet
from classroomkd.data.mixing import Mixing, Mixture, mix, soft_targets
from classroomkd.data.photos import PhotoReader, PhotoSet
from classroomkd.data.views import ViewFunction, make_view

_SECOND = 2**31  # from the seed of the first view to that of the second; a recipe's are below it
_COPY = 2**40  # from the key of a sample's view to that of its next copy; its number is below it


class Batch(NamedTuple):
    """Samples as a classroom sees them.

    ``images`` ``[B, 3, H, W]`` float32 in [0, 1]; ``target`` ``[B]`` int64, or probabilities
    ``[B, C]`` float32 where samples are mixed or labels smoothed; ``index`` ``[B]`` int64, the
    samples' places in the original training set, which key the views. With two views of each
    sample, first come all samples in one view, then the same samples in the other.
    """

    images: Tensor
    target: Tensor
    index: Tensor

    @property
    def label(self) -> Tensor:
        """The most probable class of each target, ``[B]`` int64: the class, where it is one."""
        return self.target.argmax(1) if self.target.is_floating_point() else self.target


class ViewLoader(Epochs):
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
        mixing: What samples are mixed with, drawn from the first view's seed, or None. A partner is
            another sample of ``image_set``, whose views are computed, too: images cost twice the
            time. Both views of a sample are mixed alike.
        smoothing: The part of a target that all classes have alike, from 0 to below 1.
        copies: How often a sample is shown in an epoch, each time in another view (repeated
            augmentation). An epoch keeps its length and shows ``ceil(N / copies)`` of ``N``
            samples, drawn anew in each; copies come one after the other, in one batch as a rule.
        shuffle: Whether to draw a new order each epoch.
        drop_last: Whether to leave out a last batch that is not full.
        device: Where the batches are made.
        channels_last: Memory format of the images, which keep their shape.
        part: Which part of each batch is shown, from 0, and of how many equal ones: what one of
            several processes sees of the same batches.

    Raises:
        ValueError: If ``batch_size`` or ``copies`` is below 1, ``smoothing`` out of range, or a
            batch cannot be divided into equal parts.

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
        mixing: Mixing | None = None,
        smoothing: float = 0.0,
        copies: int = 1,
        shuffle: bool = False,
        drop_last: bool = False,
        device: torch.device | str = "cpu",
        channels_last: bool = True,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        super().__init__(len(image_set), batch_size, repeat=repeat, drop_last=drop_last, part=part)
        if copies < 1:
            raise ValueError(f"copies must be 1 or more, not {copies}")
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing must be from 0 to below 1, not {smoothing}")
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.device = torch.device(device)
        self._reader = None
        if isinstance(image_set, PhotoSet):
            self._reader = PhotoReader(image_set, self.device)
            self._size = image_set.side, image_set.side
        else:
            self._size = image_set.images.shape[2], image_set.images.shape[3]
            # In the format of the batches, a batch is gathered without a second copy.
            images = image_set.images.contiguous(memory_format=self.memory_format)
            image_set = replace(image_set, images=images)
        self.image_set = image_set.to(device)
        self._numbers = image_set.index.cpu()
        self.seed = seed
        self.mixing = mixing if mixing is not None and mixing.on else None
        self.smoothing = smoothing
        self.copies = copies
        own = seed if view_seed is None else view_seed
        self.views = [(own, tuple(augment))]
        if second is not None:
            self.views.append((own + _SECOND, tuple(second)))
        if self._reader is not None:
            taken = [(seed, *_take_crop(augment)) for seed, augment in self.views]
            self._crops = [(seed, crop) for seed, crop, _ in taken]
            self.views = [(seed, rest) for seed, _, rest in taken]
        self.shuffle = shuffle

    @property
    def dataset(self) -> ImageSet:
        """What is shown."""
        return self.image_set

    @property
    def waited(self) -> float | None:
        """The share of the latest iteration that went by in waiting for photographs.

        None for images in memory.
        """
        return None if self._reader is None else self._reader.waits.share

    def samples(self) -> Tensor:
        """``[n]`` int64, on the host: the samples of the next iteration, by their numbers."""
        return self._numbers[self._rows()]

    def _rows(self) -> Tensor:
        """``[n]`` int64, on the host: their places in `image_set`, in order."""
        count = len(self.image_set)
        order = permutation(count, self.seed, self.epoch) if self.shuffle else torch.arange(count)
        if self.copies > 1:
            order = order[: -(-count // self.copies)].repeat_interleave(self.copies)[:count]
        return order[: len(self) * self.batch_size]

    def _plan(self, epoch: int) -> tuple[Tensor, Tensor, Mixture | None]:
        """All that an epoch shows, in order, on the host.

        Returns:
            The samples' places in `image_set` and the keys of their views, ``[1, n]`` int64 each,
            and None; or, where samples are mixed, ``[2, n]`` with a second row for their partners,
            and what they are mixed with.
        """
        rows = self._rows()
        copy = torch.arange(len(rows)) % self.copies * _COPY
        keys = self._numbers[rows] + copy
        if self.mixing is None:
            return rows[None], keys[None], None
        draws = Draws(self.views[0][0], epoch, keys)
        mixture = self.mixing.draw(draws, rows, len(self.image_set), *self._size)
        others = self._numbers[mixture.partner] + copy
        return torch.stack([rows, mixture.partner]), torch.stack([keys, others]), mixture

    def _batches(self, *tensors: Tensor) -> list[tuple[Tensor, ...]]:
        """Tensors ``[..., n]`` of an epoch's samples, as those ``[..., B]`` of each batch."""
        return list(zip(*(self.own(tensor) for tensor in tensors), strict=True))

    def __iter__(self) -> Iterator[Batch]:
        epoch = self.view
        rows, keys, mixture = self._plan(epoch)
        on_host = self._batches(rows, keys)
        # All at once, since each copy to the device makes the host wait.
        batches = self._batches(rows.to(self.device), keys.to(self.device))
        mixtures: list[Mixture | None] = [None] * len(batches)
        if mixture is not None:
            there = self._batches(*(tensor.to(self.device) for tensor in mixture))
            mixtures = [Mixture(*parts) for parts in there]
        pixels = self._pixels(on_host if self._reader else batches, epoch)
        for (rows, keys), mixture, shown in zip(batches, mixtures, pixels, strict=True):
            yield self._batch(rows, keys, mixture, shown, epoch)

    def _batch(
        self,
        rows: Tensor,
        keys: Tensor,
        mixture: Mixture | None,
        pixels: Sequence[Tensor],
        epoch: int,
    ) -> Batch:
        """One batch: of samples at ``rows [1, B]``, or ``[2, B]`` with their partners."""
        views = [
            make_view(images, keys.flatten(), seed=seed, epoch=epoch, augment=augment)
            for images, (seed, augment) in zip(pixels, self.views, strict=True)
        ]
        if mixture is not None:
            halves = (images.chunk(2) for images in views)
            views = [mix(own, partners, mixture) for own, partners in halves]
        shown = views[0] if len(views) == 1 else torch.cat(views)
        target = self.image_set.target[rows]
        if mixture is not None or self.smoothing:
            classes = len(self.image_set.classes)
            target = soft_targets(target, classes, mixture, self.smoothing)[None]
        return Batch(
            shown.contiguous(memory_format=self.memory_format),
            torch.cat([target[0]] * len(views)),
            self.image_set.index[rows[0]].repeat(len(views)),
        )

    def _pixels(self, batches: Sequence[tuple[Tensor, ...]], epoch: int) -> Iterator[list[Tensor]]:
        """What the views of each batch start from: ``[B, 3, H, W]`` uint8 for each view."""
        if self._reader is not None:
            places = [(rows.flatten(), keys.flatten()) for rows, keys in batches]
            return self._reader(places, epoch, self._crops)
        images = self.image_set.images
        return ([images[rows.flatten()]] * len(self.views) for rows, _ in batches)


def _take_crop(
    augment: Sequence[ViewFunction],
) -> tuple[ResizedCrop | None, tuple[ViewFunction, ...]]:
    """The random part that comes first, if it does, and the other view functions."""
    if augment and isinstance(augment[0], ResizedCrop):
        return augment[0], tuple(augment[1:])
    return None, tuple(augment)
