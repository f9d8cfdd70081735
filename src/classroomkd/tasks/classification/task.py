"""Image classification as the engine sees it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from classroomkd.data import (
    Batch,
    ImageSet,
    PhotoSet,
    ViewFunction,
    ViewLoader,
    create_view,
    development_split,
    load_image_set,
    training_selection,
)
from classroomkd.mentors import Mentor
from classroomkd.mentors.bank import view_key
from classroomkd.methods import Outputs
from classroomkd.models import (
    Network,
    StudentFile,
    build_model,
    load_student,
    load_weights,
    save_student,
)
from classroomkd.models.external.pixels import FitPixels
from classroomkd.tasks.base import AllGather, Finding, Saved, Task, alone
from classroomkd.tasks.classification.images import Data, View
from classroomkd.tasks.classification.mentor import open_mentor
from classroomkd.tasks.classification.metrics import accuracy, evaluate
from classroomkd.tasks.classification.recipe import MentorRecipe

EVALUATION_BATCH = 512


class Classification(Task):
    """Images of one class each."""

    name = "classification"
    samples = "images"
    headline = "top1"

    def training_sets(self) -> tuple[ImageSet, ImageSet | None]:
        """What is learnt from, and the development split (None if its size is 0).

        The split is taken first: what is chosen for training, and wrong labels, are no matter to
        it. Photographs may come with a development split of their own.
        """
        data: Data = self.recipe.data
        whole = load_image_set(data.name, "train", path=data.path, hub=data.hub, **data.reading)
        train_set, dev_set = whole, None
        if data.dev and isinstance(whole, PhotoSet) and whole.development is not None:
            dev_set = whole.development
        elif data.dev:
            train_rows, dev_rows = development_split(whole.target, data.dev, data.dev_seed)
            train_set, dev_set = whole.subset(train_rows), whole.subset(dev_rows)
        return training_selection(train_set, **data.selection), dev_set

    def test_set(self) -> ImageSet:
        """The images that students are judged by at the end."""
        data: Data = self.recipe.data
        return load_image_set(data.name, "test", path=data.path, hub=data.hub, **data.reading)

    def training_loader(
        self, dataset: ImageSet, *, views: int = 1, batch_size: int | None = None
    ) -> ViewLoader:
        """The images in the recipe's views; see `Task.training_loader`."""
        recipe, data = self.recipe, self.recipe.data

        def functions(views: Sequence[View]) -> list[ViewFunction]:
            return [create_view(view.name, **view.options) for view in views]

        return ViewLoader(
            dataset,
            batch_size or recipe.train.batch_size,
            seed=recipe.seed,
            view_seed=data.view_seed,
            repeat=data.repeat,
            augment=functions(data.augment),
            second=functions(data.second) if views == 2 else None,
            mixing=data.mixing,
            smoothing=data.smoothing,
            copies=data.copies,
            shuffle=batch_size is None,
            drop_last=batch_size is None and len(dataset) >= recipe.train.batch_size,
            device=self.place.device,
            channels_last=recipe.train.channels_last,
            part=self.place.part,
        )

    def plain_loader(self, dataset: ImageSet) -> ViewLoader:
        """Plain images, in their own order."""
        return ViewLoader(
            dataset,
            EVALUATION_BATCH,
            device=self.place.device,
            channels_last=self.recipe.train.channels_last,
        )

    def example(self, dataset: ImageSet, count: int) -> Tensor:
        """The first images, plain."""
        images = dataset.subset(torch.arange(count)).images
        return images.to(self.place.device).float().div(255)

    def build_student(self, dataset: ImageSet) -> Network:
        """The recipe's student for the set's classes, with its first weights."""
        entry = self.recipe.student
        own = entry.pretrained
        student = build_model(
            entry.model,
            len(dataset.classes),
            mean=None if own else dataset.mean,
            std=None if own else dataset.std,
            pretrained=own,
        )
        if entry.checkpoint is not None:
            load_weights(student, entry.checkpoint)
        return student

    def open_mentor(
        self, entry: MentorRecipe, name: str, student: Network, dataset: ImageSet
    ) -> Mentor:
        """A mentor with its classes in the data's order.

        One that starts from nothing normalises by the data's pixels, as the student does.
        """
        if entry.run is None and entry.checkpoint is None:
            own = {"mean": entry.mean or dataset.mean, "std": entry.std or dataset.std}
            entry = entry.model_copy(update=own)
        return open_mentor(entry, name, dataset.classes)

    def prepare(
        self, student: Network, mentors: Sequence[Mentor], dataset: ImageSet
    ) -> Iterator[str]:
        """Who sees the images larger than they are, which takes its time, in words."""
        height, width = dataset.subset(torch.arange(1)).images.shape[-2:]
        networks = [(f"the student {student.name}", student)]
        networks += [(f"the mentor {m.name}", m.network) for m in mentors if m.here]
        for who, network in networks:
            fit = getattr(network, "normalize", None)
            shown = fit.shown(height, width) if isinstance(fit, FitPixels) else (height, width)
            if shown[0] * shown[1] > height * width:
                photos = isinstance(dataset, PhotoSet)
                more = f"; data.size={max(shown)} shows it more of the photographs"
                yield (
                    f"{who} sees images of {height} x {width} pixels enlarged to"
                    f" {shown[0]} x {shown[1]}, which it is made for{more if photos else ''}"
                )

    def view_key(self, dataset: ImageSet) -> dict[str, Any]:
        """All that the images of a view, and the encoding, follow from."""
        recipe, data = self.recipe, self.recipe.data
        return view_key(
            data_fingerprint=dataset.fingerprint,
            data_name=data.name,
            classes=dataset.classes,
            views=[view.model_dump(mode="json") for view in data.augment],
            seed=recipe.seed if data.view_seed is None else data.view_seed,
            repeat=data.repeat,
            mix=asdict(mixing) if (mixing := data.mixing) else None,
            top=recipe.bank.top if recipe.bank else None,
        )

    def evaluate(
        self, network: Network, loader: ViewLoader, all_gather: AllGather = alone
    ) -> dict[str, float]:
        """Accuracies, likelihood and calibration; see `evaluate`."""
        return evaluate(network, loader, len(loader.dataset.classes), all_gather)

    def evaluate_mentor(self, mentor: Mentor, loader: ViewLoader) -> float:
        """A mentor's accuracy, in percent."""
        return accuracy(mentor, loader)

    def save(
        self, student: Network, folder: Path, dataset: ImageSet, epoch: int, result: float | None
    ) -> None:
        """Write ``student.safetensors`` and ``student.json``."""
        data = self.recipe.data.name
        save_student(
            student, StudentFile(student.name, dataset.classes, data, epoch, result), folder
        )

    def load(self, folder: Path) -> Saved:
        """A student from its files, with its top-1 accuracy."""
        student, info = load_student(folder)
        return Saved(student, info.epoch, info.top1, info.classes)

    def output_names(self, dataset: ImageSet) -> tuple[str, ...]:
        """The classes."""
        return dataset.classes

    def examine(self, classroom: Any, views: Batch, taught: Sequence[Outputs]) -> Iterable[Finding]:
        """What the doctor says about images and mentors; see `checks`."""
        from classroomkd.tasks.classification.checks import examine

        return examine(classroom, views, taught)
