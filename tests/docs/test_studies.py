"""Tables of studies are those of their CSV files."""

import csv
import re

import pytest

from tests.docs.documents import ROOT


@pytest.mark.parametrize("study", ["baselines"])
def test_the_table_of_a_study_is_that_of_its_runs(study):
    folder = ROOT / "docs/studies" / study
    with (folder / "runs.csv").open(encoding="utf-8") as file:
        runs = {row["run"]: row for row in csv.DictReader(file)}
    text = (folder / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\| `([^`]+)` \| (\w+) \| ([\d.]+) \| (\S*) *\|", text, re.M)
    assert [run for run, *_ in shown] == list(runs)
    alone = float(runs["alone"]["last_test_top1"])
    for run, method, top1, over in shown:
        wanted = float(runs[run]["last_test_top1"])
        assert method == runs[run]["method"]
        assert top1 == f"{wanted:.2f}"
        assert over == ("" if run == "alone" else f"{wanted - alone:+.2f}")
