"""The strength of methods: a row for each, the same at every call, and files of both kinds."""

import csv

import pytest

from benchmarks import strength
from benchmarks.strength import Networks, run_strength

QUICK = Networks("resnet8", ("resnet8",) * 6, student_epochs=1, mentor_epochs=1)


def run(**options):
    return run_strength(say=lambda _: None, networks=QUICK, **options)


def test_rows_files_and_repetition(tmp_path):
    names = ["kd", "aver", "at"]
    files = {"as_csv": tmp_path / "tables" / "s.csv", "markdown": tmp_path / "s.md"}
    rows = run(names=names, **files)
    found = [(row.method, row.student, row.mentors) for row in rows]
    assert [key for key in found if key[0] == "kd"] == [("kd", "fresh", 1), ("kd", "trained", 1)]
    assert len([key for key in found if key[0] == "aver"]) == 6
    attention = next(row.strength for row in rows if row.method == "at")
    assert attention.logits == 0 < attention.parameters
    with files["as_csv"].open() as file:
        written = list(csv.DictReader(file))
    assert [(r["method"], r["student"], int(r["mentors"])) for r in written] == found
    assert float(written[0]["logits"]) == pytest.approx(rows[0].strength.logits, rel=0.01)
    lines = files["markdown"].read_text().splitlines()
    assert [line.split("`")[1] for line in lines[2:]] == names
    assert lines[0].count("|") == lines[2].count("|") == 8
    assert run(names=["at"]) == [row for row in rows if row.method == "at"]


def test_twice_the_weight_is_twice_as_strong(monkeypatch):
    [plain, _] = run(names=["kd"])
    create = strength.create_method
    monkeypatch.setattr(strength, "create_method", lambda name: create(name, weight=1.8))
    [double, _] = run(names=["kd"])
    assert double.strength.logits == pytest.approx(2 * plain.strength.logits, rel=1e-4)
    assert double.strength.parameters == pytest.approx(2 * plain.strength.parameters, rel=1e-4)


def test_poses_are_measured_beside_their_own_task(tmp_path):
    rows = {
        (r.method, r.student, r.mentors): r.strength.logits for r in run(names=["fpd", "okdhp"])
    }
    assert len(rows) == 2 + 6
    assert all(0 < value < 2 for value in rows.values())
    # Half the teacher's squared error, beside the whole of the labels'; a flat map is as far from both.
    assert rows["fpd", "fresh", 1] == pytest.approx(0.5, rel=0.1)
    csv_file = tmp_path / "s.csv"
    run(names=["fpd"], as_csv=csv_file)
    assert csv_file.read_text().splitlines()[1].endswith(",")
