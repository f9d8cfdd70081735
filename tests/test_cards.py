"""docs/cards.md: a card for every method, written by its script, from tables that are true."""

import csv
import importlib.util
import re
from pathlib import Path

import pytest

from classroomkd.methods import Method, list_methods, method_class, method_options, registry

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "cards.md").read_text()


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("make_cards", DOCS / "make_cards.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def ours():
    return [n for n in list_methods() if method_class(n).__module__.startswith("classroomkd.")]


def test_the_page_is_what_the_script_writes(script):
    assert script.page() == PAGE, "run: python docs/make_cards.py"


@pytest.mark.parametrize("name", ours())
def test_every_method_has_a_card_with_its_options(name):
    [card] = re.findall(rf"^### `{name}`: .*?(?=^##|\Z)", PAGE, re.M | re.S)
    for option, field in method_options(name).model_fields.items():
        row = rf"^\| `{option}` \| `{re.escape(str(field.default))}` \| (.+) \|$"
        assert re.search(row, card, re.M), f"{option} has no meaning in the docstring of {name}"
    assert "Args:" not in card
    assert ".. math" not in card
    assert card.count("$$") % 2 == 0
    if name != "none":
        assert "Reference" in card


def test_a_new_method_comes_with_a_card(script, monkeypatch):
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))

    @registry.register_method("newcomer")
    class Newcomer(Method):
        r"""Do something new.

        .. math:: L = CE
                  + w x

        with ``x`` of the pair.

        Args:
            weight: ``w``, which
                goes on.
            more, most: of the same.

        Reference: nobody.

        Example:
            >>> 1
            1
        """

        title = "New"
        __module__ = "classroomkd.methods.newcomer"

        def __init__(self, *, weight: float = 2.0, more: int = 1, most: int = 3) -> None:
            super().__init__()

    [card] = re.findall(r"^### `newcomer`: New\n.*?(?=^##|\Z)", script.page(), re.M | re.S)
    assert "$$\nL = CE\n+ w x\n$$\n\nwith `x` of the pair." in card
    assert "| `weight` | `2.0` | `w`, which goes on. |" in card
    assert "| `most` | `3` | of the same. |" in card
    assert "Reference: nobody." in card
    assert ">>>" not in card


@pytest.mark.parametrize("table", ["costs", "lineup", "published", "strength"])
def test_tables_have_numbers_for_known_names(table, script):
    rows = script.rows(table)
    assert rows
    for row in rows:
        name = row.get("method", row.get("run"))
        assert table == "lineup" or name in [*list_methods(), "teacher", "student"], name
        for key in row.keys() - {"method", "run", "pair", "source", "note", "student"}:
            assert row[key] == "" or float(row[key]) is not None
    if table == "published":
        assert all(row["source"] in script.SOURCES for row in rows)
        assert all(20 < float(row["top1"]) < 90 for row in rows)


def test_notes_are_of_known_methods(script):
    import tomllib

    notes = tomllib.loads((DOCS / "tables" / "notes.toml").read_text())
    assert notes.keys() <= set(list_methods())


def test_the_tables_are_those_of_the_results():
    """The numbers of the line-up and of costs stand in results.md as they do in the tables."""
    results = (DOCS / "results.md").read_text()
    with (DOCS / "tables" / "lineup.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            over = row["over_alone"].replace("-", "−") or "–"
            assert f"| `{row['run']}` | {row['top1']} | {over} |" in results
    with (DOCS / "tables" / "costs.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            line = f"| `{row['method']}` | {row['mentors']} | {row['percent_of_step']} % |"
            assert line in results
