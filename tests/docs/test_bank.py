"""docs/bank.md: every block does what it says."""

import pytest

from tests.docs.documents import keep, kept

pytestmark = pytest.mark.usefixtures("place")


@kept("docs/bank.md")
def test_bank(promise):
    keep(promise)
