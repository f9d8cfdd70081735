"""Write docs/cards.md: a card for each method, from its docstring, its options and the tables.

python docs/make_cards.py
"""

import csv
import inspect
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from classroomkd.catalogue import method_needs
from classroomkd.methods import Method, list_methods, method_class, method_options
from classroomkd.methods.published import entries

DOCS = Path(__file__).parent
TABLES = DOCS / "tables"
SOURCES = {
    "RepDistiller": "HobbitLong/RepDistiller",
    "ITRD": "roymiles/ITRD",
    "KD via ND": "WangYZ1608/Knowledge-Distillation-via-ND",
    "mdistiller": "megvii-research/mdistiller",
    "LSKD": "sunshangquan/logit-standardization-KD",
    "CTKD": "zhengli97/CTKD",
    "DIST": "hunto/DIST_KD",
    "SHAKE": "lilujunai/SHAKE",
}
HEAD = """\
# Method cards

Written by `python docs/make_cards.py`; do not edit. Each card has what a method computes, where
it comes from and in what it deviates, its options, and four kinds of facts:

- **Cost**: its own forward and backward pass over the student's step, by
  `python -m benchmarks.costs` ([conditions](results.md#what-a-method-costs)).
- **Strength**: the norm of the gradient of all that it adds to the task, over that of the
  cross-entropy at weight 1, by `python -m benchmarks.strength`: a resnet8 that begins ("fresh") and
  one after three epochs alone ("trained"), on scikit-learn's digits, with the usual options,
  after any warm-up, in a batch of 64, with adapters and memories as they begin. On the student's
  *logits*, where a loss on features alone has no gradient, and on all its *parameters*, which
  every loss reaches. Mentors here are sure of ten classes: with more classes and a teacher less
  sure the numbers of methods on logits are lower. Pose methods are measured on drawn joints, on
  the student's outputs, beside their task. A strength is no merit: it says what a weight stands
  for, and which methods need theirs changed when they are put together.
- **Published**: CIFAR-100 top-1 in percent, 240 epochs of the CRD benchmark, all 50,000 training
  images, where a public README or log has it. Ours are not comparable with these.
- **Here**: one seed, four epochs, resnet8 from a resnet32 or from four mentors: a test of sanity,
  not a ranking. Of repaired and new methods, and some to compare with, from the study of the
  [baselines](studies/README.md) (alone 26.9); of the others from the table of
  [results.md](results.md), with better mentors (alone 27.1).

At the start of a run, and by `classroomkd doctor`, you are warned if the mentors' gradient on the
student's parameters is more than 20 times the task's where a recipe chooses options (200 times
for usual ones), or less than a fiftieth of it.
"""
GROUPS = {
    "No mentor": lambda cls: cls.num_mentors == 0,
    "Poses": lambda cls: cls.kind == "pose",
    "Mentors that train along": lambda cls: cls.kind == "online",
    "Several mentors": lambda cls: cls.num_mentors == "many",
    "One teacher, by its logits": lambda cls: not cls.needs_features,
    "One teacher, by its features": lambda cls: True,
}


def page() -> str:
    """The whole page."""
    groups: dict[str, list[str]] = {title: [] for title in GROUPS}
    for name in list_methods():
        cls = method_class(name)
        if not cls.__module__.startswith("classroomkd."):
            continue
        title = next(title for title, belongs in GROUPS.items() if belongs(cls))
        groups[title].append(name)
    parts = [HEAD, "## Published numbers: the pairs\n\n" + "\n".join(_pairs())]
    for title, names in groups.items():
        parts.append(f"## {title}")
        parts += [card(name) for name in names]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def card(name: str) -> str:
    """One method's card."""
    cls = method_class(name)
    text, meanings = read_docstring(inspect.cleandoc(cls.__doc__ or ""))
    year = f" ({cls.year})" if cls.year else ""
    parts = [
        f"### `{name}`: {cls.title}{year}",
        f"*{cls.kind}; {', '.join(method_needs(cls))}*",
        text,
        "\n".join(_options(name, meanings)),
        "\n".join(_facts(name, cls)),
    ]
    return "\n\n".join(part for part in parts if part)


def read_docstring(docstring: str) -> tuple[str, dict[str, str]]:
    """A docstring's text as Markdown, without its sections, and the meaning of each option.

    Formulas become display mathematics, and ``Args:`` and ``Example:`` are taken out of the text.
    """
    kept: list[str] = []
    meanings: dict[str, str] = {}
    section, option = "", ""
    for line in docstring.splitlines():
        inside = line.startswith("    ") or not line.strip()
        if re.fullmatch(r"(Args|Example|Attributes|Raises|Returns):", line):
            section = line
        elif section and not inside:
            section = ""
        if section == "Args:" and (found := re.match(r"    (\w[\w, ]*): (.*)", line)):
            option = found[1]
            meanings[option] = found[2]
        elif section == "Args:" and option and line.strip() and not line.endswith("Args:"):
            meanings[option] += " " + line.strip()
        elif not section:
            kept.append(line)
    text = "\n".join(_mathematics(kept))
    flat = {one.strip(): value for names, value in meanings.items() for one in names.split(",")}
    text = _quoted(re.sub(r"\n{3,}", "\n\n", text).strip())
    return text, {option: _quoted(meaning) for option, meaning in flat.items()}


def _mathematics(lines: list[str]) -> Iterator[str]:
    """The lines with each ``.. math::`` directive as display mathematics."""
    formula = False
    for line in lines:
        if line.startswith(".. math::"):
            if formula:
                yield "$$"
            formula = True
            yield from ("$$", line.removeprefix(".. math::").strip())
        elif formula and line.startswith("    ") and line.strip():
            yield line.strip()
        elif formula and line.strip():
            formula = False
            yield from ("$$", "", line)
        elif not formula:
            yield line
    if formula:
        yield "$$"


def _quoted(text: str) -> str:
    return text.replace("``", "`")


def _options(name: str, meanings: dict[str, str]) -> Iterator[str]:
    fields = method_options(name).model_fields
    if fields:
        yield from ("| option | default | meaning |", "|---|---|---|")
    for option, field in fields.items():
        meaning = meanings.get(option, "").replace("|", "\\|")
        yield f"| `{option}` | `{field.default}` | {meaning} |"


def _facts(name: str, cls: type[Method]) -> Iterator[str]:
    notes = tomllib.loads((TABLES / "notes.toml").read_text())
    if name in notes:
        yield f"- **When**: {notes[name]}"
    for entry in entries(name):
        options = ", ".join(f"`{option}` {value}" for option, value in entry.options.items())
        scope = entry.scope.replace("->", "→").replace("*/", "")
        yield f"- **Published options**, {scope}: {options} ({entry.source})."
    if cls.kind != "pose":  # what it costs is measured on classes
        yield from _cost(name)
    yield from _strength(name)
    published = [row for row in rows("published") if row["method"] == name]
    if published:
        numbers = ", ".join(f"{_arrow(row['pair'])} {row['top1']}" for row in published)
        sources = ", ".join(dict.fromkeys(_link(row["source"]) for row in published))
        said = "; ".join(dict.fromkeys(row["note"] for row in published if row["note"]))
        yield f"- **Published**: {numbers} ({sources}{'; ' + said if said else ''})."
    study = studied(name)
    for row in rows("lineup") if not study else ():
        if row["run"] == name and row["over_alone"]:
            yield f"- **Here**: {row['top1']}, {row['over_alone']} over the student alone."
    if study:
        runs = "; ".join(f"`{run}` {top1:.2f}, {over:+.2f}" for run, top1, over in study)
        yield f"- **Here**, over the student alone ([baselines](studies/README.md)): {runs}."


def studied(name: str) -> list[tuple[str, float, float]]:
    """A method's runs in the study of the baselines: name, top-1, and over the student alone."""
    with (DOCS / "studies/baselines/runs.csv").open(encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    [alone] = [float(row["last_test_top1"]) for row in found if row["run"] == "alone"]
    tops = [(row["run"], float(row["last_test_top1"])) for row in found if row["method"] == name]
    return [(run, top, top - alone) for run, top in tops if run != "alone"]


def _cost(name: str) -> Iterator[str]:
    for row in rows("costs"):
        if row["method"] == name:
            count = int(row["mentors"])
            mentors = f" with {count} mentor{'s' * (count > 1)}" if count else ""
            own = int(row["parameters"])
            trained = f"; {own:,} parameters of its own" if own else ""
            step = f"{row['percent_of_step']} % of the step of {row['student']}"
            yield f"- **Cost**: {step}{mentors}{trained}."


def _strength(name: str) -> Iterator[str]:
    found = [row for row in rows("strength") if row["method"] == name]
    if not found:
        return

    def numbers(student: str, place: str) -> str:
        return " / ".join(row[place] for row in found if row["student"] == student)

    counts = list(dict.fromkeys(row["mentors"] for row in found))
    students = "; ".join(
        f"{who} {numbers(who, 'logits')} on the outputs"
        if not found[0]["parameters"]
        else f"{who} {numbers(who, 'logits')} on the logits,"
        f" {numbers(who, 'parameters')} on the parameters"
        for who in ("fresh", "trained")
    )
    mentors = f"{' / '.join(counts)} mentor{'s' * (len(counts) > 1)}"
    yield f"- **Strength**, from {mentors}: {students}."


def _pairs() -> Iterator[str]:
    """Teacher and student alone of each pair."""
    alone = [row for row in rows("published") if row["method"] in ("teacher", "student")]
    yield from ("| teacher → student | teacher | student alone |", "|---|---|---|")
    for pair in dict.fromkeys(row["pair"] for row in alone):
        found = {row["method"]: row["top1"] for row in alone if row["pair"] == pair}
        yield f"| {_arrow(pair)} | {found['teacher']} | {found['student']} |"


def _arrow(pair: str) -> str:
    return pair.replace(">", " → ")


def _link(source: str) -> str:
    return f"[{source}](https://github.com/{SOURCES[source]})"


def rows(table: str) -> list[dict[str, str]]:
    """A table of docs/tables."""
    with (TABLES / f"{table}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    (DOCS / "cards.md").write_text(page())
