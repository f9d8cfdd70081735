"""docs/methods.md: every block does what it says."""

import pytest

from tests.docs.documents import keep, kept

pytestmark = pytest.mark.usefixtures("place")


@kept("docs/methods.md")
def test_methods(promise):
    keep(promise)
