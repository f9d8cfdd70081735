"""Epochs that a method adds before the run's own: learning rates, views, bank, resuming."""

import json

import pytest
import torch

from classroomkd.engine.bank import build_bank
from classroomkd.engine.build import build_classroom
from classroomkd.engine.optim import build_optimizer, build_schedule
from classroomkd.engine.plan import forecast
from classroomkd.engine.run import train
from classroomkd.engine.step import training_step
from classroomkd.engine.trainer import fit
from classroomkd.methods import method_class, register_method, registry

SCHEDULES = [
    {"name": "onecycle"},
    {"name": "cosine", "warmup_epochs": 1},
    {"name": "step", "milestones": [1]},
]


def recipe_of(digits_recipe, method="fsp", **train):
    mentors = [digits_recipe().mentors[0].model_dump(mode="json")]
    options = {"name": method, "init_epochs": 2}
    return digits_recipe(mentors=mentors, method=options, train=train)


def trained(recipe, on_lesson=lambda _: None, **options):
    """The student's and the method's weights, and each epoch's number and learning rate."""
    classroom = build_classroom(recipe)
    epochs = []
    fit(
        classroom,
        on_lesson=on_lesson,
        on_epoch=lambda number, _, lr: epochs.append((number, lr)),
        progress=False,
        **options,
    )
    return {**classroom.student.state_dict(), **classroom.method.state_dict()}, epochs


def by_hand(recipe):
    """Two epochs at the recipe's learning rate, then its schedule, in a plain loop."""
    classroom = build_classroom(recipe)
    parameters = [*classroom.student.parameters(), *classroom.method.parameters()]
    optimizer = build_optimizer(parameters, recipe.train)
    schedule = build_schedule(optimizer, recipe.train, len(classroom.train))
    start = optimizer.param_groups[0]["lr"]
    for epoch in range(-2, recipe.train.epochs):
        classroom.train.set_epoch(epoch + 2)
        classroom.method.begin_epoch(epoch, recipe.train.epochs)
        optimizer.param_groups[0]["lr"] = recipe.train.optimizer.lr if epoch < 0 else start
        for batch in classroom.train:
            optimizer.zero_grad()
            training_step(classroom, batch).loss.backward()
            optimizer.step()
            if epoch >= 0:
                schedule.step()
                start = optimizer.param_groups[0]["lr"]
    return {**classroom.student.state_dict(), **classroom.method.state_dict()}


def assert_equal(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: schedule["name"])
def test_the_schedule_begins_after_them(digits_recipe, schedule):
    recipe = recipe_of(digits_recipe, schedule=schedule)
    found, epochs = trained(recipe)
    assert_equal(found, by_hand(recipe))
    bare = recipe.model_copy(update={"method": digits_recipe(method={"name": "kd"}).method})
    _, usual = trained(bare)
    lr = recipe.train.optimizer.lr
    # What an epoch's end tells is the rate of the next step: of the schedule's first one.
    assert [number for number, _ in epochs] == [0, 1, 2, 3]
    assert [rate for _, rate in epochs[:2]] == [lr, lr]
    assert [rate for _, rate in epochs[2:]] == [rate for _, rate in usual]


def test_the_student_stays_as_it_is_while_the_paraphraser_learns(digits_recipe):
    recipe = recipe_of(digits_recipe, "ft", clip=1.0)
    classroom = build_classroom(recipe)
    start = {k: v.detach().clone() for k, v in classroom.student.named_parameters()}
    paraphraser = classroom.method.adapters[0].paraphraser[0].weight.detach().clone()
    seen = []

    def look(number, student, _):
        now = dict(student.named_parameters())
        seen.append([torch.equal(now[name], start[name]) for name in start])

    fit(classroom, on_lesson=lambda _: None, on_epoch=look, progress=False)
    assert [all(same) for same in seen] == [True, True, False, False]
    assert not torch.equal(classroom.method.adapters[0].paraphraser[0].weight, paraphraser)


@pytest.mark.parametrize("cut_in", [1, 2, 3])
def test_resuming_is_exact(digits_recipe, tmp_path, cut_in):
    recipe = recipe_of(digits_recipe, schedule={"name": "cosine"})
    losses = []
    whole, epochs = trained(recipe, lambda lesson: losses.append(lesson.loss.detach()))
    steps = len(losses) // 4

    class Cut(Exception):
        pass

    count = iter(range(len(losses)))

    def cut(_):
        if next(count) == cut_in * steps + 1:
            raise Cut

    checkpoint = tmp_path / "last.ckpt"
    with pytest.raises(Cut):
        trained(recipe, cut, checkpoint=checkpoint)
    later = []
    resumed, rest = trained(
        recipe, lambda lesson: later.append(lesson.loss.detach()), checkpoint=checkpoint, resume=True
    )  # fmt: skip
    assert rest == epochs[cut_in:]
    assert_equal(resumed, whole)
    torch.testing.assert_close(later, losses[cut_in * steps :], rtol=0, atol=0)


def test_a_run_counts_all_epochs(digits_recipe, tmp_path):
    recipe = recipe_of(digits_recipe, snapshots=[1])
    said = []
    summary = train(recipe, tmp_path / "run", progress=False, say=said.append)
    assert summary["last"]["epoch"] == 3
    [kept] = (tmp_path / "run" / "snapshots").iterdir()
    assert kept.name == "e0001"  # of the schedule, as a recipe counts
    assert json.loads((kept / "student.json").read_text())["epoch"] == 2
    assert [line.split()[1] for line in said if line.startswith("epoch")] == ["1/4", "2/4", "3/4", "4/4"]  # fmt: skip
    classroom = build_classroom(recipe)
    assert forecast(classroom).startswith(f"4 epochs of {len(classroom.train)} steps")


@pytest.mark.parametrize("repeat", [None, 2])
def test_the_bank_holds_their_views(digits_recipe, tmp_path, monkeypatch, repeat):
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))
    told = []

    @register_method("kd_twice")
    class Twice(method_class("kd")):
        """Logits, and an epoch before the run's own."""

        extra_epochs = 1

        def begin_epoch(self, epoch, epochs):
            told.append((epoch, epochs))

    recipe = digits_recipe(
        mentors=[digits_recipe().mentors[0].model_dump(mode="json")],
        method={"name": "kd_twice"},
        bank={"path": str(tmp_path / "bank")},
        data={"repeat": repeat},
    )
    build_bank(recipe, say=lambda _: None)
    store = build_classroom(recipe).mentor_outputs.stores[0]
    assert store.views() == list(range(repeat or 3))
    banked = []
    classroom = build_classroom(recipe)
    told.clear()
    for epoch in range(3):
        classroom.begin_epoch(epoch)
        banked.append(len(classroom.mentor_outputs.banked))
    assert banked == [1, 1, 1]
    assert told == [(-1, 2), (0, 2), (1, 2)]
