"""Batches of persons, each cut out of its image by its box.

``B`` persons in a batch, ``U`` joints; an input is ``H`` by ``W`` pixels.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from classroomkd.data.draws import Draws, permutation
from classroomkd.data.epochs import Epochs
from classroomkd.tasks.pose.data.crop import Frames, Size, fit_box
from classroomkd.tasks.pose.data.persons import PersonSet
from classroomkd.tasks.pose.data.pixels import LEVELS, choose_levels
from classroomkd.tasks.pose.data.reader import Look, open_reader
from classroomkd.tasks.pose.data.views import PoseViews, mirror_joints, plain_frames

MEMORY_LIMIT = 2e9  # bytes


class PoseBatch(NamedTuple):
    """Persons as a classroom sees them.

    ``images`` ``[B, 3, H, W]`` float32 in [0, 1]; ``points`` ``[B, U, 2]`` float32, x then y in
    pixels of the input, 0 for joints that are not labelled; ``visible`` ``[B, U]`` float32, 1 for
    labelled joints inside the input, else 0; ``index`` ``[B]`` int64, the persons' numbers, which
    key the views; ``inverse`` ``[B, 2, 3]`` float32, from pixels of the input back to those of the
    image, for `apply_affine`; ``area`` ``[B]`` float32, the persons' in square pixels of the input.
    """

    images: Tensor
    points: Tensor
    visible: Tensor
    index: Tensor
    inverse: Tensor
    area: Tensor


class PoseLoader(Epochs):
    """An iterable over one epoch's batches of persons.

    Images are decoded once and kept on the device if they fit into ``memory_limit``, and else by
    worker processes as they are needed. The order of persons and every view depend on (seed, epoch,
    index) only: not on the batch size, the workers, or where the images are kept.

    Where an image is to be shrunk to less than a half, it is first reduced to a half, a quarter and
    so on by means of 2 x 2 pixels; the rest is bilinear interpolation. Outside the image is black.

    Args:
        persons: Whom to show.
        batch_size: Persons in a batch.
        size: Height and width of the input.
        seed: Seed of the order, and of the views if they have none of their own.
        view_seed: Seed of the views.
        repeat: How many different views a person has: epoch ``e`` shows those of epoch
            ``e % repeat``. None for new ones in each epoch.
        augment: How views differ from the plain one; None for evaluation.
        padding: How many times as large as the box the plain region is.
        shuffle: Whether to draw a new order each epoch.
        drop_last: Whether to leave out a last batch that is not full.
        device: Where the batches are made.
        channels_last: Memory format of the images, which keep their shape.
        workers: Threads that decode into memory, or processes that decode as needed; 0 for none.
        memory_limit: Most bytes of decoded images to keep.
        part: Which part of each batch is shown, from 0, and of how many equal ones: what one of
            several processes sees of the same batches.

    Raises:
        ValueError: If ``batch_size``, ``size`` or ``padding`` is out of range, or a batch cannot be
            divided into equal parts.
        ClassroomError: If an image cannot be decoded, or differs in size from its annotations;
            for images that are decoded as needed, only when it is its turn.
    """

    def __init__(
        self,
        persons: PersonSet,
        batch_size: int,
        *,
        size: Size,
        seed: int = 0,
        view_seed: int | None = None,
        repeat: int | None = None,
        augment: PoseViews | None = None,
        padding: float = 1.25,
        shuffle: bool = False,
        drop_last: bool = False,
        device: torch.device | str = "cpu",
        channels_last: bool = True,
        workers: int = 0,
        memory_limit: float = MEMORY_LIMIT,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        super().__init__(len(persons), batch_size, repeat=repeat, drop_last=drop_last, part=part)
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"size must be a height and a width in pixels, not {size}")
        if not padding > 0:
            raise ValueError(f"padding must be above 0, not {padding}")
        self.persons = persons
        self.size = (int(size[0]), int(size[1]))
        self.seed = seed
        self.view_seed = seed if view_seed is None else view_seed
        self.augment = augment
        self.padding = padding
        self.shuffle = shuffle
        self.device = torch.device(device)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self._read = open_reader(
            persons,
            self.size,
            self._levels(),
            device=self.device,
            workers=workers,
            memory_limit=memory_limit,
        )

    @property
    def dataset(self) -> PersonSet:
        """Who is shown."""
        return self.persons

    def samples(self) -> Tensor:
        """``[n]`` int64, on the host: the persons of the next iteration, by their numbers."""
        return self.persons.index[self._rows()]

    def _rows(self) -> Tensor:
        """``[n]`` int64: their places in `persons`, in order; of all parts."""
        count = len(self.persons)
        order = permutation(count, self.seed, self.epoch) if self.shuffle else torch.arange(count)
        return order[: len(self) * self.batch_size]

    def _levels(self) -> int:
        """How many levels of the images any view can ask for."""
        scale = fit_box(self.persons.box, self.size, self.padding)[1]
        most = self.augment.scale[1] if self.augment else 1.0
        return int(choose_levels(scale * most, LEVELS).max()) + 1 if len(scale) else 1

    def __iter__(self) -> Iterator[PoseBatch]:
        own = self.own(self._rows())
        if not own:
            return
        rows, count = torch.cat(own), self.batch_size // self.part[1]
        frames, mirrored = self._frames(rows)
        level = choose_levels(frames.scale, LEVELS)
        look = Look(self.persons.image[rows], level, frames.centre, frames.matrix)
        labels = [
            tensor.to(self.device).split(count) for tensor in self._labels(rows, frames, mirrored)
        ]
        pixels = self._read(look.split(count))
        for images, *label in zip(pixels, *labels, strict=True):
            shown = images.to(torch.float32, memory_format=self.memory_format).div_(255)
            yield PoseBatch(shown, *label)

    def _frames(self, rows: Tensor) -> tuple[Frames, Tensor]:
        """Where the inputs lie in the images, and who is mirrored."""
        persons = self.persons
        if self.augment is None:
            frames = plain_frames(persons.box[rows], self.size, self.padding)
            return frames, torch.zeros(len(rows), dtype=torch.bool)
        return self.augment.frames(
            Draws(self.view_seed, self.view, persons.index[rows]),
            persons.box[rows],
            persons.points[rows],
            persons.visible[rows],
            persons.joints,
            self.size,
            self.padding,
        )

    def _labels(self, rows: Tensor, frames: Frames, mirrored: Tensor) -> tuple[Tensor, ...]:
        """All parts of the batches but the images, of a whole epoch."""
        persons = self.persons
        labelled = persons.visible[rows] > 0
        points = torch.where(labelled[..., None], frames.to_input(persons.points[rows]), 0.0)
        visible = labelled & frames.inside(points)
        return (
            mirror_joints(points.float(), persons.joints, mirrored),
            mirror_joints(visible.float(), persons.joints, mirrored),
            persons.index[rows],
            frames.inverse.float(),
            (persons.area[rows] / frames.scale.square()).float(),
        )
