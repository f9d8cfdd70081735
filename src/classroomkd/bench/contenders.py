"""What is timed against each other: the same classroom, trained by six loops.

A contender trains its student for an epoch and calls ``tick`` at each step, once its loss is there.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from classroomkd.bench.textbook import train_textbook
from classroomkd.config import Recipe
from classroomkd.config.schema import MethodRecipe, Student, Train
from classroomkd.data import ImageSet, ViewLoader, crop, flip
from classroomkd.engine.build import Classroom
from classroomkd.engine.hearing import Hearing
from classroomkd.engine.optim import build_optimizer, build_schedule
from classroomkd.engine.trainer import fit
from classroomkd.engine.tuning import tune
from classroomkd.mentors import Mentor
from classroomkd.mentors.bank import Bank
from classroomkd.methods import create_method
from classroomkd.models import Network, build_model

Tick = Callable[[object], None]

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
        rounds: in each, the contenders take turns.
        steps: of a contender in a round that are timed.
        counts: of mentors, in the table of what a step costs with so many.
        tuned_for: how long a run mentors are tuned for, in steps: 20 epochs of CIFAR-100. With 0
            they run as they are.
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
    tuned_for: int = 14_000


def build_contenders(
    settings: Settings, device: torch.device, folder: Path
) -> Mapping[str, Callable[[Tick], None]]:
    """Those of this engine, each with a student of its own; a bank goes into the folder."""
    engine, trainer = build_bench(settings, device), build_bench(settings, device)
    banked = build_bench(settings, device)
    put_on_shelves(banked, folder / "bank")
    alone = build_bench(settings, device, alone=True)
    return {
        "engine": lambda tick: train_plainly(engine, tick),
        "trainer": lambda tick: fit(
            trainer, on_lesson=tick, on_epoch=lambda *_: None, progress=False
        ),
        "banked": lambda tick: train_plainly(banked, tick),
        "engine_alone": lambda tick: train_plainly(alone, tick),
    }


def build_textbooks(
    settings: Settings, device: torch.device
) -> Mapping[str, Callable[[Tick], None]]:
    """Those of the textbook loop, each with a student of its own."""
    textbook = build_networks(settings, device)
    textbook_alone = build_networks(settings, device, alone=True)
    batches = build_loader(settings, device, channels_last=False)
    return {
        "textbook": lambda tick: train_textbook(*textbook, batches, tick),
        "textbook_alone": lambda tick: train_textbook(*textbook_alone, batches, tick),
    }


def train_plainly(classroom: Classroom, tick: Tick) -> None:
    """An epoch of this engine without the Trainer."""
    train = classroom.recipe.train
    optimizer = build_optimizer(classroom.student.parameters(), train)
    schedule = build_schedule(optimizer, train, len(classroom.train))
    classroom.begin_epoch(0)
    for batch in classroom.train:
        lesson = classroom.hold(batch)
        tick(lesson)
        optimizer.zero_grad()
        lesson.loss.backward()
        optimizer.step()
        schedule.step()
    classroom.end_epoch()


def build_bench(settings: Settings, device: torch.device, *, alone: bool = False) -> Classroom:
    """A classroom as the defaults of recipes make it, or only its student."""
    method = "none" if alone else "classroom"
    recipe = Recipe(
        name="bench",
        student=Student(model=settings.student),
        method=MethodRecipe(name=method),
        train=Train(epochs=1, batch_size=settings.batch_size),
    )
    layout = torch.channels_last if recipe.train.channels_last else torch.contiguous_format
    student, mentors = build_networks(settings, device, alone=alone)
    taught = [Mentor(mentor, mentor.name).to(device, layout) for mentor in mentors]
    lessons = create_method(method).to(device)
    views = build_loader(settings, device, channels_last=recipe.train.channels_last)
    if settings.tuned_for:
        tune(taught, next(iter(views)).images, recipe.train.precision, settings.tuned_for)
    return Classroom(
        recipe=recipe,
        student=student.to(memory_format=layout),  # type: ignore[call-overload]
        mentors=taught,
        method=lessons,
        train=views,
        dev=None,
        device=device,
        hearing=Hearing(taught, lessons, device, settings.classes),
    )


def mentor_ways(settings: Settings, device: torch.device) -> dict[str, str]:
    """How each mentor of a classroom is run."""
    mentors = build_bench(settings, device).mentors
    return {m.name: str(m.variant or "as they are") for m in mentors}


def put_on_shelves(room: Classroom, folder: Path) -> None:
    """Give a classroom a bank, which its first epoch fills."""
    bank = Bank(folder, {"views": "of the benchmark"})
    names = [f"{place}-{mentor.name}" for place, mentor in enumerate(room.mentors)]
    shelves = [bank.mentor(name, {"weights": "random"}) for name in names]
    room.hearing = Hearing(room.mentors, room.method, room.device, len(room.classes), shelves)


def build_networks(
    settings: Settings, device: torch.device, *, alone: bool = False
) -> tuple[Network, list[Network]]:
    """The student and its mentors, with the same random weights at each call."""
    torch.manual_seed(0)
    names = [settings.student, *(() if alone else settings.mentors)]
    student, *mentors = (build_model(name, settings.classes).to(device) for name in names)
    return student, mentors


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
