"""README.md: every block does what it says."""

import pytest

from tests.docs.documents import keep, kept

pytestmark = pytest.mark.usefixtures("place")


@kept("README.md")
def test_readme(promise):
    keep(promise)
