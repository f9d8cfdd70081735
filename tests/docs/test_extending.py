"""docs/extending.md: every block does what it says."""

import pytest

from tests.docs.documents import keep, kept

pytestmark = pytest.mark.usefixtures("place")


@kept("docs/extending.md")
def test_extending(promise):
    keep(promise)
