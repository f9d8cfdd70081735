"""README: every command and every example runs, in its order, in one folder."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.engine.pose.conftest import draw_set

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()
DOCUMENTS = ("docs/results.md", "docs/pose.md", "docs/methods.md", "docs/cards.md")


def blocks(language, text=TEXT):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


def commands():
    return [line for block in blocks("bash") for line in block.splitlines() if line]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working folder with 300 images in CIFAR-100's layout, and drawn persons in LSPET's."""
    import pickle

    place = tmp_path_factory.mktemp("readme")
    layout = place / "data" / "cifar100" / "cifar-100-python"
    layout.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for split, count in (("train", 300), ("test", 100)):
        labels = [k % 100 for k in range(count)]
        content = {
            "data": generator.integers(0, 255, (count, 3072), dtype=np.uint8),
            "fine_labels": labels,
        }
        (layout / split).write_bytes(pickle.dumps(content, protocol=2))
    names = {"fine_label_names": [f"class {k}" for k in range(100)]}
    (layout / "meta").write_bytes(pickle.dumps(names, protocol=2))
    draw_set(place / "data" / "lspet", {"train": 16, "val": 4})
    return place


@pytest.mark.parametrize("command", commands())
def test_commands(command, folder, monkeypatch):
    program, *arguments = shlex.split(command, comments=True)
    assert program == "classroomkd"
    monkeypatch.setenv("CLASSROOMKD_DATA", str(folder / "data"))
    done = subprocess.run(
        [sys.executable, "-c", "from classroomkd.cli import main; main()", *arguments],
        cwd=folder, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("code", blocks("python"))
def test_examples(code, folder, monkeypatch):
    monkeypatch.chdir(folder)
    exec(compile(code, "README.md", "exec"), {})


def test_the_method_that_contributors_begin_with(monkeypatch):
    import torch

    from classroomkd.methods import create_method, registry

    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))
    [code] = blocks("python", (ROOT / "CONTRIBUTING.md").read_text())
    exec(compile(code, "CONTRIBUTING.md", "exec"), {})
    student, better, worse = torch.zeros(1, 3), torch.eye(3)[:1], -torch.eye(3)[:1]
    lesson = create_method("gated_aver", temperature=2)(student, [better, worse], torch.tensor([0]))
    assert lesson.active.flatten().tolist() == [True, False]
    assert lesson.temperature.unique().tolist() == [2.0]


def test_every_room_is_in_the_table():
    rooms = {p for p in (ROOT / "src" / "classroomkd").iterdir() if not p.name.startswith("__")}
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for room in rooms:
        assert f"`{room.name}{'/' if room.is_dir() else ''}`" in text, room.name


def test_recipe():
    from classroomkd.config import parse_recipe
    from classroomkd.errors import RecipeError

    [raw] = [yaml.safe_load(block) for block in blocks("yaml")]
    with pytest.raises(RecipeError) as error:
        parse_recipe({"name": "readme", **raw})
    assert [line.partition(":")[0] for line in error.value.mistakes] == [
        "mentors[0].run",
        "mentors[1].checkpoint",
    ], "nothing but the files is missing"


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"^make ([a-z-]+)", TEXT, re.M)) <= targets


def test_links_lead_somewhere():
    for document in ("README.md", "CONTRIBUTING.md", *DOCUMENTS):
        text = (ROOT / document).read_text()
        for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
            assert ((ROOT / document).parent / link).exists(), f"{document}: {link}"
