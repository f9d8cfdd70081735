"""Every feature of a run, for every task: it works, or is refused by name in the recipe.

`table` makes of what is tested here the table of ``docs/tasks.md``:
``python -m tests.tasks.test_parity`` writes it anew.
"""

import sys
from pathlib import Path

import pytest
import torch

from classroomkd.config import parse_recipe
from classroomkd.doctor import examine
from classroomkd.engine.bank import build_bank, verify_bank
from classroomkd.engine.build import build_classroom
from classroomkd.engine.evaluate_run import evaluate_run
from classroomkd.engine.plan import plan_run
from classroomkd.engine.run import train
from classroomkd.engine.runs import RunFolder
from classroomkd.errors import RecipeError
from classroomkd.report import write_report
from tests.tasks.pose.engine.conftest import mentor_runs, persons, pose_recipe  # noqa: F401

PAGE = Path(__file__).parents[2] / "docs/tasks.md"
TASKS = ("classification", "pose")
SLOW = {"several processes", "sharded student", "sharded mentors"}
TWO = {"train": {"devices": 2}}

# What a recipe says to ask for a feature, and what it is called.
FEATURES = {
    "bank": {},
    "bank, top-k": {},
    "plan": {},
    "tuned mentors": {},
    "skipped mentors": {"train": {"skip": {"below": 0.5, "every": 2}}},
    "offloaded mentors": {"train": {"mentor_placement": "offload"}},
    "sharded mentors": {"train": {"devices": 2, "mentor_placement": "shard"}},
    "mentors that train along": {"method": {"name": "dml"}},
    "feature methods": {"method": {"name": "at"}},
    "a second method": {"method": {"name": "classroom", "also": "at", "task_weight": 1}},
    "mixing": {"data": {"mix": {"mixup": 0.4}}},
    "averaged weights": {"train": {"ema": 0.9}},
    "resume": {},
    "several processes": TWO,
    "sharded student": {"train": {"devices": 2, "student_placement": "shard"}},
    "snapshots": {"train": {"snapshots": [1]}},
    "mentors weighed by accuracy": {"method": {"name": "classroom", "prior": "accuracy"}},
    "eval": {},
    "doctor": {},
    "report": {},
}
REFUSED = {
    ("mixing", "pose"): r"data\.mix: unknown key",
    ("mentors weighed by accuracy", "pose"): r"method\.prior: mentors of poses are not measured",
}


def quiet(*_):
    """Say nothing."""


@pytest.fixture
def make(request, digits_recipe):
    """A recipe of a task with two mentors, and what a feature adds."""

    def recipe(task, feature, **more):
        asked = {key: dict(value) for key, value in FEATURES[feature].items()}
        for key, value in more.items():
            asked[key] = {**asked.get(key, {}), **value}
        single = asked.get("method", {}).get("name") == "at"
        if task == "classification":
            base = digits_recipe().model_dump(mode="json", exclude_unset=True)
            base["mentors"] = base["mentors"][:1] if single else base["mentors"]
            if asked.get("method", {}).get("name") == "dml":
                base["mentors"] = [{"model": "resnet8", "train": True}]
            for key, value in asked.items():
                merged = {**base.get(key, {}), **value} if key != "method" else value
                base[key] = merged
            return parse_recipe(base)
        drawn, runs = (request.getfixturevalue(n) for n in ("persons", "mentor_runs"))
        mentors = [{"run": str(runs / name)} for name in ("heatmap", "simcc")]
        if single:
            mentors = mentors[:1]
        if asked.get("method", {}).get("name") == "dml":
            mentors = [{"model": "pose/tiny/simcc", "train": True}]
        usual = {"name": "classroom", "task_weight": 1}
        asked["method"] = asked.get("method", usual)
        return pose_recipe(drawn, mentors=mentors, **asked)

    return recipe


def works(feature, make, task, tmp_path):
    """Use a feature; AssertionErrors and errors tell that it does not work."""
    if feature.startswith("bank"):
        bank = {"path": str(tmp_path / "bank"), "top": 8 if "top" in feature else None}
        recipe = make(task, feature, bank=bank)
        build_bank(recipe, say=quiet)
        assert verify_bank(recipe, say=quiet) == []
        room = build_classroom(recipe, quiet)
        room.begin_epoch(0)
        assert len(room.mentor_outputs.banked) == 2
        train(recipe, tmp_path / "run", progress=False, say=quiet)
    elif feature == "plan":
        said = []
        plan_run(make(task, feature), said.append)
        assert any(line.startswith("banked:") for line in said)
    elif feature == "tuned mentors":
        from classroomkd.engine.tuning import example_inputs

        room = build_classroom(make(task, feature), quiet)
        inputs = example_inputs(room)
        before = [mentor.outputs(inputs).logits for mentor in room.mentors]
        for mentor, plain in zip(room.mentors, before, strict=True):
            mentor.speed_up(inputs)
            torch.testing.assert_close(mentor.outputs(inputs).logits, plain, rtol=1e-3, atol=1e-3)
    elif feature == "doctor":
        found = examine(make(task, feature))
        assert {"data", "loss", "plan"} <= {finding.subject for finding in found}
    elif feature == "resume":
        recipe = make(task, feature)
        whole = train(recipe, tmp_path / "whole", progress=False, say=quiet)

        def stop(line):
            if line.startswith("epoch 2/"):
                raise KeyboardInterrupt

        with pytest.raises((KeyboardInterrupt, SystemExit)):
            train(recipe, tmp_path / "cut", progress=False, say=stop)
        assert train(recipe, tmp_path / "cut", resume=True, progress=False, say=quiet) == whole
    else:
        run = RunFolder(tmp_path / "run")
        summary = train(make(task, feature), run.path, progress=False, say=quiet)
        assert f"test_{summary['headline']}" in summary["last"]
        if feature == "eval":
            _, results = evaluate_run(run.path)
            wanted = summary["best"][f"test_{summary['headline']}"]
            assert results[summary["headline"]] == pytest.approx(wanted, abs=1e-3)
        if feature == "report":
            assert "<svg" in write_report([run.path], tmp_path / "page.html").read_text()
        if feature == "snapshots":
            assert (run.path / "snapshots/e0001/student.safetensors").is_file()
        if feature == "skipped mentors":
            assert all(0 < row["asked"] <= 1 for row in run.read_csv("classroom.csv"))


# Of images, other tests run the slow ones; so does one of poses for several processes.
LANDING = {("sharded student", "pose"), ("sharded mentors", "pose")}


def marks(*cell):
    slow = [pytest.mark.slow] if cell[0] in SLOW else []
    return slow + [pytest.mark.processes] * (cell in LANDING)


CELLS = [
    pytest.param(feature, task, marks=marks(feature, task))
    for feature in FEATURES
    for task in TASKS
]


@pytest.mark.parametrize(("feature", "task"), CELLS)
def test_it_works_or_is_refused(feature, task, make, tmp_path):
    if (feature, task) not in REFUSED:
        works(feature, make, task, tmp_path)
        return
    with pytest.raises(RecipeError, match=REFUSED[feature, task]):
        make(task, feature)


def table():
    """The table as Markdown."""
    lines = [f"| feature | {' | '.join(TASKS)} |", "|---|" + "---|" * len(TASKS)]
    for feature in FEATURES:
        cells = ("refused" if (feature, task) in REFUSED else "yes" for task in TASKS)
        lines.append(f"| {feature} | {' | '.join(cells)} |")
    return "\n".join(lines)


def test_the_table_of_the_documents_is_this_one():
    assert table() in PAGE.read_text(encoding="utf-8"), "python -m tests.tasks.test_parity"


def main():
    """Write the table anew."""
    page = PAGE.read_text(encoding="utf-8")
    start, end = page.index("| feature |"), page.index("\n\n", page.index("| feature |"))
    PAGE.write_text(page[:start] + table() + page[end:], encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
