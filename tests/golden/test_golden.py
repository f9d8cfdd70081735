"""Students of tiny runs are bit for bit those that were recorded; see `runs`."""

import json

import pytest

from tests.golden.runs import STUDENTS, circumstances, digit_runs, make, pose_runs

pytestmark = [pytest.mark.golden, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def recorded():
    said = json.loads(STUDENTS.read_text(encoding="utf-8"))
    here = circumstances()
    if other := {k: v for k, v in said["circumstances"].items() if here[k] != v}:
        pytest.skip(f"recorded with {other}; record the code before a change here first")
    return said["students"]


@pytest.fixture(scope="module")
def students(recorded, tmp_path_factory):
    return dict(make(tmp_path_factory.mktemp("golden")))


@pytest.mark.parametrize("name", [name for runs in (digit_runs(), pose_runs()) for name, _ in runs])
def test_student(name, recorded, students):
    if name not in students:
        pytest.skip("no LSPET at ../shared/data or $CLASSROOMKD_DATA")
    assert students[name] == recorded[name]


def test_ways_that_end_alike(students):
    """A run that was interrupted, or that fills a bank, ends as one that was and does not.

    One that reads its bank does not: it learns from logits that are stored in float16.
    """
    assert students["resumed"] == students["classroom"]
    assert students["bank-filled"] == students["classroom"]
