"""The costs of methods: every method has a row, and what is timed does the method's work."""

import json

import torch

from benchmarks.costs import _Lessons, run_costs
from benchmarks.variants import Settings, build_bench
from classroomkd.methods import list_methods

TINY = Settings(
    "resnet8", ("resnet8", "ShuffleNetV2"), batch_size=4, classes=5, rounds=1, steps=2, tuned=False
)


def test_rows_say_share_mentors_and_parameters(tmp_path):
    said = []
    names = ["none", "kd", "classroom", "fitnets"]
    result = run_costs(tmp_path / "costs.json", say=said.append, settings=TINY, names=names)
    rows = result["methods"]
    assert json.loads((tmp_path / "costs.json").read_text())["methods"] == rows
    assert [rows[name]["mentors"] for name in names] == [0, 1, 2, 1]
    assert all(row["share"] > 0 for row in rows.values())
    assert rows["kd"]["parameters"] == 0 < rows["fitnets"]["parameters"]
    text = "\n".join(said)
    assert all(f"  {name} " in text for name in names)


def test_a_timed_lesson_is_the_method_s_own():
    classroom = build_bench(TINY, torch.device("cpu"))
    batch = next(iter(classroom.train))
    lesson = _Lessons("classroom", classroom, batch)
    lesson()
    assert lesson.student.logits.grad is not None
    assert lesson.student.logits.grad.any()
    assert len(lesson.mentors) == 2
    assert not any(m.logits.requires_grad for m in lesson.mentors)


def test_every_method_can_be_timed():
    quick = [
        name for name in list_methods() if name != "crd"
    ]  # its memory of 50,000 is for `make bench`
    result = run_costs(say=lambda _: None, settings=TINY, names=quick)
    assert list(result["methods"]) == quick
