"""What is done to mentors depends on how long the run is."""

import pytest

from classroomkd.engine import tuning
from classroomkd.engine.build import build_classroom
from classroomkd.engine.tuning import tune_mentors
from classroomkd.mentors import Mentor


@pytest.fixture
def asked(monkeypatch):
    calls = []
    monkeypatch.setattr(
        Mentor, "speed_up", lambda self, example, compiled: calls.append((self.name, compiled))
    )
    return calls


@pytest.mark.parametrize(
    ("folded", "compiled", "done"),
    [(9, 9, None), (8, 9, "folded"), (8, 8, "folded, compiled")],
)
def test_the_longer_a_run_the_more_is_done(
    digits_recipe, monkeypatch, asked, folded, compiled, done
):
    classroom = build_classroom(digits_recipe())
    steps = classroom.epochs * len(classroom.train)
    monkeypatch.setattr(tuning, "FOLDED", steps + folded - 8)
    monkeypatch.setitem(tuning.COMPILED, "cpu", steps + compiled - 8)
    names = ["resnet8", "resnet14"] if done else []
    assert tune_mentors(classroom) == dict.fromkeys(names, done)
    assert asked == [(name, "compiled" in done) for name in names]


def test_a_gpu_s_compiler_must_have_more_steps():
    assert tuning.COMPILED_ELSEWHERE > tuning.COMPILED["cpu"] > tuning.FOLDED
