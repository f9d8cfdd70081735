"""docs/pose.md: every block does what it says, on drawn persons."""

import pytest

from tests.docs.documents import keep, kept
from tests.tasks.pose.engine.conftest import draw_set


@pytest.fixture(scope="module", autouse=True)
def persons(place):
    draw_set(place / "data" / "lspet", {"train": 16, "val": 4})


@kept("docs/pose.md")
def test_pose(promise):
    keep(promise)
