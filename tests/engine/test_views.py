"""What of the data a recipe trains on, and what it is judged on."""

import json

import pytest
import torch

from classroomkd.data import load_image_set
from classroomkd.doctor import examine
from classroomkd.engine.bank import build_bank
from classroomkd.engine.build import build_classroom
from classroomkd.engine.run import train
from classroomkd.errors import ClassroomError
from classroomkd.report import write_report
from classroomkd.tasks.base import Place
from classroomkd.tasks.classification.images import Data
from classroomkd.tasks.classification.recipe import Recipe, Student
from classroomkd.tasks.classification.task import Classification

SELECTION = {
    "train_classes": "0-4",
    "fraction": 0.5,
    "noise": {"rate": 0.4, "classes": [0, 1, 2], "seed": 3},
}


def sets(data):
    recipe = Recipe(name="x", data=data, student=Student(model="resnet8"))
    return Classification(recipe, Place(torch.device("cpu")))


def test_development_and_test_stay_whole_and_clean():
    digits = load_image_set("digits", "train")
    plain, plain_dev = sets(Data(name="digits", dev=0.2)).training_sets()
    part, dev = sets(Data(name="digits", dev=0.2, **SELECTION)).training_sets()
    assert dev.fingerprint == plain_dev.fingerprint
    assert torch.equal(dev.target, digits.target[dev.index])
    assert torch.isin(part.index, plain.index).all()
    true = digits.target[part.index]
    assert true.max() == 4
    assert len(part) == pytest.approx(0.5 * (plain.target < 5).sum().item(), abs=3)
    assert (part.target != true)[true < 3].any()
    assert not (part.target != true)[true >= 3].any()
    test = sets(Data(name="digits", **SELECTION)).test_set()
    assert test.fingerprint == load_image_set("digits", "test").fingerprint


def test_labels_are_those_of_any_batch_size_and_order(digits_recipe):
    labels = []
    for batch_size, epoch, seed in ((128, 0, 0), (32, 3, 1)):
        recipe = digits_recipe(data=SELECTION, train={"batch_size": batch_size}, seed=seed)
        classroom = build_classroom(recipe, say=lambda _: None)
        classroom.begin_epoch(epoch)
        seen = {}
        for batch in classroom.train:
            seen |= dict(zip(batch.index.tolist(), batch.target.tolist(), strict=True))
        labels.append(seen)
    common = labels[0].keys() & labels[1].keys()
    assert len(common) > 200
    assert all(labels[0][index] == labels[1][index] for index in common)


def test_a_specialist_with_wrong_labels_keeps_all_outputs_and_says_what_it_saw(
    digits_recipe, tmp_path
):
    said = []
    recipe = digits_recipe(data=SELECTION, method={"name": "none"}, train={"epochs": 1})
    train(recipe, tmp_path / "run", progress=False, say=said.append)
    assert any("trained on 5 of 10 classes" in line for line in said)
    assert any("training labels are wrong" in line for line in said)
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert set(environment["notes"]) <= set(said)
    assert len(json.loads((tmp_path / "run" / "student.json").read_text())["classes"]) == 10
    page = write_report([tmp_path / "run"], tmp_path / "report.html").read_text(encoding="utf-8")
    assert "data.train_classes" in page
    assert "data.fraction 0.5" in page
    assert "data.noise" in page


def test_the_doctor_says_which_classes_have_images(digits_recipe, capsys):
    findings = examine(digits_recipe(data={"train_classes": "0-4"}))
    data = next(finding for finding in findings if finding.subject == "data")
    assert "of which 5 have training images" in data.text
    assert "trained on 5 of 10 classes" in capsys.readouterr().out


@pytest.mark.parametrize("change", [{"noise": {"rate": 0.1}}, {"train_classes": [1, 2]}])
def test_a_bank_of_other_labels_or_samples_is_refused(digits_recipe, tmp_path, change):
    bank = {"path": str(tmp_path / "bank"), "top": 2}
    build_bank(digits_recipe(bank=bank, train={"epochs": 1}), say=lambda _: None)
    with pytest.raises(ClassroomError, match=r"does not fit; .*data\.fingerprint"):
        build_classroom(digits_recipe(bank=bank, data=change), say=lambda _: None)


def test_unknown_classes_are_told_before_training(digits_recipe):
    for data, match in (
        ({"train_classes": "5-12"}, "data.train_classes: there is no class 10"),
        ({"noise": {"rate": 0.4, "classes": ["ten"]}}, "data.noise.classes: unknown class 'ten'"),
    ):
        with pytest.raises(ClassroomError, match=match):
            build_classroom(digits_recipe(data=data), say=lambda _: None)
