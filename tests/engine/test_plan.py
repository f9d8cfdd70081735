"""What a run will take is measured, and mentors run in their fastest way with the same results."""

import json

import pytest
import torch

from classroomkd.engine import tuning
from classroomkd.engine.build import build_classroom
from classroomkd.engine.plan import forecast, plan_run
from classroomkd.engine.run import train
from classroomkd.engine.step import training_step
from classroomkd.engine.tuning import tune_mentors


def test_a_plan_names_every_part_and_both_ways(digits_recipe):
    said = []
    parts = plan_run(digits_recipe(), said.append)
    names = [part.name for part in parts]
    assert names == ["views", "resnet8 (student)", "loss (classroom)", "resnet8", "resnet14"]
    assert all(part.milliseconds > 0 for part in parts)
    assert all(part.note == "as it is" for part in parts[3:])
    text = "\n".join(said)
    live, banked = (sum(p.milliseconds for p in some) for some in (parts, parts[:3]))
    assert f"({live:.1f} ms a step)" in text
    assert f"({banked:.1f} ms a step)" in text


def test_a_plan_has_mentors_run_as_they_will_be(digits_recipe, monkeypatch):
    monkeypatch.setattr(tuning, "FOLDED", 1)
    parts = plan_run(digits_recipe(), lambda _: None)
    assert all(part.note.startswith("folded: ") for part in parts[3:])


@pytest.mark.parametrize("method", ["at", "none"])
def test_no_bank_is_offered_where_there_can_be_none(digits_recipe, method):
    mentors = [] if method == "none" else digits_recipe().model_dump()["mentors"][:1]
    said = []
    plan_run(digits_recipe(method={"name": method}, mentors=mentors), said.append)
    assert not any(line.startswith("banked") for line in said)


def test_mentors_that_train_along_are_counted(digits_recipe):
    """Both what they say and what they learn; no bank can hold them."""
    peers = [{"model": "resnet14", "train": True, "name": name} for name in "ab"]
    said = []
    parts = plan_run(digits_recipe(method={"name": "dml"}, mentors=peers), said.append)
    assert [part.name for part in parts[3:]] == ["a", "b"]
    assert all(part.milliseconds > 0 and "learns" in part.note for part in parts[3:])
    assert not any(line.startswith("banked") for line in said)
    student, loss = parts[1].milliseconds, parts[2].milliseconds
    assert loss > student / 3, "the backward pass of two larger networks is in it"


def test_adam_keeps_more(digits_recipe):
    sizes = [
        plan_run(digits_recipe(train={"optimizer": {"name": name}}), lambda _: None)[1].memory
        for name in ("sgd", "adamw")
    ]
    assert sizes[0] * 4 == sizes[1] * 3


@pytest.mark.parametrize("dev", [0.2, 0])
def test_a_forecast_evaluates_as_the_run_will(digits_recipe, monkeypatch, dev):
    """With as many images at once, after the steps; the student then is in training mode."""
    room = build_classroom(digits_recipe(data={"dev": dev}, train={"epochs": 40}))
    shown = []
    forward = type(room.student).forward

    def spy(network, images):
        if network is room.student:
            shown.append((len(images), network.training))
        return forward(network, images)

    monkeypatch.setattr(type(room.student), "forward", spy)
    text = forecast(room)
    assert shown == [*[(128, True)] * 7, *[(512, False)] * 2]
    assert room.student.training
    assert ("and evaluations" in text) == bool(dev)
    assert "40 epochs of" in text


def test_short_runs_stay_as_they_are(digits_recipe):
    classroom = build_classroom(digits_recipe())
    assert tune_mentors(classroom) == {}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_tuned_mentors_say_the_same(digits_recipe, monkeypatch, precision):
    monkeypatch.setattr(tuning, "FOLDED", 1)
    recipe = digits_recipe(train={"precision": precision})
    plain, fast = build_classroom(recipe), build_classroom(recipe)
    ways = tune_mentors(fast)
    assert ways.keys() == {"resnet8", "resnet14"}
    for room in (plain, fast):
        room.begin_epoch(0)
    tolerance = 1e-4 if precision == "fp32" else 5e-2
    for batch in list(plain.train)[:3]:
        one, other = (training_step(room, batch) for room in (plain, fast))
        assert one.loss.item() == pytest.approx(other.loss.item(), rel=tolerance)


def test_a_resumed_run_ends_as_the_whole_one(digits_recipe, monkeypatch, tmp_path):
    monkeypatch.setattr(tuning, "FOLDED", 1)
    recipe = digits_recipe()
    whole = train(recipe, tmp_path / "whole", progress=False, say=lambda _: None)
    done = json.loads((tmp_path / "whole" / "environment.json").read_text())["mentors"]
    assert done == {"resnet8": "folded", "resnet14": "folded"}

    def stop(line):
        if line.startswith("epoch 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "cut", progress=False, say=stop)
    resumed = train(recipe, tmp_path / "cut", resume=True, progress=False, say=lambda _: None)
    assert resumed == whole


def test_tuning_can_be_switched_off(digits_recipe, monkeypatch):
    monkeypatch.setattr(tuning, "FOLDED", 1)
    assert tune_mentors(build_classroom(digits_recipe(train={"tune": False}))) == {}


def test_features_of_tuned_mentors(digits_recipe, monkeypatch):
    monkeypatch.setattr(tuning, "FOLDED", 1)
    recipe = digits_recipe(
        method={"name": "ofd"}, mentors=[digits_recipe().model_dump()["mentors"][0]]
    )
    plain, fast = build_classroom(recipe), build_classroom(recipe)
    tune_mentors(fast)
    images = torch.rand(4, 3, 8, 8)
    one, other = (
        room.mentors[0].forward_stages(images, preactivations=True) for room in (plain, fast)
    )
    assert one.keys() == other.keys()
    for name, feature in one.items():
        torch.testing.assert_close(feature, other[name], rtol=1e-3, atol=1e-4)
