"""The student at the end of some epochs, and as a mentor."""

import pytest
import torch
import yaml
from safetensors.torch import load_file

from classroomkd.config import parse_recipe
from classroomkd.engine import run as run_module
from classroomkd.engine.build import build_classroom
from classroomkd.engine.run import train
from classroomkd.engine.runs import RunFolder
from classroomkd.errors import RecipeError
from classroomkd.models import load_student
from classroomkd.report import write_report


def quiet(_):
    pass


@pytest.fixture(scope="module")
def alone():
    def make(**train):
        usual = {"epochs": 4, "batch_size": 128, "precision": "fp32", "device": "cpu"}
        return parse_recipe(
            {
                "name": "alone",
                "data": {"name": "digits", "dev": 0.2, "fraction": 0.5},
                "student": {"model": "resnet8"},
                "method": {"name": "none"},
                "train": usual | train,
            }
        )

    return make


@pytest.fixture(scope="module")
def run(alone, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "teacher"
    train(alone(snapshots=[1, 3, 4]), folder, progress=False, say=quiet)
    return folder


def weights_of(folder):
    return (folder / "student.safetensors").read_bytes()


def test_snapshots_are_the_students_of_their_epochs(run):
    folder = RunFolder(run)
    assert sorted(p.name for p in (run / "snapshots").iterdir()) == ["e0001", "e0003", "e0004"]
    rows = folder.read_csv("metrics.csv")
    for epoch in (1, 3, 4):
        _, info = load_student(folder.snapshot(epoch))
        assert (info.epoch, info.top1) == (epoch - 1, rows[epoch - 1]["dev_top1"])
    assert weights_of(folder.snapshot(4)) == weights_of(folder.last)
    assert weights_of(folder.snapshot(1)) != weights_of(folder.snapshot(3))


def test_resuming_keeps_snapshots_and_makes_the_others(alone, run, tmp_path, monkeypatch):
    recipe, folder, epoch = alone(snapshots=[1, 3, 4]), tmp_path / "run", run_module._Record.epoch

    def stop(self, number, student, lr):
        if number == 2:
            raise KeyboardInterrupt
        epoch(self, number, student, lr)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(run_module._Record, "epoch", stop)
        train(recipe, folder, progress=False, say=quiet)
    assert [p.name for p in (folder / "snapshots").iterdir()] == ["e0001"]
    train(recipe, folder, resume=True, progress=False, say=quiet)
    for number in (1, 3, 4):
        there, whole = (RunFolder(path).snapshot(number) for path in (folder, run))
        assert weights_of(there) == weights_of(whole)
    train(alone(epochs=1), folder, overwrite=True, progress=False, say=quiet)
    assert not (folder / "snapshots").exists()


def test_the_average_is_kept_where_there_is_one(alone, tmp_path):
    recipe = alone(epochs=1, ema=0.9, snapshots=1)
    train(recipe, tmp_path / "run", progress=False, say=quiet)
    folder = RunFolder(tmp_path / "run")
    assert weights_of(folder.snapshot(1)) == weights_of(folder.last)


def test_snapshots_of_one_run_are_mentors(digits_recipe, run, tmp_path):
    mentors = [
        {"run": str(run), "role": "teacher"},
        {"run": str(run), "epoch": 1},
        {"run": str(run), "epoch": 3},
    ]
    recipe = digits_recipe(mentors=mentors, train={"epochs": 1})
    classroom = build_classroom(recipe, say=quiet)
    assert [m.name for m in classroom.mentors] == ["teacher", "teacher-e1", "teacher-e3"]
    assert [m.role for m in classroom.mentors] == ["teacher", "peer", "peer"]
    for mentor, epoch in zip(classroom.mentors[1:], (1, 3), strict=True):
        saved = load_file(RunFolder(run).snapshot(epoch) / "student.safetensors")
        own = mentor.network.state_dict()
        assert all(torch.equal(own[name], saved[name]) for name in saved)
    train(recipe, tmp_path / "run", progress=False, say=quiet)
    page = write_report([tmp_path / "run"], tmp_path / "report.html").read_text(encoding="utf-8")
    assert "teacher-e3" in page


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"epoch": 2}, "has no snapshot of epoch 2 (it has: 1, 3, 4)"),
        ({"run": None, "epoch": 2, "model": "vgg8", "train": True}, "epoch is of a run: give run"),
        ({"epoch": 0}, "greater than or equal to 1"),
    ],
)
def test_a_snapshot_that_is_not_there(digits_recipe, run, entry, message):
    with pytest.raises(RecipeError) as caught:
        digits_recipe(mentors=[{"run": str(run)} | entry])
    assert message in str(caught.value)


def test_a_run_without_snapshots(digits_recipe):
    mentor = digits_recipe().model_dump(mode="json")["mentors"][0] | {"epoch": 1}
    with pytest.raises(RecipeError, match=r"it has none\); train it with train.snapshots=\[1\]"):
        digits_recipe(mentors=[mentor])


def test_which_epochs_are_kept(alone):
    assert alone(epochs=8, snapshots=4).train.snapshot_epochs == (2, 4, 6, 8)
    assert alone(epochs=3, snapshots=3).train.snapshot_epochs == (1, 2, 3)
    assert alone(epochs=8, snapshots=[2, 4]).train.snapshot_epochs == (2, 4)
    assert alone().train.snapshot_epochs == ()
    for recipe in (alone(), alone(snapshots=2), alone(snapshots=[1, 2])):
        assert parse_recipe(yaml.safe_load(recipe.to_yaml())) == recipe
    for wrong in (0, [], [4, 2], [2, 2], [0, 2], "all", 1.5, True):
        with pytest.raises(RecipeError, match=r"train.snapshots: must be epochs that go up"):
            alone(snapshots=wrong)
    for wrong in (5, [2, 5]):
        with pytest.raises(RecipeError, match=r"snapshots .* is more than there are epochs: 4"):
            alone(snapshots=wrong)
