"""The page of a suite: its sentence says no more than its records, and it stands by itself."""

import csv
import html
import json
import re
import shutil
from html.parser import HTMLParser

import pytest

from classroomkd.config.suite import Suite, run_folder
from classroomkd.report.answer import answer, remarks
from classroomkd.report.suite import write_suite_report
from classroomkd.suite.comparison import compare
from classroomkd.suite.records import write_records

CLEAR = {"alone": (70.0, 71.0, 70.5), "kd": (75.0, 76.1, 75.4), "aver": (72.0, 72.9, 72.6)}
SAME = {"alone": (70.0, 71.0, 70.5), "kd": (70.4, 70.8, 70.7), "aver": (70.9, 70.1, 70.3)}
MENTORS = {"alone": (), "kd": ("big",), "aver": ("big", "small <b>")}


def make(out, results, against=("aver",), seeds=(0, 1, 2)):
    """A suite and the folders of its finished runs, with a curve and mentors for each."""
    suite = Suite.model_validate(
        {
            "name": "made", "baseline": "alone", "against": against, "seeds": seeds,
            "search": {"options": {"method.weight": [1, 3]}, "epochs": [2]},
            "runs": {
                name: {"base": "digits-mentor", **({"search": False} if name == "alone" else {})}
                for name in (*results, "broken")
            },
        }
    )  # fmt: skip
    for name, values in results.items():
        for seed, value in zip(seeds, values, strict=False):
            finish(run_folder(out, name, seed), name, seed, value)
        for place, (trial,) in enumerate(zip(*suite.rungs(name, out), strict=False)):
            trial.folder.mkdir(parents=True)
            best = {"best": {"dev_top1": 50.0 + place}}
            (trial.folder / "summary.json").write_text(json.dumps(best))
    write_records(suite, out)
    return suite


def finish(folder, name, seed, value):
    folder.mkdir(parents=True)
    scores = {"epoch": 1, "dev_top1": value - 2, "test_top1": value}
    summary = {
        "method": name, "student": "resnet8", "seed": seed, "mentors": MENTORS[name],
        "headline": "top1", "last": scores | {"test_top1": value - 1}, "best": scores,
    }  # fmt: skip
    environment = {"commit": "abc123", "seconds": 60.0 + seed, "hardware": "a machine"}
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "environment.json").write_text(json.dumps(environment))
    (folder / "recipe.yaml").write_text("data: {name: digits}\nmethod: {name: kd, weight: 3}\n")
    curve = [{"epoch": 0, "dev_top1": value - 9}, {"epoch": 1, "dev_top1": value - 2}]
    shares = [
        {"epoch": epoch, "mentor": mentor, "active_share": share, "weight": 0.5}
        for epoch, share in ((0, 0.9), (1, 0.3))
        for mentor in MENTORS[name]
    ]
    for file, rows in (("metrics.csv", curve), ("classroom.csv", shares)):
        if rows:
            with (folder / file).open("w", newline="") as stream:
                writer = csv.DictWriter(stream, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)


def page_of(suite, out, **given):
    return write_suite_report(suite, out, **given).read_text()


class Balance(HTMLParser):
    """Sees that every element is closed in order."""

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_a_clear_win_is_settled(tmp_path):
    suite = make(tmp_path, CLEAR)
    rows = compare(suite, tmp_path)
    assert answer(rows, "alone") == (
        "kd is best, with 75.50 ± 0.56 % test top-1: +5.00 points over the baseline alone (95 % "
        "interval [+4.75, +5.25]) and +3.00 points over aver (95 % interval [+2.50, +3.50]); "
        "3 seeds settle this (Holm's p < 0.05)."
    )
    assert html.escape(answer(rows, "alone")) in page_of(suite, tmp_path).replace("&#39;", "&#x27;")


def test_no_difference_is_not_settled(tmp_path):
    suite = make(tmp_path, SAME)
    rows = compare(suite, tmp_path)
    said = answer(rows, "alone")
    assert said.startswith("kd is best, with 70.63 ± 0.21 % test top-1: +0.13 points over")
    assert said.endswith("; 3 seeds do not settle this (Holm's p ≥ 0.05).")
    assert any(
        "half a point to alone would be overlooked" in text for text in remarks(rows, "alone")
    )


def test_one_seed_settles_nothing(tmp_path):
    suite = make(tmp_path, CLEAR, seeds=(0,))
    said = answer(compare(suite, tmp_path), "alone")
    assert said == (
        "kd is best, with 75.00 % test top-1: +5.00 points over the baseline alone and +3.00 points"
        " over aver; one seed has no interval, so the data settle nothing."
    )
    assert "interval" in page_of(suite, tmp_path)


def test_a_part_is_settled(tmp_path):
    suite = make(tmp_path, CLEAR | {"aver": (75.4, 75.2, 75.7)})
    said = answer(compare(suite, tmp_path), "alone")
    assert said.endswith("3 seeds settle the difference to alone, but not that to aver.")


def test_a_baseline_that_wins_is_said_to(tmp_path):
    suite = make(tmp_path, CLEAR | {"alone": (78.0, 79.2, 78.4)})
    said = answer(compare(suite, tmp_path), "alone")
    assert said.startswith("No run is ahead of the baseline alone, with 78.53 ± 0.61 % test top-1")
    assert "kd comes next with −3.03 points against it" in said


@pytest.mark.parametrize(
    ("results", "said"),
    [
        ({}, "No run has a result yet."),
        ({"kd": (70.0,)}, "the baseline alone has no result"),
        ({"alone": (70.0,)}, "no run of the same student has a result"),
    ],
)
def test_what_is_unfinished_is_said(tmp_path, results, said):
    suite = make(tmp_path, dict.fromkeys(CLEAR, ()) | results)
    page = page_of(suite, tmp_path)
    assert said in page
    Balance().feed(page)


def test_the_page_stands_by_itself_and_names_every_run(tmp_path):
    suite = make(tmp_path, CLEAR)
    failures = {"broken-s0": "epoch 1: <no> longer finite"}
    page = page_of(suite, tmp_path, command="classroomkd bench made.yaml", failures=failures)
    assert not re.search(r"https?:|//[a-z]|@import|@font-face|\burl\((?!#)", page)
    balance = Balance()
    balance.feed(page)
    assert balance.open == []
    for name in suite.runs:
        assert f"<td>{name}" in page
    assert "broken-s0 failed: epoch 1: &lt;no&gt; longer finite" in page
    assert "small &lt;b&gt;" in page
    assert page.count("<svg role") == 2 + 1 + 1 + 1  # references, curves, cost, search
    assert "2 of 2 epochs: 4 epochs" in page
    assert '<span class="settled">method.weight=3: 51.00</span>' in page
    assert "active 90 → 30 %" in page
    assert "abc123" in page
    assert "classroomkd bench made.yaml" in page
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert page == page_of(
        suite, tmp_path, command="classroomkd bench made.yaml", failures=failures
    )


def test_records_are_enough_where_folders_have_gone(tmp_path):
    suite = make(tmp_path, CLEAR, against=("best-single",))
    before = compare(suite, tmp_path)
    for folder in tmp_path.iterdir():
        if folder.is_dir():
            shutil.rmtree(folder)
    after = compare(suite, tmp_path)
    assert answer(after, "alone") == answer(before, "alone")
    assert [row.options for row in after] == [row.options for row in before]
    page = page_of(suite, tmp_path)
    assert page.count("<svg role") == 2 + 1 + 1  # references, cost, search: no curves
    assert '<span class="settled">method.weight=3: 51.00</span>' in page
    assert "abc123" in page
