"""What is compared with what, and the tables of it, from summaries written by hand."""

import csv
import json
import statistics

import pytest

from classroomkd.config.suite import Suite
from classroomkd.statistics import Difference, holm
from classroomkd.suite.comparison import compare
from classroomkd.suite.tables import AGAINST_HEAD, to_csv, to_json, to_latex, to_markdown

RESULTS = {  # chosen on the test set for seeds 0, 1, 2; on the development split; mentors
    "alone": ((70.0, 71.0, 72.0), 65.0, ()),
    "kd_old": ((71.0, 71.5, 73.0), 66.5, ("a",)),
    "at": ((74.0, 72.0, 76.0), 66.0, ("a",)),
    "aver": ((73.0, 74.0, 73.5), 69.0, ("a", "b")),
}


@pytest.fixture
def study(tmp_path):
    runs = {name: {"base": "digits-mentor"} for name in RESULTS}
    runs["teacher"] = {"base": "digits-mentor"}
    suite = Suite.model_validate(
        {"name": "s", "baseline": "alone", "seeds": [0, 1, 2], "runs": runs,
         "against": ["best-single", "aver"]}
    )  # fmt: skip
    for name, (chosen, dev, mentors) in {**RESULTS, "teacher": ((90.0,) * 3, 89.0, ())}.items():
        for seed, result in enumerate(chosen):
            write(tmp_path / f"{name}-s{seed}", name, seed, result, dev, mentors)
    return suite, tmp_path


def write(folder, name, seed, result, dev, mentors):
    folder.mkdir()
    student = "resnet14" if name == "teacher" else "resnet8"
    scores = {"epoch": 1, "dev_top1": dev, "test_top1": result}
    summary = {
        "method": "kd", "student": student, "seed": seed, "mentors": mentors, "headline": "top1",
        "last": scores | {"test_top1": result - 1}, "best": scores,
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "recipe.yaml").write_text("data: {name: digits}\n")


def test_references_are_the_baseline_and_the_best_single_of_the_development_split(study):
    rows = {row.run: row for row in compare(*study)}
    # at is better on the test set, but it is the development split that chooses.
    assert list(rows["at"].against) == ["alone", "kd_old", "aver"]
    assert list(rows["kd_old"].against) == ["alone", "aver"]
    assert list(rows["aver"].against) == ["alone", "kd_old"]
    assert rows["teacher"].against == {}  # another student
    assert [name for name, row in rows.items() if row.best] == ["at"]
    difference = rows["at"].against["kd_old"].difference
    assert difference == Difference((3.0, 0.5, 3.0))
    beside = {name: row.against["aver"] for name, row in rows.items() if "aver" in row.against}
    assert list(beside) == ["alone", "kd_old", "at"]
    assert [c.p_holm for c in beside.values()] == holm([c.difference.p for c in beside.values()])


def test_differences_are_paired_by_the_seeds_that_are_there(study):
    suite, out = study
    (out / "alone-s1" / "summary.json").unlink()
    rows = {row.run: row for row in compare(suite, out)}
    assert rows["at"].against["alone"].difference == Difference((4.0, 4.0))
    assert rows["at"].against["alone"].p_holm is None  # alike: no test of it


def test_markdown_has_each_comparison_and_seed(study):
    suite, out = study
    rows = compare(suite, out)
    text = to_markdown(suite, rows)
    assert "| at | resnet8 | kd | 3 | 73.00 ± 2.00 | **74.00 ± 2.00** | +3.00 |" in text
    assert "| kd_old | 0, 1, 2 | 70.00, 70.50, 72.00 | 71.00, 71.50, 73.00 |" in text
    head = f"| {' | '.join(AGAINST_HEAD)} |"
    table = text[text.index(head) :].split("\n\n")[0].splitlines()[2:]
    assert len(table) == 3 - 1 + 2 + 3 + 2
    (line,) = (line for line in table if line.startswith("| at | kd_old |"))
    difference = Difference((3.0, 0.5, 3.0))
    assert line.split(" | ")[3:5] == list(difference.parts())
    assert line.endswith(f" {difference.seeds_to_show()} |")


def test_csv_has_numbers_in_full(study):
    suite, out = study
    lines = list(csv.DictReader(to_csv(suite, compare(suite, out)).splitlines()))
    assert [(line["run"], line["against"]) for line in lines if line["run"] in ("at", "teacher")] == [
        ("at", "alone"), ("at", "kd_old"), ("at", "aver"), ("teacher", "")
    ]  # fmt: skip
    line = next(line for line in lines if (line["run"], line["against"]) == ("at", "kd_old"))
    difference = Difference((3.0, 0.5, 3.0))
    assert float(line["chosen_sd"]) == statistics.stdev((74.0, 72.0, 76.0))
    assert [float(value) for value in line["chosen_values"].split()] == [74.0, 72.0, 76.0]
    for key, value in {
        "difference": difference.mean, "interval_low": difference.interval[0],
        "bootstrap_high": difference.bootstrap[1], "p": difference.p,
        "seeds_needed": difference.seeds_to_show(),
    }.items():  # fmt: skip
        assert float(line[key]) == value


def test_json_agrees_with_csv(study):
    suite, out = study
    rows = compare(suite, out)
    plain = json.loads(json.dumps(to_json(suite, rows)))
    (at,) = (run for run in plain["runs"] if run["run"] == "at")
    assert [beside["against"] for beside in at["against"]] == ["alone", "kd_old", "aver"]
    assert at["against"][1]["values"] == [3.0, 0.5, 3.0]


def test_latex_marks_the_best_and_escapes_the_rest(study):
    suite, out = study
    lines = to_latex(suite, compare(suite, out)).splitlines()
    assert lines[1] == r"\begin{tabular}{lllrrrrrr}"
    assert r"95 \%" in lines[3]
    rows = [line for line in lines if line.endswith(r"\\")][1:]
    assert [line for line in rows if "textbf" in line] == [rows[2]]
    assert rows[2].startswith(
        r"at & resnet8 & kd & 3 & 73.00 $\pm$ 2.00 & \textbf{74.00 $\pm$ 2.00}"
    )
    assert rows[1].startswith(r"kd\_old & ")
    assert all(line.count("&") == 8 for line in rows)
    assert "–" not in "".join(rows)
    assert "−" not in "".join(rows)
