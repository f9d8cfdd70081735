"""From a recipe to the things that a run needs: data, student, mentors, method."""

from dataclasses import dataclass

import torch

from classroomkd.config import Recipe
from classroomkd.config.schema import Data, MentorRecipe
from classroomkd.data import (
    ImageSet,
    ViewLoader,
    create_view,
    development_split,
    load_image_set,
)
from classroomkd.engine.step import outputs
from classroomkd.errors import ClassroomError
from classroomkd.mentors import Mentor, mentor_names, open_mentor
from classroomkd.methods import Method, create_method, method_class
from classroomkd.models import Network, build_model, load_weights

EVALUATION_BATCH = 512


@dataclass
class Classroom:
    """A student, its mentors, the method, and the data that they meet on.

    Attributes:
        recipe: what it was built from.
        student: in training mode, on the device.
        mentors: those that the method listens to.
        method: on the device.
        train: augmented views, in an order of their own for each epoch.
        dev: plain images of the development split, or None without one.
        device: where everything lies.
    """

    recipe: Recipe
    student: Network
    mentors: list[Mentor]
    method: Method
    train: ViewLoader
    dev: ViewLoader | None
    device: torch.device

    @property
    def classes(self) -> tuple[str, ...]:
        """The data's classes."""
        return self.train.image_set.classes

    def begin_epoch(self, epoch: int) -> None:
        """Order, views and every other chance of an epoch are functions of seed and epoch alone."""
        self.train.set_epoch(epoch)
        self.method.begin_epoch(epoch, self.recipe.train.epochs)
        torch.manual_seed(self.recipe.seed * 1_000_003 + epoch)


def build_classroom(recipe: Recipe) -> Classroom:
    """Build everything that a recipe names.

    The student's first weights depend on the seed alone, not on the mentors.

    Raises:
        ClassroomError: if data or weights cannot be had or do not fit each other.
    """
    device = choose_device(recipe.train.device)
    memory_format = torch.channels_last if recipe.train.channels_last else torch.contiguous_format
    train_set, dev_set = training_sets(recipe.data)
    classes = train_set.classes

    torch.manual_seed(recipe.seed)
    student = build_model(
        recipe.student.model, len(classes), mean=train_set.mean, std=train_set.std
    )
    if recipe.student.checkpoint is not None:
        load_weights(student, recipe.student.checkpoint)
    student.to(device=device, memory_format=memory_format)  # type: ignore[call-overload]
    mentors = []
    for place, (entry, name) in enumerate(heard_mentors(recipe), start=1):
        torch.manual_seed(recipe.seed + 7919 * place)  # for those that start from nothing
        mentors.append(open_mentor(entry, name, classes).to(device, memory_format))
    torch.manual_seed(recipe.seed)
    method = create_method(recipe.method.name, **recipe.method.options)
    _show_shapes(method, student, mentors, train_set, device)

    def loader(image_set: ImageSet, batch_size: int, *, training: bool) -> ViewLoader:
        return ViewLoader(
            image_set,
            batch_size,
            seed=recipe.seed,
            augment=[create_view(v.name, **v.options) for v in recipe.data.augment if training],
            shuffle=training,
            drop_last=training and len(image_set) >= batch_size,
            device=device,
            channels_last=recipe.train.channels_last,
        )

    return Classroom(
        recipe=recipe,
        student=student,
        mentors=mentors,
        method=method.to(device),
        train=loader(train_set, recipe.train.batch_size, training=True),
        dev=loader(dev_set, EVALUATION_BATCH, training=False) if dev_set is not None else None,
        device=device,
    )


@torch.no_grad()
def _show_shapes(
    method: Method,
    student: Network,
    mentors: list[Mentor],
    image_set: ImageSet,
    device: torch.device,
) -> None:
    """Let a method see the training set, and what the networks say about two images of it.

    From the shapes it builds its adapters and memories.
    """
    images = image_set.images[:2].to(device).float().div(255)
    student.eval()
    said = [outputs(network, images, method) for network in (student, *mentors)]
    method.enroll(image_set.index, image_set.target)
    method.setup(said[0], said[1:])
    student.train()


def training_sets(data: Data) -> tuple[ImageSet, ImageSet | None]:
    """The training set less its development split, and the latter (None if its size is 0)."""
    whole = load_image_set(data.name, "train", path=data.path, hub=data.hub)
    if not data.dev:
        return whole, None
    train_rows, dev_rows = development_split(whole.target, data.dev, data.dev_seed)
    return whole.subset(train_rows), whole.subset(dev_rows)


def test_loader(data: Data, device: torch.device) -> ViewLoader:
    """The test set's plain images."""
    test = load_image_set(data.name, "test", path=data.path, hub=data.hub)
    return ViewLoader(test, EVALUATION_BATCH, device=device)


def heard_mentors(recipe: Recipe) -> list[tuple[MentorRecipe, str]]:
    """The mentors that the recipe's method listens to, each with its name."""
    everybody = list(zip(recipe.mentors, mentor_names(recipe.mentors), strict=True))
    listens = method_class(recipe.method.name).listens
    if listens == "nobody":
        return []
    if listens == "one" and len(everybody) > 1:
        return [(entry, name) for entry, name in everybody if entry.role == "teacher"]
    return everybody


def choose_device(name: str) -> torch.device:
    """The device that a recipe names; ``auto`` is a GPU where there is one.

    Raises:
        ClassroomError: if the device is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ClassroomError(f"train.device={name}: torch finds no CUDA device; use cpu or auto")
    return device
