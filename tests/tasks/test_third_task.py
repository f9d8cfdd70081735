"""A task that is defined beside the tests does all that a task can, with no word of it in src."""

import pytest
import torch

from classroomkd.config import parse_recipe
from classroomkd.doctor import examine
from classroomkd.engine.bank import build_bank, verify_bank
from classroomkd.engine.build import build_classroom
from classroomkd.engine.evaluate_run import evaluate_run
from classroomkd.engine.plan import plan_run
from classroomkd.engine.run import train
from classroomkd.engine.step import training_step
from classroomkd.errors import RecipeError
from classroomkd.report import write_report
from tests.tasks.tokens import Tokens


def quiet(*_):
    """Say nothing."""


def recipe(**sections):
    return parse_recipe({
        "name": "tags", "task": "tokens", "method": {"name": "none"},
        "train": {
            "epochs": 2, "batch_size": 16, "precision": "fp32", "device": "cpu", "tune": False,
            "optimizer": {"name": "sgd", "lr": 0.2}, **sections.pop("train", {}),
        },
        **sections,
    })  # fmt: skip


@pytest.fixture(scope="module")
def mentors(tmp_path_factory):
    """Two mentors of other sizes."""
    folder = tmp_path_factory.mktemp("tokens")
    for width in (16, 32):
        student = {"model": f"tagger-{width}"}
        train(recipe(student=student), folder / f"{width}", progress=False, say=quiet)
    return [{"run": str(folder / "16"), "role": "teacher"}, {"run": str(folder / "32")}]


def classroom(mentors, **sections):
    return recipe(mentors=mentors, method={"name": "classroom", "task_weight": 1}, **sections)


def test_it_trains_and_is_evaluated_and_reported(mentors, tmp_path):
    summary = train(classroom(mentors), tmp_path / "run", progress=False, say=quiet)
    assert summary["task"] == "tokens"
    assert summary["mentors"] == ["16", "32"]
    _, results = evaluate_run(tmp_path / "run")
    assert results["accuracy"] == pytest.approx(summary["best"]["test_accuracy"], abs=1e-3)
    page = write_report([tmp_path / "run"], tmp_path / "report.html")
    assert "accuracy" in page.read_text()


def test_padding_teaches_nothing(mentors):
    room = build_classroom(classroom(mentors), quiet)
    room.begin_epoch(0)
    batch = next(iter(room.train))
    other = batch.target.where(batch.mask > 0, (batch.target + 1) % 3)
    losses = [training_step(room, b).loss for b in (batch, batch._replace(target=other))]
    assert torch.equal(*losses)


def test_it_resumes_exactly(mentors, tmp_path):
    whole = train(classroom(mentors), tmp_path / "whole", progress=False, say=quiet)

    def stop(line):
        if line.startswith("epoch 2/"):
            raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, SystemExit)):
        train(classroom(mentors), tmp_path / "cut", progress=False, say=stop)
    assert whole == train(
        classroom(mentors), tmp_path / "cut", resume=True, progress=False, say=quiet
    )


@pytest.mark.parametrize("top", [None, 1])
def test_it_has_a_bank(mentors, tmp_path, top, monkeypatch):
    stored = classroom(mentors, bank={"path": str(tmp_path / "bank"), "top": top})
    build_bank(stored, say=quiet)
    assert verify_bank(stored, say=quiet) == []
    live, banked = (build_classroom(r, quiet) for r in (classroom(mentors), stored))
    for room in (live, banked):
        room.begin_epoch(0)
    assert len(banked.mentor_outputs.banked) == 2
    one, other = (training_step(room, next(iter(room.train))) for room in (live, banked))
    torch.testing.assert_close(one.mentor_score, other.mentor_score, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(one.loss, other.loss, rtol=1e-2, atol=1e-3)


def test_mentors_are_skipped_and_train_along(mentors, tmp_path):
    skip = classroom(mentors, train={"skip": {"below": 0.9, "every": 2}})
    train(skip, tmp_path / "skip", progress=False, say=quiet)
    peers = recipe(mentors=[{"model": "tagger-16", "train": True}], method={"name": "dml"})
    train(peers, tmp_path / "dml", progress=False, say=quiet)


def test_it_is_planned_and_examined(mentors):
    said = []
    plan_run(classroom(mentors), said.append)
    assert any("of 16 sequences" in line for line in said)
    findings = examine(classroom(mentors))
    assert {f.aspect for f in findings} >= {"balance", "plan"}
    assert not [f for f in findings if f.verdict == "wrong"]


def test_mistakes_in_its_recipe_are_named():
    with pytest.raises(RecipeError, match=r"data.cout: unknown key.*count"):
        recipe(data={"cout": 3})
    with pytest.raises(RecipeError, match=r"task: unknown task 'tokenz'.*tokens"):
        parse_recipe({"name": "x", "task": "tokenz"})


def test_methods_that_read_what_it_has_not_are_refused_by_name(mentors):
    from classroomkd.errors import ClassroomError

    with pytest.raises(ClassroomError, match="'at'"):
        build_classroom(recipe(mentors=mentors[:1], method={"name": "at"}), quiet)


def test_it_is_the_task_that_is_registered():
    from classroomkd.tasks.registry import list_tasks, task_class

    assert task_class("tokens") is Tokens
    assert set(list_tasks()) >= {"classification", "pose", "tokens"}


def test_it_trains_without_labels_where_nobody_is_ranked_by_them(mentors, tmp_path, monkeypatch):
    """Mentors alone teach; what needs labels says so."""
    from dataclasses import replace

    labelled = Tokens.signals
    monkeypatch.setattr(Tokens, "signals", lambda *given: replace(labelled(*given), target=None))
    everybody = {
        "name": "classroom", "select": "all", "weighting": "equal", "mentoring": "fixed",
        "temperature": 4, "task_weight": 1,
    }  # fmt: skip
    for name, method in (("all", everybody), ("aver", {"name": "aver"})):
        summary = train(
            recipe(mentors=mentors, method=method), tmp_path / name, progress=False, say=quiet
        )
        assert summary["last"]["test_accuracy"] > 0
    room = build_classroom(classroom(mentors), quiet)
    room.begin_epoch(0)
    with pytest.raises(ValueError, match="without a target nobody can be ranked"):
        training_step(room, next(iter(room.train)))
