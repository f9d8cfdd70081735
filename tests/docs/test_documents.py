"""All documents: what needs no training, and what holds of each of them."""

import re

import pytest

from tests.docs.documents import DOCUMENTS, LANGUAGES, ROOT, blocks, keep, promises

KEPT_ELSEWHERE = {
    "README.md", "CONTRIBUTING.md", "docs/recipes.md", "docs/bank.md", "docs/methods.md",
    "docs/extending.md", "docs/suites.md", "docs/pose.md",
}  # fmt: skip
OTHERS = [(d, p) for d in DOCUMENTS if d not in KEPT_ELSEWHERE for p in promises(d)]


@pytest.mark.parametrize(("document", "promise"), OTHERS, ids=str)
def test_others(document, promise, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert promise.language != "bash", f"{document} needs a file of tests with a place to run in"
    keep(promise)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_block_says_what_becomes_of_it(document):
    assert {block.language for block in blocks(document)} <= LANGUAGES


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document):
    text = (ROOT / document).read_text()
    for link, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", text):
        file = (ROOT / document).parent / link if link else ROOT / document
        assert file.exists(), link
        assert not anchor or anchor in headings(file), f"{link}#{anchor}"


def headings(file):
    """The anchors of a document, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", file.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_document_is_named_in_the_readme():
    text = (ROOT / "README.md").read_text()
    for document in DOCUMENTS[1:]:
        assert f"({document})" in text


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for document in DOCUMENTS:
        text = (ROOT / document).read_text()
        named = set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.M))
        assert named <= targets, document


def test_every_room_is_on_the_map():
    rooms = {p for p in (ROOT / "src" / "classroomkd").iterdir() if not p.name.startswith("__")}
    [tree] = [b.text for b in blocks("README.md", "text") if b.text.startswith("src/classroomkd/")]
    for room in rooms:
        assert f"{room.name}{'/' if room.is_dir() else ''}" in tree.split(), room.name


def test_files_that_are_to_be_read_exist():
    text = (ROOT / "README.md").read_text()
    [sentence] = re.findall(r"follow a batch.*?\n\n", text, re.S)
    files = re.findall(r"`([\w/]+\.py)`", sentence)
    assert len(files) == 6
    for file in files:
        assert (ROOT / "src" / "classroomkd" / file).is_file(), file


def test_the_method_that_contributors_begin_with(monkeypatch):
    import torch

    from classroomkd.methods import create_method, registry

    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))
    [code] = blocks("CONTRIBUTING.md", "python")
    keep(code)
    student, better, worse = torch.zeros(1, 3), torch.eye(3)[:1], -torch.eye(3)[:1]
    lesson = create_method("gated_aver", temperature=2)(student, [better, worse], torch.tensor([0]))
    assert lesson.active.flatten().tolist() == [True, False]
    assert lesson.temperature.unique().tolist() == [2.0]
