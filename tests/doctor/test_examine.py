"""The doctor finds what is wrong with a classroom, says what to do, and is content otherwise."""

import json
import shutil
import sys
from dataclasses import replace

import pytest
import torch

from classroomkd.doctor import Finding, conclude, examine
from classroomkd.engine.bank import build_bank
from classroomkd.mentors import Mentor
from classroomkd.models import build_model, load_student, save_student
from classroomkd.tasks.classification.checks.order import best_order, right_in_best_order
from classroomkd.tasks.classification.checks.pixels import better_pixels
from classroomkd.tasks.classification.checks.sample import FEWEST, ask

examination = sys.modules[examine.__module__]

GOOD = {"name": "classroom", "task_weight": 1}


@pytest.fixture
def look(digits_recipe):
    """Findings about a classroom with these mentors: those of a subject, by aspect."""

    def look(mentors, subject=None, **changes):
        recipe = digits_recipe(mentors=mentors, **{"method": GOOD, **changes})
        findings = examine(recipe)
        return findings if subject is None else [f for f in findings if f.subject == subject]

    return look


def only(findings, aspect):
    (finding,) = [f for f in findings if f.aspect == aspect]
    return finding


def test_it_is_content_with_a_trained_mentor(look, trained):
    findings = look([{"run": str(trained), "role": "teacher"}])
    assert {f.verdict for f in findings} == {"ok"}
    claim = json.loads((trained / "student.json").read_text())["top1"]
    assert f"(its source claims {claim:.1f} %)" in only(findings, "accuracy").text
    assert "teacher, frozen, same order" in only(findings, "accuracy").text
    assert "epochs of 8 steps take" in only(findings, "plan").text
    conclusion = conclude(findings)
    assert (conclusion.ready, conclusion.text) == (True, "ready to train")


def test_a_claim_that_does_not_hold(look, trained, tmp_path):
    """The run's file says more than its weights can: they never say 3 or 5."""
    network, info = load_student(trained)
    with torch.no_grad():
        network.classifier.bias[[3, 5]] = -1e3
    boast = tmp_path / "boast"
    shutil.copytree(trained, boast)
    save_student(network, replace(info, top1=99.9), boast)
    finding = only(look([{"run": str(boast)}], "boast"), "accuracy")
    assert finding.verdict == "warning"
    assert "(95 % interval" in finding.text
    assert finding.text.endswith("its source claims 99.9 %")
    save_student(network, replace(info, top1=None), boast)
    assert only(look([{"run": str(boast)}], "boast"), "accuracy").verdict == "ok"


def test_claims_about_other_data_do_not_count(look, trained, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(trained, other)
    recipe = other / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("name: digits", "name: cifar10"))
    (finding,) = look([{"run": str(other)}], "other")
    assert finding.verdict == "ok"
    assert "claims" not in finding.text


def permute(order):
    def change(network):
        for p in network.classifier.parameters():
            p.copy_(p[order])

    return change


def test_a_class_order_that_is_wrong_is_shown(look, checkpoint):
    order = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
    (finding,) = look([checkpoint("mixed", permute(order))], "mixed")
    assert (finding.verdict, finding.aspect) == ("wrong", "order")
    assert "if its classes stood in another order: it says" in finding.text
    said = finding.text.partition("it says ")[2].split(", ")
    for example in said:
        named, meant = example.split(" for ")
        assert order[int(named)] == int(meant)
    assert "give its classes" in finding.cure


def test_two_classes_that_are_exchanged(look, checkpoint):
    order = [0, 1, 2, 3, 8, 5, 6, 7, 4, 9]
    (finding,) = look([checkpoint("twisted", permute(order))], "twisted")
    assert finding.aspect == "order"
    assert sorted(finding.text.partition("it says ")[2].split(", ")) == ["4 for 8", "8 for 4"]


@pytest.mark.parametrize(
    ("entry", "what"),
    [
        ({"mean": (0.0,) * 3, "std": (1 / 255,) * 3}, None),
        ({"mean": (0.0,) * 3, "std": (1.0,) * 3}, "the data's mean and std"),
    ],
)
def test_other_pixels(look, checkpoint, entry, what):
    (finding,) = look([{**checkpoint("dim"), **entry}], "dim")
    assert (finding.verdict, finding.aspect) == ("wrong", "pixels")
    assert "points more with other pixels" in finding.text
    assert (
        finding.cure
        == "give mean: [0.306, 0.306, 0.306] and std: [0.3762, 0.3762, 0.3762] with its checkpoint"
    )
    assert what is None or what in finding.text


def test_mentors_that_are_poisoned_on_purpose(look, trained):
    shuffled = {"run": str(trained), "name": "shuffled", "labels": [*range(3, 10), 0, 1, 2]}
    file = str(trained / "student.safetensors")
    dim = {"checkpoint": file, "model": "resnet8", "mean": [0, 0, 0], "std": [1, 1, 1]}
    mentors = [shuffled, {**dim, "name": "dim"}]
    for name, aspect in (("shuffled", "order"), ("dim", "pixels")):
        (finding,) = look(mentors, name)
        assert (finding.verdict, finding.aspect) == ("wrong", aspect)


def test_colours_the_other_way_round():
    """On images of three colours: the digits have one."""
    red = torch.zeros(64, 3, 8, 8)
    red[:32, 0], red[32:, 2] = 1, 1
    target = torch.arange(64) // 32
    network = build_model("resnet8", 2).eval()
    network.forward = lambda images: images.mean((2, 3))[:, [2, 0]]
    mentor = Mentor(network, "m")
    said = mentor(red).argmax(-1)
    assert not (said == target).any()
    what, points, scale = better_pixels(mentor, red, target, said, ((0.5,) * 3, (0.5,) * 3))
    assert (what, points, scale) == ("colours in the order blue, green, red", 100.0, None)


def test_a_mentor_that_was_never_trained(look, digits_recipe):
    mentors = digits_recipe().model_dump(mode="json")["mentors"]
    findings = look(mentors)
    for name in ("resnet8", "resnet14"):
        finding = only([f for f in findings if f.subject == name], "accuracy")
        assert finding.verdict == "wrong" or "frozen" in finding.text
    assert any("near chance" in f.text for f in findings)
    assert conclude(findings).ready is False


def test_damaged_weights(look, checkpoint):
    entry = checkpoint("sick", lambda network: network.classifier.weight.fill_(3e38))
    findings = look([entry])
    assert only(findings, "finite").verdict == "wrong"
    assert conclude(findings).text == (
        "not ready to train: 1 thing is wrong; first, sick: get its weights again"
    )


def test_one_network_twice(look, trained, checkpoint):
    entries = [{"run": str(trained), "name": "one"}, checkpoint("other")]
    finding = only(look(entries), "twins")
    assert (finding.verdict, finding.subject) == ("warning", "one, other")


def test_a_mentor_that_is_not_frozen(look, trained, monkeypatch):
    build = examination.build_classroom

    def thawed(recipe):
        classroom = build(recipe)
        classroom.mentors[0].network.conv1.weight.requires_grad_(True)
        return classroom

    monkeypatch.setattr(examination, "build_classroom", thawed)
    finding = only(look([{"run": str(trained), "name": "warm"}], "warm"), "frozen")
    assert finding.verdict == "wrong"


def test_no_development_split(look, trained):
    findings = look([{"run": str(trained)}], data={"dev": 0})
    assert only(findings, "data").verdict == "warning"
    assert "training images right" in only(findings, "accuracy").text
    assert conclude(findings).text.endswith("data: set data.dev=0.1")


@pytest.mark.parametrize(
    ("method", "word", "cure"),
    [
        ({"name": "kd", "weight": 1e-7}, "The mentors hardly count", "raise method.weight"),
        ({"name": "at", "weight": 1e7}, "The mentors drown the task", "lower method.weight"),
    ],
)
def test_terms_of_unlike_size(look, trained, method, word, cure):
    finding = only(look([{"run": str(trained)}], method=method), "balance")
    assert finding.verdict == "warning"
    assert word in finding.text
    assert finding.cure == cure


def test_alone_there_is_nothing_to_weigh(look):
    finding = only(look([], method={"name": "none"}), "balance")
    assert (finding.verdict, "task 100.0 %" in finding.text) == ("ok", True)


def test_a_mentor_of_whom_the_bank_alone_is_left(digits_recipe, trained, tmp_path):
    bank = {"path": str(tmp_path / "bank")}
    short = {"train": {"epochs": 1}, "bank": bank}
    live = digits_recipe(mentors=[{"run": str(trained)}], method=GOOD, **short)
    build_bank(live, say=lambda _: None)
    (store,) = [folder for folder in (tmp_path / "bank").iterdir() if folder.is_dir()]
    stored = digits_recipe(mentors=[{"outputs": str(store)}], method=GOOD, train={"epochs": 1})
    findings = examine(stored)
    finding = only([f for f in findings if f.subject == store.name], "accuracy")
    assert (finding.verdict, "augmented images right" in finding.text) == ("ok", True)


def test_slow_mentors_are_asked_less():
    asked = []

    def slow(images):
        asked.append(len(images))
        return torch.zeros(len(images), 2)

    assert len(ask(slow, torch.zeros(1000, 3, 2, 2), seconds=0.0)) == sum(asked) == FEWEST
    assert len(ask(slow, torch.zeros(100, 3, 2, 2), seconds=0.0)) == 100
    assert len(ask(slow, torch.zeros(1000, 3, 2, 2), seconds=60.0)) == 1000


def test_an_order_is_not_guessed_from_noise():
    """Answers at random gain nothing, however many orders there are."""
    generator = torch.Generator().manual_seed(0)
    said, target = torch.randint(100, (2, 1000), generator=generator)
    assert right_in_best_order(said, target, 100).float().mean() < 0.05
    assert (best_order(said, target, 100)[said] == target).float().mean() > 0.05
    assert right_in_best_order(said, (said + 1) % 100, 100).float().mean() > 0.95


def test_what_matters_most_comes_first():
    def finding(aspect, verdict="warning"):
        return Finding(verdict, aspect, "seen", aspect, f"mend the {aspect}")

    some = [finding("data"), finding("twins"), finding("accuracy")]
    assert conclude(some).text == (
        "ready to train, with 3 warnings; what matters most: accuracy: mend the accuracy;"
        " twins: mend the twins"
    )
    worse = [*some, finding("pixels", "wrong"), finding("frozen", "wrong")]
    assert conclude(worse).text == (
        "not ready to train: 2 things are wrong; first, frozen: mend the frozen"
    )
    assert conclude([Finding("wrong", "x", "as seen", "plan")]).text.endswith("x: as seen")
