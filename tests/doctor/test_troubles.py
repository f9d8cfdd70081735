"""Troubles planted one by one: each is named, and a healthy classroom of odd data is left alone."""

import shutil
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from classroomkd.config import parse_recipe
from classroomkd.doctor import conclude, examine
from classroomkd.engine.build import build_classroom
from classroomkd.mentors import Mentor
from classroomkd.models import load_student
from classroomkd.tasks.classification.checks import _data
from classroomkd.tasks.classification.checks.accuracy import (
    MentorPredictions,
    judge_accuracy,
    learnt_them,
)
from classroomkd.tasks.classification.checks.mentors import find_twins
from classroomkd.tasks.classification.checks.order import best_order
from classroomkd.tasks.classification.checks.sample import plain_sample
from classroomkd.tasks.classification.recipe import MentorRecipe

GOOD = {"name": "classroom", "task_weight": 1}


@pytest.fixture
def look(digits_recipe):
    """Findings about a subject in a classroom with these mentors."""

    def look(mentors, subject, **changes):
        findings = examine(digits_recipe(mentors=mentors, **{"method": GOOD, **changes}))
        return [f for f in findings if f.subject == subject]

    return look


@pytest.fixture(scope="module")
def classroom(tmp_path_factory):
    """A classroom of the digits without mentors."""
    recipe = {
        "name": "n", "data": {"name": "digits", "dev": 0.2}, "method": {"name": "none"},
        "student": {"model": "resnet8"}, "train": {"device": "cpu"},
    }  # fmt: skip
    return build_classroom(parse_recipe(recipe))


def heard(said, target, classes, scale=5.0):
    """A mentor that says these classes, a little more certain of some than of others."""
    logits = F.one_hot(said, classes) * scale + torch.arange(len(said)).unsqueeze(1) / len(said)
    logits[:, 0] += torch.linspace(0, 0.1, len(said))
    entry = MentorRecipe.model_construct(run=None)
    return MentorPredictions(Mentor(nn.Identity(), "m"), entry, logits.float(), target, "training")


def judged(said, target, classroom, classes=10):
    return list(judge_accuracy(heard(said, target, classes), classroom))


# ---------------------------------------------------------------------------- accuracy and chance


def test_one_answer_for_all(look, checkpoint):
    """All logits are the same; then nothing else is to be said of the mentor."""

    def silence(network):
        network.classifier.weight.zero_()
        network.classifier.bias.copy_(torch.arange(10.0))

    (finding,) = look([checkpoint("wall", silence)], "wall")
    assert (finding.verdict, finding.aspect) == ("wrong", "accuracy")
    assert "says the same whatever it is shown" in finding.text


def test_the_most_frequent_class_is_no_achievement(classroom):
    target = (torch.arange(400) < 40).long()  # 90 % of class 0
    (finding,) = judged(torch.zeros(400, dtype=torch.int64), target, classroom)
    assert finding.verdict == "wrong"
    assert "to name 0 always would get 90.0 %" in finding.text
    better = target.clone()
    better[:20] = 0
    assert judged(better, target, classroom) == []


@pytest.mark.parametrize(
    ("count", "right", "verdict"),
    [(400, 200, "wrong"), (400, 240, None), (20, 13, "warning"), (20, 16, None), (9, 4, "warning")],
)
def test_two_classes_few_images(count, right, verdict, classroom):
    """What so few images cannot tell is a warning; what many tell is wrong."""
    target = torch.arange(count) % 2
    said = torch.where(torch.arange(count) < right, target, 1 - target)
    findings = judged(said, target, classroom, classes=2)
    assert [f.verdict for f in findings] == ([] if verdict is None else [verdict])


def test_of_one_class_nothing_is_told(classroom):
    said = torch.randint(10, (50,))
    assert judged(said, torch.zeros(50, dtype=torch.int64), classroom) == []


def test_an_order_among_thousands_of_classes():
    """Ten of 20,000 are met: no table of all their pairs is made."""
    order = torch.randperm(20_000, generator=torch.Generator().manual_seed(0))
    target = torch.randint(10, (500,), generator=torch.Generator().manual_seed(1)) * 2000
    found = best_order(order[target], target, 20_000)
    assert torch.equal(found[order[target]], target)


# -------------------------------------------------------------------------------- what it has learnt


@pytest.mark.parametrize(
    ("split", "told"),
    [
        ("dev: 0.2", None),
        ("dev: 0", "data.dev=0"),
        ("dev: 0.2\n  dev_seed: 3", "data.dev=0.2 data.dev_seed=3"),
    ],
)
def test_a_mentor_that_learnt_the_development_split(look, trained, tmp_path, split, told):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    recipe = run / "recipe.yaml"
    raw = recipe.read_text()
    kept = [line for line in raw.splitlines() if not line.startswith("  dev_seed")]
    recipe.write_text("\n".join(kept).replace("dev: 0.2", split))
    (finding,) = look([{"run": str(run)}], "run")
    assert finding.verdict == ("ok" if told is None else "warning")
    assert told is None or finding.text.endswith(f"its run was trained with {told}")
    assert told is None or "data.dev=0.2 data.dev_seed=0" in finding.cure


def test_other_data_or_plain_training_images_are_not_learnt(trained, digits_recipe):
    room = build_classroom(digits_recipe(mentors=[{"run": str(trained)}], data={"dev": 0}))
    one = MentorPredictions(
        room.mentors[0], room.recipe.mentors[0], torch.eye(2), torch.arange(2), "training"
    )
    assert learnt_them(one, room) is None


# ------------------------------------------------------------------------------------- not steady


class Restless(nn.Module):
    """A network that is not frozen in one way or another."""

    def __init__(self, network, kind):
        super().__init__()
        self.network, self.kind, self.normalize = network, kind, network.normalize

    def forward(self, images):
        logits = self.network(images)
        if self.kind == "dropout":
            return F.dropout(logits, 0.5, training=True)
        if self.kind == "batch":
            return logits - logits.mean(0)
        if self.kind == "moves":
            self.network.classifier.bias[0] += 1e-3
        return logits


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("dropout", "says something else about the same images"),
        ("batch", "says something else about the same images"),
        ("moves", "has changed while the student learnt"),
        ("mode", "is in training mode"),
    ],
)
def test_a_mentor_that_is_not_frozen(kind, text, look, trained, monkeypatch):
    import sys

    examination = sys.modules[examine.__module__]
    build = examination.build_classroom

    def restless(recipe):
        room = build(recipe)
        mentor = room.mentors[0]
        mentor.network = Restless(mentor.network, kind).eval().requires_grad_(False)
        if kind == "mode":
            next(m for m in mentor.network.modules() if isinstance(m, nn.BatchNorm2d)).train()
        return room

    monkeypatch.setattr(examination, "build_classroom", restless)
    findings = look([{"run": str(trained), "name": "warm"}], "warm")
    assert any(f.verdict == "wrong" and f.aspect == "frozen" and text in f.text for f in findings)
    assert not conclude(findings).ready


# --------------------------------------------------------------------------- among the others


def test_half_precision_and_a_shift_do_not_hide_a_twin(trained):
    network, _ = load_student(trained)
    images = torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = network(images)
    target = torch.zeros(40, dtype=torch.int64)

    def one(name, said):
        entry = MentorRecipe.model_construct(run=None)
        return MentorPredictions(Mentor(nn.Identity(), name), entry, said, target, "training")

    group = [one("a", logits), one("b", logits.half().float()), one("c", logits + 3)]
    pairs = [f.subject for f in find_twins(group)]
    assert pairs == ["a, b", "a, c", "b, c"]
    assert list(find_twins([group[0], one("d", logits.roll(1, 1))])) == []


def test_a_mentor_behind_a_student_that_knows_already(look, trained, checkpoint):
    def forget(network):
        network.classifier.bias[:6] = -1e3

    student = {"model": "resnet8", "checkpoint": str(trained / "student.safetensors")}
    weak = checkpoint("weak", forget)
    (finding,) = [
        f
        for f in look([weak, {"run": str(trained)}], "weak", student=student)
        if f.aspect == "teaching"
    ]
    assert finding.verdict == "warning"
    assert "points less than the student before it learns" in finding.text
    assert not [f for f in look([weak], "weak") if f.aspect == "teaching"], "a fresh student"


def test_a_good_mentor_left_out_by_lot_is_no_worse(trained, digits_recipe):
    """DGKD leaves mentors out by lot in each step."""
    mentors = [{"run": str(trained), "name": name} for name in ("one", "two")]
    findings = examine(digits_recipe(mentors=mentors, method={"name": "dgkd"}))
    assert not [f for f in findings if f.aspect == "teaching"]


# ------------------------------------------------------------------------------------ terms, data


def test_a_task_that_counts_more_and_more_is_left_alone(trained, digits_recipe):
    """At first the task counts with the student's belief in the label: nearly nothing."""
    findings = examine(digits_recipe(mentors=[{"run": str(trained)}]))
    assert [f.verdict for f in findings if f.aspect == "balance"] == ["ok"]
    also = {"name": "classroom", "also": {"name": "at", "weight": 1e6}}
    findings = examine(digits_recipe(mentors=[{"run": str(trained)}], method=also))
    (finding,) = [f for f in findings if f.aspect == "balance"]
    assert finding.verdict == "warning"
    assert finding.cure.endswith("method.also={name: at, weight: ...}")


def test_gradients_that_are_not_finite(look, trained):
    (finding,) = [
        f
        for f in look([{"run": str(trained)}], "loss", method={"name": "at", "weight": 1e38})
        if f.aspect == "finite"
    ]
    assert finding.verdict == "wrong"
    assert "not finite on the first batch" in finding.text


def test_data_of_one_class(digits_recipe):
    """Ten classes have names, and all images are of one."""
    room = build_classroom(digits_recipe(mentors=[], method={"name": "none"}))
    images = room.train.image_set
    for target, verdict, text in (
        (images.target * 0, "wrong", "nothing to tell apart"),
        (images.target.clamp_max(1), "ok", "10 classes, of which 2 have training images"),
    ):
        room.train.image_set = replace(images, target=target)
        (finding,) = _data(room, plain_sample(room))
        assert finding.verdict == verdict
        assert text in finding.text
