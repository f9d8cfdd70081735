"""What is timed against each other: the same classroom, trained by six loops.

A variant trains its student for an epoch and calls ``on_step`` at each step once its loss is there.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.textbook import train_textbook
from classroomkd.config.schema import MethodRecipe
from classroomkd.config.training import Train
from classroomkd.data import Batch, ImageSet, ViewLoader, crop, flip
from classroomkd.engine.classroom import Classroom
from classroomkd.engine.mentor_outputs import MentorOutputs
from classroomkd.engine.optim import build_optimizer, build_schedule
from classroomkd.engine.precision import autocast
from classroomkd.engine.step import training_step
from classroomkd.engine.trainer import fit
from classroomkd.mentors import Mentor
from classroomkd.mentors.bank import Bank
from classroomkd.methods import Outputs, create_method
from classroomkd.models import Network, build_model
from classroomkd.tasks.base import Place
from classroomkd.tasks.classification.recipe import Recipe, Student
from classroomkd.tasks.classification.task import Classification

OnStep = Callable[[object], None]

TITLES = {
    "textbook": "textbook loop",
    "engine": "this engine, plain loop",
    "trainer": "this engine, Lightning's Trainer",
    "banked": "this engine, mentors from the bank",
    "engine_alone": "student alone, this engine",
    "textbook_alone": "student alone, textbook loop",
}


@dataclass(frozen=True)
class Settings:
    """What is measured: by default a classroom of the CIFAR-100 benchmark, with random weights.

    Attributes:
        student: name of its model.
        mentors: names of theirs.
        batch_size: images of a step.
        classes: how many.
        rounds: in each, the variants take turns.
        steps: of a variant in a round that are timed.
        counts: of mentors, in the table of what a step costs with so many; 0 and one more at least.
        tuned: whether mentors are folded and compiled, as in a long run, or run as they are.
        loss: mentors, samples and classes of the loss that is timed on its own.
        stored: samples in the bank whose reading is timed.
    """

    student: str = "MobileNetV2"
    mentors: tuple[str, ...] = (
        *("wrn_16_2", "resnet8", "resnet14", "resnet20"),
        *("ShuffleNetV1", "ShuffleNetV2"),
    )
    batch_size: int = 64
    classes: int = 100
    rounds: int = 9
    steps: int = 12
    counts: tuple[int, ...] = (0, 1, 2, 4, 6, 8, 10, 12)
    tuned: bool = True
    loss: tuple[int, int, int] = (6, 128, 100)
    stored: int = 50_000

    @property
    def train(self) -> Train:
        """How recipes train by default, in batches of this size."""
        return Train(epochs=1, batch_size=self.batch_size)

    def with_mentors(self, count: int) -> "Settings":
        """The same with so many mentors, taken in turn.

        Example:
            >>> Settings("resnet8", ("vgg8", "resnet14")).with_mentors(3).mentors
            ('vgg8', 'resnet14', 'vgg8')
        """
        return replace(self, mentors=tuple(islice(cycle(self.mentors), count)))


def build_variants(
    settings: Settings, mentors: Sequence[Mentor], device: torch.device, folder: Path
) -> Mapping[str, Callable[[OnStep], None]]:
    """Those of this engine, each with a student of its own; a bank goes into the folder."""
    engine, trainer = (build_bench(settings, device, mentors) for _ in range(2))
    banked = build_bench(settings, device, mentors)
    add_bank(banked, folder / "bank")
    alone = build_bench(settings, device, ())
    return {
        "engine": lambda on_step: plain_loop(engine, on_step),
        "trainer": lambda on_step: fit(
            trainer, on_lesson=on_step, on_epoch=lambda *_: None, progress=False
        ),
        "banked": lambda on_step: plain_loop(banked, on_step),
        "engine_alone": lambda on_step: plain_loop(alone, on_step),
    }


def build_textbook_variants(
    settings: Settings, device: torch.device
) -> Mapping[str, Callable[[OnStep], None]]:
    """Those of the textbook loop, each with a student of its own."""
    student, alone = (build_network(settings, device, 0) for _ in range(2))
    mentors = [build_network(settings, device, place + 1) for place in range(len(settings.mentors))]
    batches = build_loader(settings, device, channels_last=False)
    return {
        "textbook": lambda on_step: train_textbook(student, mentors, batches, on_step),
        "textbook_alone": lambda on_step: train_textbook(alone, (), batches, on_step),
    }


def plain_loop(classroom: Classroom, on_step: OnStep) -> None:
    """An epoch of this engine without the Trainer."""
    train = classroom.recipe.train
    optimizer = build_optimizer(classroom.student.parameters(), train)
    schedule = build_schedule(optimizer, train, len(classroom.train))
    classroom.begin_epoch(0)
    for batch in classroom.train:
        lesson = training_step(classroom, batch)
        on_step(lesson)
        optimizer.zero_grad()
        lesson.loss.backward()
        optimizer.step()
        schedule.step()
    classroom.end_epoch()


class StudentSteps:
    """Forward, cross-entropy, backward, update: one step at each call.

    Args:
        classroom: whose student learns.
        batch: what it learns from, each time.
    """

    def __init__(self, classroom: Classroom, batch: Batch) -> None:
        self.classroom, self.batch = classroom, batch
        self.optimizer = build_optimizer(classroom.student.parameters(), classroom.recipe.train)

    def __call__(self) -> None:
        """One step."""
        with autocast(self.classroom.device, self.classroom.recipe.train.precision):
            logits = self.classroom.student(self.batch.images)
        self.optimizer.zero_grad()
        F.cross_entropy(logits.float(), self.batch.target).backward()
        self.optimizer.step()


def build_bench(
    settings: Settings, device: torch.device, mentors: Sequence[Mentor] | None = None
) -> Classroom:
    """A classroom as the defaults of recipes make it.

    Args:
        settings: what it is made of.
        device: where it is.
        mentors: those of `build_mentors`, which several classrooms may share; none for the student
            alone. Left out, they are built.
    """
    taught = build_mentors(settings, device) if mentors is None else list(mentors)
    method = "classroom" if taught else "none"
    recipe = Recipe(
        name="bench",
        student=Student(model=settings.student),
        method=MethodRecipe(name=method),
        train=settings.train,
    )
    student = build_network(settings, device, 0)
    lessons = create_method(method).to(device)
    return Classroom(
        recipe=recipe,
        task=Classification(recipe, Place(device)),
        student=student.to(memory_format=_layout(settings)),  # type: ignore[call-overload]
        mentors=taught,
        method=lessons,
        train=build_loader(settings, device, channels_last=settings.train.channels_last),
        dev=None,
        device=device,
        mentor_outputs=MentorOutputs(
            taught, lessons, example_outputs(settings.classes, device), labels
        ),
    )


def build_mentors(settings: Settings, device: torch.device) -> list[Mentor]:
    """The mentors of a classroom, each as it runs in a long run where they are tuned."""
    networks = [build_network(settings, device, 1 + n) for n in range(len(settings.mentors))]
    mentors = [Mentor(n, n.name).to(device, _layout(settings)) for n in networks]
    if settings.tuned:
        example = _example(settings, device)
        for mentor in mentors:
            mentor.speed_up(example, compiled=True)
    return mentors


def add_bank(classroom: Classroom, folder: Path) -> None:
    """Give a classroom a bank, which its first epoch fills."""
    bank = Bank(folder, {"views": "of the benchmark"})
    names = [f"{place}-{mentor.name}" for place, mentor in enumerate(classroom.mentors)]
    stores = [bank.mentor(name, {"weights": "random"}) for name in names]
    example = example_outputs(len(classroom.train.dataset.classes), classroom.device)
    classroom.mentor_outputs = MentorOutputs(
        classroom.mentors, classroom.method, example, labels, stores
    )


def example_outputs(classes: int, device: torch.device) -> Outputs:
    """What a network says about a sample, as far as `MentorOutputs` wants to know."""
    return Outputs(torch.zeros(1, classes, device=device))


def labels(batch: Batch) -> tuple[Tensor, ...]:
    """The classes of a batch, as a bank keeps them."""
    return (batch.label,)


def build_network(settings: Settings, device: torch.device, place: int) -> Network:
    """The student (place 0) or a mentor (1 and on), with the same random weights at each call."""
    torch.manual_seed(place)
    return build_model((settings.student, *settings.mentors)[place], settings.classes).to(device)


def build_loader(settings: Settings, device: torch.device, *, channels_last: bool) -> ViewLoader:
    """An epoch of random images, one step longer than what is timed."""
    chance = torch.Generator().manual_seed(0)
    count = settings.batch_size * (settings.steps + 1)
    images = ImageSet(
        torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=chance),
        torch.randint(0, settings.classes, (count,), generator=chance),
        tuple(f"class {number}" for number in range(settings.classes)),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        name="random images",
    )
    return ViewLoader(
        images,
        settings.batch_size,
        augment=[crop(4), flip()],
        shuffle=True,
        drop_last=True,
        device=device,
        channels_last=channels_last,
    )


def _layout(settings: Settings) -> torch.memory_format:
    return torch.channels_last if settings.train.channels_last else torch.contiguous_format


def _example(settings: Settings, device: torch.device) -> Tensor:
    """A batch of images as mentors will see them."""
    loader = build_loader(settings, device, channels_last=settings.train.channels_last)
    return next(iter(loader)).images
