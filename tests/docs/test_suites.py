"""docs/suites.md: every block does what it says."""

import pytest

from tests.docs.documents import keep, kept

pytestmark = pytest.mark.usefixtures("place")


@kept("docs/suites.md")
def test_suites(promise):
    keep(promise)
