"""The Trainer: the same result as a plain loop, exact resuming, and no mentor anywhere in it."""

import importlib.util
from pathlib import Path

import pytest
import torch

from classroomkd.engine.build import build_classroom
from classroomkd.engine.optim import build_optimizer, build_schedule
from classroomkd.engine.step import training_step
from classroomkd.engine.trainer import LessonModule, fit
from classroomkd.models import StudentFile, save_student

EXAMPLE = Path(__file__).parents[2] / "examples" / "plain_loop.py"


def trained(recipe, **options):
    """The student's weights after the Trainer, and what its callbacks were told."""
    classroom = build_classroom(recipe)
    losses, epochs = [], []
    fit(
        classroom,
        on_lesson=lambda lesson: losses.append(lesson.loss.detach()),
        on_epoch=lambda number, student, lr: epochs.append(
            (number, {k: v.clone() for k, v in student.state_dict().items()}, lr)
        ),
        progress=False,
        **options,
    )
    return classroom.student.state_dict(), losses, epochs


def by_hand(recipe):
    """The same training without the Trainer."""
    classroom = build_classroom(recipe)
    train = recipe.train
    parameters = [*classroom.student.parameters(), *classroom.method.parameters()]
    optimizer = build_optimizer(parameters, train)
    schedule = build_schedule(optimizer, train, len(classroom.train))
    for epoch in range(train.epochs):
        classroom.begin_epoch(epoch)
        for batch in classroom.train:
            optimizer.zero_grad()
            training_step(classroom, batch).loss.backward()
            if train.clip is not None:
                torch.nn.utils.clip_grad_norm_(parameters, train.clip)
            optimizer.step()
            schedule.step()
    return classroom.student.state_dict()


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=0, msg=name)


@pytest.mark.parametrize(
    "train",
    [
        {"precision": "bf16"},
        {"clip": 0.5, "optimizer": {"name": "adamw", "lr": 0.001}, "schedule": {"name": "cosine", "warmup_epochs": 1}},
        {"schedule": {"name": "step", "milestones": [1]}, "channels_last": False},
    ],
)  # fmt: skip
def test_trainer_equals_plain_loop(digits_recipe, train):
    recipe = digits_recipe(train=train)
    assert_equal(trained(recipe)[0], by_hand(recipe))


def test_trainer_equals_the_example(digits_recipe, tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("plain_loop", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    monkeypatch.setattr(example, "EPOCHS", 2)
    students, networks = [], []
    original = example.fit
    monkeypatch.setattr(example, "fit", lambda s, loss: students.append(original(s, loss)) or s)
    monkeypatch.setattr(
        example, "network", lambda m, f=example.network: networks.append(f(m)) or networks[-1]
    )
    result = example.main()
    assert result["student"] > 30

    mentors = []
    for name, network in zip(("resnet14", "resnet20"), students[:2], strict=True):
        (tmp_path / name).mkdir()
        info = StudentFile(name, tuple("0123456789"), dataset="digits", epoch=1, top1=None)
        save_student(network, info, tmp_path / name)
        mentors.append({"run": str(tmp_path / name)})
    recipe = digits_recipe(
        mentors=mentors, data={"dev": 0}, train={"batch_size": 64, "channels_last": True}
    )
    state, losses, _ = trained(recipe)
    for name, value in students[2].state_dict().items():
        torch.testing.assert_close(state[name], value, rtol=1e-3, atol=1e-3, msg=name)
    assert len(losses) == 2 * len(example.views)


@pytest.mark.parametrize("ema", [None, 0.9])
def test_resuming_is_exact(digits_recipe, tmp_path, ema):
    recipe = digits_recipe(train={"epochs": 4, "ema": ema})
    whole, losses, epochs = trained(recipe)

    class Cut(Exception):
        pass

    def cut(lesson):
        cut.steps += 1
        if cut.steps == len(losses) // 2 + 3:  # in the middle of the third epoch
            raise Cut

    cut.steps = 0
    checkpoint = tmp_path / "last.ckpt"
    with pytest.raises(Cut):
        fit(
            build_classroom(recipe), on_lesson=cut, on_epoch=lambda *_: None,
            checkpoint=checkpoint, progress=False,
        )  # fmt: skip
    resumed, later, seen = trained(recipe, checkpoint=checkpoint, resume=True)
    assert [number for number, *_ in seen] == [2, 3]
    assert_equal(resumed, whole)
    torch.testing.assert_close(torch.stack(later), torch.stack(losses[-len(later) :]))
    for (_, one, lr), (_, other, same) in zip(seen, epochs[2:], strict=True):
        assert_equal(one, other)
        assert lr == same


def test_averaged_weights_follow_the_formula(digits_recipe):
    recipe = digits_recipe(train={"epochs": 1, "ema": 0.5})
    plain = digits_recipe(train={"epochs": 1})
    history = []
    classroom = build_classroom(plain)
    fit(
        classroom, on_epoch=lambda *_: None, progress=False,
        on_lesson=lambda _: history.append(classroom.student.classifier.weight.detach().clone()),
    )  # fmt: skip
    history = [*history[1:], classroom.student.classifier.weight.detach()]
    average = history[0]
    for weight in history[1:]:
        average = 0.5 * average + 0.5 * weight
    state, _, epochs = trained(recipe)
    torch.testing.assert_close(state["classifier.weight"], average)
    torch.testing.assert_close(epochs[0][1]["classifier.weight"], average)


def test_mentors_are_nowhere_in_training_state(digits_recipe, tmp_path):
    classroom = build_classroom(digits_recipe())
    module = LessonModule(classroom, lambda _: None)
    mine = {id(p) for m in classroom.mentors for p in m.network.parameters()}
    assert not mine & {id(p) for p in module.parameters()}
    assert not any(m.network is child for m in classroom.mentors for child in module.modules())
    assert all(name.startswith("student.") for name in module.state_dict())
    [optimizer], _ = module.configure_optimizers()
    assert not mine & {id(p) for group in optimizer.param_groups for p in group["params"]}

    checkpoint = tmp_path / "last.ckpt"
    fit(
        classroom, on_lesson=lambda _: None, on_epoch=lambda *_: None,
        checkpoint=checkpoint, progress=False,
    )  # fmt: skip
    stored = torch.load(checkpoint, weights_only=True)
    assert set(stored["state_dict"]) == {f"student.{k}" for k in classroom.student.state_dict()}
    assert all(not m.network.training for m in classroom.mentors)


def test_a_methods_own_parameters_are_trained_and_saved(digits_recipe, tmp_path):
    recipe = digits_recipe()
    classroom = build_classroom(recipe)
    classroom.method.scale = torch.nn.Parameter(torch.tensor(2.0))
    lesson_of = classroom.method.lesson

    def lesson(signals):
        from dataclasses import replace

        taught = lesson_of(signals)
        return replace(taught, loss=taught.loss * classroom.method.scale)

    classroom.method.lesson = lesson
    checkpoint = tmp_path / "last.ckpt"
    fit(
        classroom, on_lesson=lambda _: None, on_epoch=lambda *_: None,
        checkpoint=checkpoint, progress=False,
    )  # fmt: skip
    assert classroom.method.scale.item() != 2.0
    stored = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert stored["method.scale"].item() == classroom.method.scale.item()
