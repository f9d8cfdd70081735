"""Mentors that hardly teach are asked now and then, come back, and are silent meanwhile."""

from types import SimpleNamespace

import pytest
import torch

from classroomkd.core import classroom_loss
from classroomkd.engine.build import build_classroom
from classroomkd.engine.run import train
from classroomkd.engine.runs import RunFolder
from classroomkd.engine.skip_schedule import SkipSchedule
from classroomkd.errors import ClassroomError


def lesson(*shares):
    """A lesson in which each mentor teaches so many of ten samples."""
    active = torch.arange(10) < torch.tensor(shares).unsqueeze(1)
    return SimpleNamespace(active=active)


def test_roll_calls():
    skip_schedule = SkipSchedule(3, below=0.2, every=3, always={2})
    asked = []
    for shares in [(5, 1, 0)] * 3 + [(5, 9, 0)] + [(5, 0, 0)] * 2 + [(0, 9, 0)] * 4:
        asked.append(skip_schedule.call())
        skip_schedule.note(lesson(*shares))
    assert asked[:3] == [[True] * 3] * 3  # the first interval is for getting to know them
    assert asked[3] == [True] * 3  # a probe step
    assert asked[4:6] == [[True, False, True]] * 2  # the second taught a tenth, less than a fifth
    assert asked[6] == [True] * 3
    assert (
        asked[7:9] == [[True] * 3] * 2
    )  # at the last probe step it taught nine tenths: it is back
    assert skip_schedule.shares() == pytest.approx([1, 0.8, 1])
    skip_schedule.begin()
    assert skip_schedule.call() == [True] * 3
    assert skip_schedule.present == [True] * 3


def test_the_silent_do_not_teach():
    torch.manual_seed(0)
    student, mentor, target = torch.randn(4, 5), 3 * torch.randn(4, 5), torch.randint(5, (4,))
    held = classroom_loss(student, [mentor, torch.full((4, 5), torch.nan)], target)
    assert held.loss.isfinite()
    assert not held.active[1].any()
    assert (held.mentor_loss[1] == 0).all()


def test_a_run_asks_less_and_says_so(digits_recipe, tmp_path):
    """The untrained mentors of this recipe soon teach nothing: the student is ahead."""
    quick = {"batch_size": 32, "epochs": 3, "optimizer": {"lr": 0.05}}
    skip = {"below": 0.3, "every": 8}
    method = {"name": "classroom", "task_weight": 1}
    recipe = digits_recipe(method=method, train={**quick, "skip": skip})
    train(recipe, tmp_path / "run", progress=False, say=lambda _: None)
    rows = RunFolder(tmp_path / "run").read_csv("classroom.csv")
    last = [row for row in rows if row["epoch"] == 2]
    assert all(1 / 8 <= row["asked"] < 0.5 for row in last)
    everybody = digits_recipe(train={**quick, "skip": {"below": 1e-9, "every": 8}})
    train(everybody, tmp_path / "all", progress=False, say=lambda _: None)
    assert all(row["asked"] == 1 for row in RunFolder(tmp_path / "all").read_csv("classroom.csv"))


def test_a_resumed_run_is_that_of_one_without_a_break(digits_recipe, tmp_path):
    recipe = digits_recipe(train={"skip": {"below": 0.3, "every": 2}})
    whole = train(recipe, tmp_path / "whole", progress=False, say=lambda _: None)

    def stop(batch):
        raise KeyboardInterrupt

    classroom_of = build_classroom

    def until_the_second_epoch(*arguments):
        classroom = classroom_of(*arguments)
        begin = classroom.mentor_outputs.begin
        classroom.mentor_outputs.begin = lambda view, index, **store: (
            begin(view, index, **store) if view == 0 else stop(view)
        )
        return classroom

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("classroomkd.engine.run.build_classroom", until_the_second_epoch)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, tmp_path / "cut", progress=False, say=lambda _: None)
    cut = train(recipe, tmp_path / "cut", resume=True, progress=False, say=lambda _: None)
    assert cut == whole


def test_what_it_does_not_go_with(digits_recipe, tmp_path):
    for changes in ({"method": {"name": "at"}}, {"bank": {"path": str(tmp_path / "bank")}}):
        with pytest.raises(ClassroomError, match=r"train\.skip: .* leave it out"):
            build_classroom(digits_recipe(train={"skip": {}}, **changes))
