"""docs/recipes.md: every block does what it says."""

import pytest

from tests.docs.documents import keep, kept

pytestmark = pytest.mark.usefixtures("cifar100")


@kept("docs/recipes.md")
def test_recipes(promise):
    keep(promise)
