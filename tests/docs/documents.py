"""What a document promises: its fenced blocks, in order, each as tests that keep the promise.

The language of a block says what becomes of it: ``bash`` is run, line by line, ``python`` is
executed, and ``yaml`` is checked as a recipe, a suite or a part of a recipe. ``sh`` is what takes
hours, a download or a GPU: its lines are checked, not run. ``text`` is for reading alone.
"""

import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from classroomkd.cli import main
from classroomkd.config import load_recipe, parse_recipe
from classroomkd.config.suite import list_suites, load_suite
from classroomkd.errors import RecipeError
from classroomkd.recipes.lineups import published_name

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    *sorted(f"docs/{p.name}" for p in ROOT.glob("docs/*.md")),
]
LANGUAGES = {"bash", "python", "yaml", "sh", "text"}

# To see that a command works, one epoch is enough, and one seed.
ONE_EPOCH = ["train.epochs=1"]
QUICK = {
    "train": ONE_EPOCH,
    "bank build": ONE_EPOCH,
    "bank verify": ONE_EPOCH,
    "bench": [*ONE_EPOCH, "--seeds", "0"],
}


class Promise(NamedTuple):
    """A block of a document, or a line of a shell's block."""

    language: str
    text: str

    def __str__(self) -> str:
        first = self.text.strip().splitlines()[0]
        return f"{self.language}: {first[:90]}"


def blocks(document: str, language: str = r"\w*") -> list[Promise]:
    """The fenced blocks of a document, without the indentation that a list gives them."""
    text = (ROOT / document).read_text(encoding="utf-8")
    found = re.findall(rf"^( *)```({language})\n(.*?)^ *```", text, re.M | re.S)
    return [
        Promise(name, re.sub(f"^{indent}", "", body, flags=re.M)) for indent, name, body in found
    ]


def promises(document: str) -> list[Promise]:
    """Blocks in their order, those of a shell line by line."""
    lines = []
    for block in blocks(document):
        if block.language in ("bash", "sh"):
            joined = block.text.replace("\\\n", " ")
            lines += [Promise(block.language, line) for line in joined.splitlines() if line]
        elif block.language != "text":
            lines.append(block)
    return lines


def kept(document: str):
    """A decorator: the test runs once for each promise of a document."""
    return pytest.mark.parametrize("promise", promises(document), ids=str)


def keep(promise: Promise) -> None:
    """Do what a promise says, in the current folder, and fail if it does not work."""
    {"bash": _run, "python": _execute, "yaml": _check_yaml, "sh": _check_line}[promise.language](
        promise.text
    )


def classroomkd(*arguments: str) -> int:
    """The exit code of the program, in this process: to start another takes seconds."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(sys, "argv", ["classroomkd", *arguments])
        main()
        raise SystemExit(0)
    return end.value.code or 0


def _run(line: str) -> None:
    program, *arguments = shlex.split(line, comments=True)
    assert program == "classroomkd"
    command = " ".join(arguments[: 2 if arguments[0] == "bank" else 1])
    given = {argument.partition("=")[0] for argument in arguments}
    more = [extra for extra in QUICK.get(command, []) if extra.partition("=")[0] not in given]
    assert classroomkd(*arguments, *more) == 0


def _execute(code: str) -> None:
    exec(compile(code, "document", "exec"), {"__name__": "document"})


def _check_yaml(text: str) -> None:
    """A recipe or a suite without mistakes but that its files are elsewhere; parts are completed."""
    raw = yaml.safe_load(text)
    if isinstance(raw, dict) and "runs" in raw:
        Path("suite.yaml").write_text(text)
        assert not _mistakes(lambda: load_suite("suite.yaml"))
        return
    sections = {"mentors": raw} if isinstance(raw, list) else raw
    whole = {"name": "document", "student": {"model": "resnet8"}, **sections}
    if "method" not in whole and "mentors" not in whole:
        whole["method"] = {"name": "none"}
    elif "mentors" not in whole:
        whole["mentors"] = [{"model": "torchvision/resnet18", "pretrained": True}]
    assert not _mistakes(lambda: parse_recipe(whole))


def _check_line(line: str) -> None:
    program, *arguments = shlex.split(line, comments=True)
    if program == "python" and arguments[0] == "-m":
        assert (ROOT / arguments[1].replace(".", "/")).with_suffix(".py").is_file(), line
    elif program == "python" or program.startswith("examples/"):
        assert (ROOT / (arguments[0] if program == "python" else program)).is_file(), line
    elif program in ("classroomkd", "torchrun"):
        _check_command(arguments[arguments.index("classroomkd") + 1 :] if program == "torchrun" else arguments)  # fmt: skip
    else:
        assert program in ("export", "pip", "make", "git"), line


def _check_command(arguments: list[str]) -> None:
    command, name, *rest = arguments
    published = "--published" in rest
    overrides = [a for a in rest if "=" in a and not a.startswith("-")]
    name = str(ROOT / name) if name.startswith("examples/") else name
    if command == "bench":
        assert name in list_suites() or Path(name).suffix == ".yaml"
        assert not _mistakes(lambda: load_suite(name, overrides, published=published))
    else:
        assert command in ("train", "doctor", "plan", "bank")
        recipe = published_name(name) if published else name
        assert not _mistakes(lambda: load_recipe(recipe, overrides))


def _mistakes(read: Callable[[], object]) -> list[str]:
    """What is wrong with a recipe or a suite, but that files of it are elsewhere."""
    try:
        read()
    except RecipeError as error:
        return [line for line in error.mistakes if "no such file" not in line]
    return []
