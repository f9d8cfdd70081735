"""What a run will take is measured, and mentors run in their fastest way with the same results."""

import json

import pytest
import torch

from classroomkd.engine import tuning
from classroomkd.engine.build import build_classroom
from classroomkd.engine.plan import plan_run
from classroomkd.engine.run import train
from classroomkd.engine.tuning import tune_mentors


def test_a_plan_names_every_part_and_both_ways(digits_recipe):
    said = []
    parts = plan_run(digits_recipe(), said.append)
    names = [part.name for part in parts]
    assert names == ["views", "resnet8 (student)", "loss (classroom)", "resnet8", "resnet14"]
    assert all(part.milliseconds > 0 for part in parts)
    assert all("fp32" in part.note for part in parts[3:])
    text = "\n".join(said)
    live, banked = (sum(p.milliseconds for p in some) for some in (parts, parts[:3]))
    assert f"({live:.1f} ms a step)" in text
    assert f"({banked:.1f} ms a step)" in text


@pytest.mark.parametrize("method", ["at", "none"])
def test_no_bank_is_offered_where_there_can_be_none(digits_recipe, method):
    mentors = [] if method == "none" else digits_recipe().model_dump()["mentors"][:1]
    said = []
    plan_run(digits_recipe(method={"name": method}, mentors=mentors), said.append)
    assert not any(line.startswith("banked") for line in said)


def test_short_runs_stay_as_they_are(digits_recipe):
    classroom = build_classroom(digits_recipe())
    assert tune_mentors(classroom) == {}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_tuned_mentors_say_the_same(digits_recipe, monkeypatch, precision):
    monkeypatch.setattr(tuning, "WORTHWHILE", 1)
    recipe = digits_recipe(train={"precision": precision})
    plain, fast = build_classroom(recipe), build_classroom(recipe)
    ways = tune_mentors(fast)
    assert ways.keys() == {"resnet8", "resnet14"}
    for room in (plain, fast):
        room.begin_epoch(0)
    tolerance = 1e-4 if precision == "fp32" else 5e-2
    for batch in list(plain.train)[:3]:
        one, other = (room.hold(batch) for room in (plain, fast))
        assert one.loss.item() == pytest.approx(other.loss.item(), rel=tolerance)


def test_a_resumed_run_uses_the_ways_it_began_with(digits_recipe, monkeypatch, tmp_path):
    monkeypatch.setattr(tuning, "WORTHWHILE", 1)
    recipe = digits_recipe()
    whole = train(recipe, tmp_path / "whole", progress=False, say=lambda _: None)
    ways = json.loads((tmp_path / "whole" / "environment.json").read_text())["mentors"]
    assert ways.keys() == {"resnet8", "resnet14"}

    def stop(line):
        if line.startswith("epoch 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "cut", progress=False, say=stop)
    file = tmp_path / "cut" / "environment.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"mentors": ways}))
    monkeypatch.setattr(tuning, "choose", lambda *_: pytest.fail("measured again"))
    resumed = train(recipe, tmp_path / "cut", resume=True, progress=False, say=lambda _: None)
    assert resumed["last"]["epoch"] == whole["last"]["epoch"] == 1


def test_tuning_can_be_switched_off(digits_recipe, monkeypatch):
    monkeypatch.setattr(tuning, "WORTHWHILE", 1)
    assert tune_mentors(build_classroom(digits_recipe(train={"tune": False}))) == {}


def test_features_of_tuned_mentors(digits_recipe, monkeypatch):
    monkeypatch.setattr(tuning, "WORTHWHILE", 1)
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
