"""The report: what it says is what the run folders hold, and the page stands by itself."""

import html
import json
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from classroomkd.config import parse_recipe
from classroomkd.engine.runs import RunFolder
from classroomkd.errors import ClassroomError
from classroomkd.report import read_runs, student_table, students, words, write_report
from classroomkd.report.table import student_rows

NAN = float("nan")


def make_run(
    path,
    *,
    top1=90.0,
    last=None,
    method=None,
    mentors=(),
    shares=None,
    seed=0,
    student="resnet8",
    epochs=4,
):
    """A finished run folder. `mentors` are names, the first one a teacher; `shares` by mentor."""
    weights = path.parent / "mentor.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    weights.touch()
    recipe = parse_recipe(
        {
            "name": "made",
            "seed": seed,
            "data": {"name": "digits", "dev": 0.2},
            "student": {"model": student},
            "mentors": [
                {
                    "checkpoint": str(weights),
                    "model": "resnet20",
                    "name": name,
                    "role": "peer" if n else "teacher",
                }
                for n, name in enumerate(mentors)
            ],
            "method": method or {"name": "classroom" if mentors else "none"},
            "train": {"epochs": epochs},
        }
    )
    run = RunFolder(path)
    run.prepare(recipe, fresh=True)
    run.write_json(
        "environment.json",
        {
            "started": "2026-01-01T00:00:00+00:00",
            "python": "3.11.7",
            "platform": "Linux",
            "packages": {"torch": "2.15.0"},
            "device": "cpu",
            "hardware": "a <fast> machine",
            "threads": 1,
            "seed": seed,
            "training_samples": 1078,
            "development_samples": 269,
        },
    )
    shares = shares or {}
    for epoch in range(epochs):
        metrics = {"loss": 2.0 / (epoch + 1), "task_loss": 1.0, "dev_top1": 80.0 + epoch}
        run.append("metrics.csv", epoch, [metrics])
        rows = []
        for name in mentors:
            share = shares.get(name, [0.5] * epochs)[epoch]
            taught = 0.25 if share else NAN
            rows.append(
                {
                    "mentor": name,
                    "active_share": share,
                    "weight": taught,
                    "gap": taught,
                    "temperature": 4 * taught,
                    "score": 0.8,
                    "loss": 0.1,
                }
            )
        run.append("classroom.csv", epoch, rows)

    def judged(epoch, value):
        scores = {"test_top5": 99.25, "test_nll": 0.2345, "test_ece": 3.21}
        return {"epoch": epoch, "dev_top1": 83.1234, "test_top1": value, **scores}

    run.write_json(
        "summary.json",
        {
            "name": "made",
            "method": recipe.method.name,
            "student": student,
            "seed": seed,
            "mentors": list(mentors),
            "last": judged(epochs - 1, top1 if last is None else last),
            "best": judged(epochs - 2, top1),
        },
    )
    return path


def page_of(runs, out):
    return write_report(runs, out).read_text(encoding="utf-8")


def said(page):
    """The page's words, without markup."""
    body = page[page.index("<body>") :]
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", " ", body)))


def verdict_on(runs):
    """What the page says first, without drawing it."""
    verdicts = words.verdicts(student_rows(read_runs(runs)))
    return " ".join(text for verdict in verdicts for text in (verdict.headline, *verdict.remarks))


@pytest.fixture
def two_runs(tmp_path):
    alone = make_run(tmp_path / "alone", top1=90.12, last=89.37)
    taught = make_run(tmp_path / "taught", top1=92.34, last=91.56, mentors=("Ada", "Bob"))
    return [alone, taught]


def test_page_loads_nothing(two_runs, tmp_path):
    page = page_of(two_runs, tmp_path / "report.html")
    assert not re.search(r"https?:|//[a-z]|@import|@font-face|\burl\((?!#)", page)
    assert not re.search(r"<(script|link|img|iframe|object|embed)\b", page)
    assert not re.search(r"\b(src|srcset|xlink:href|on\w+)=", page)
    assert all(ref.startswith("#") for ref in re.findall(r'href="([^"]*)"', page))
    assert len(page.encode()) < 300_000


def test_numbers_are_those_of_the_summaries(two_runs, tmp_path):
    page = page_of(two_runs, tmp_path / "report.html")
    table = re.search(r"<tbody>(.*?)</tbody>", page, re.DOTALL)
    assert table
    rows = table.group(1).strip().splitlines()
    for run, row in zip(two_runs, rows, strict=True):
        summary = json.loads((run / "summary.json").read_text())
        cells = re.findall(r'<td class="n[^"]*">(.*?)</td>', row)
        best = summary["best"]
        assert cells[0] == f"{summary['last']['test_top1']:.2f}"
        assert cells[1] == f"{best['test_top1']:.2f}"
        assert cells[3:] == [
            f"{best['dev_top1']:.2f}",
            f"{best['test_top5']:.2f}",
            f"{best['test_nll']:.3f}",
            f"{best['test_ece']:.2f}",
        ]
    assert '<td class="n">+2.22</td>' in rows[1]
    assert "2.22 points above the student alone (90.12 %)" in said(page)
    assert "At the last epoch instead of the chosen one, it is +2.19 points." in said(page)


def test_everything_from_users_is_escaped(tmp_path):
    evil = "<script>alert('x')</script>"
    run = make_run(tmp_path / "<img src=x onerror=y>", mentors=(evil, 'a"b&c'))
    page = page_of([run], tmp_path / "report.html")
    assert "<script" not in page
    assert "<img" not in page
    assert "a <fast> machine" not in page
    assert evil in said(page)
    assert 'aria-label="Active share, % over epochs: &lt;script&gt;' in page
    assert "&quot;b&amp;c" in page


def test_a_mentor_that_taught_nobody_is_a_gap_and_is_told(tmp_path):
    shares = {"Ada": [0.9, 0.0, 0.7, 0.6], "Bob": [0.2, 0.0, 0.0, 0.0], "Eve": [0.9, 1, 1, 0.995]}
    run = make_run(tmp_path / "run", mentors=("Ada", "Bob", "Eve"), shares=shares)
    page = page_of([run], tmp_path / "report.html")
    assert "nan" not in said(page).lower().split()
    assert "Bob taught almost nobody (0.00 % of the samples in the last epoch)" in said(page)
    assert "it costs time and gives nothing" in said(page)
    assert "Eve taught on nearly every sample of the last epoch (99.50 %)" in said(page)
    assert not re.search(r"Ada taught", said(page))
    gap = re.search(r'aria-label="Mean gap.*?</svg>', page, re.DOTALL)
    assert gap
    assert "nan" not in gap.group().lower()
    # Ada: a dot before the gap and a line after it; Bob: a dot; Eve: a line
    assert len(re.findall(r'<use [^>]*style="fill: var\(--line-', gap.group())) == 2


def test_no_mentor_ever_filtered(tmp_path):
    shares = {"Ada": [1.0] * 4, "Bob": [1.0] * 4}
    run = make_run(tmp_path / "run", mentors=("Ada", "Bob"), shares=shares, method={"name": "aver"})
    assert "Every mentor taught on every sample" in said(page_of([run], tmp_path / "r.html"))


def test_nobody_taught_at_all(tmp_path):
    run = make_run(tmp_path / "run", mentors=("Ada",), shares={"Ada": [0.0] * 4})
    assert "nobody taught" in page_of([run], tmp_path / "report.html")


def test_two_writes_are_equal(two_runs, tmp_path):
    first = write_report(two_runs, tmp_path / "one.html").read_bytes()
    second = write_report(two_runs, tmp_path / "deep" / "two.html").read_bytes()
    assert first == second


def test_ids_are_unique_and_every_reference_has_one(tmp_path):
    runs = [make_run(tmp_path / f"run{n}", mentors=("Ada", "Bob"), seed=n) for n in range(2)]
    page = page_of(runs, tmp_path / "report.html")
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids)) > 0
    assert set(re.findall(r'(?:href="|url\()#([^")]*)', page)) <= set(ids)


def test_seeds_make_one_row(tmp_path):
    values = (90.0, 91.5, 92.1)
    runs = [make_run(tmp_path / f"s{n}", top1=v, seed=n) for n, v in enumerate(values)]
    other = make_run(tmp_path / "other", mentors=("Ada",), top1=95.0)
    rows = students([*runs, other])
    assert [len(row.records) for row in rows] == [3, 1]
    expected = f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"
    assert rows[0].chosen.text() == expected
    assert rows[1].difference == pytest.approx(95 - statistics.mean(values))
    page = said(page_of([*runs, other], tmp_path / "report.html"))
    assert expected in page
    assert "n = 3" in page
    for value in values:
        assert f"{value:.2f}" in page


@pytest.mark.parametrize(
    ("alone", "taught", "claim"),
    [
        (90.0, 90.3, "too little to mean anything with one seed"),
        (90.0, 93.0, "3.00 points above the student alone (90.00 %) (one seed only)"),
        (92.0, 90.0, "no method beats the student alone"),
        (90.0, 90.0, "is equal to the student alone"),
    ],
)
def test_verdict_claims_no_more_than_the_numbers(tmp_path, alone, taught, claim):
    runs = [
        make_run(tmp_path / "alone", top1=alone),
        make_run(tmp_path / "taught", top1=taught, mentors=("Ada",)),
    ]
    page = verdict_on(runs)
    assert claim in page
    assert "One seed: differences of a few tenths mean nothing." in page


def test_verdict_over_seeds(tmp_path):
    runs = []
    for seed in range(3):
        runs += [
            make_run(tmp_path / f"alone{seed}", top1=90 + seed, seed=seed),
            make_run(
                tmp_path / f"near{seed}", top1=90.4 + seed * seed, seed=seed, mentors=("Ada",)
            ),
            make_run(tmp_path / f"far{seed}", top1=85 + seed / 10, seed=seed, student="resnet14"),
            make_run(
                tmp_path / f"far-taught{seed}",
                top1=88 + seed / 10,
                seed=seed,
                student="resnet14",
                mentors=("Ada",),
            ),
        ]
    page = verdict_on(runs)
    near, far = page.index("resnet8 on digits:"), page.index("resnet14 on digits:")
    assert "no more than seeds differ" in page[near:far]
    assert "3.00 points above the student alone (85.10 ± 0.10 %)." in page[far:]
    assert "One seed" not in page


def test_a_loss_of_classroomkd_is_said(two_runs, tmp_path):
    better = make_run(tmp_path / "aver", top1=94, mentors=("Ada", "Bob"), method={"name": "aver"})
    page = verdict_on([*two_runs, better])
    assert "ClassroomKD loses: classroom with 92.34 % is 1.66 points below aver" in page


def test_no_student_alone(tmp_path):
    run = make_run(tmp_path / "taught", mentors=("Ada",))
    assert "cannot be told" in verdict_on([run])
    assert students([run])[0].difference is None


def test_a_student_alone_that_was_trained_otherwise_is_marked(tmp_path):
    runs = [
        make_run(tmp_path / "alone", epochs=3),
        make_run(tmp_path / "taught", top1=95.0, mentors=("Ada",)),
    ]
    page = said(page_of(runs, tmp_path / "report.html"))
    assert "+5.00*" in page
    assert "not trained alike: train.epochs" in page


def test_equal_names_are_told_apart_and_a_run_counts_once(tmp_path):
    runs = [make_run(tmp_path / "a" / "run"), make_run(tmp_path / "b" / "run", seed=1)]
    records = students([*runs, runs[0], tmp_path / "a" / ".." / "a" / "run"])[0].records
    assert [record.label for record in records] == [str(run) for run in runs]


def test_command_to_train_again_is_quoted(tmp_path):
    run = make_run(tmp_path / "my run")
    [record] = read_runs([run])
    assert record.command == (f"classroomkd train '{run}/recipe.yaml' --out '{run}-again'")


def test_reads_runs_whose_mentors_are_elsewhere(tmp_path):
    run = make_run(tmp_path / "run", mentors=("Ada",))
    (tmp_path / "mentor.safetensors").unlink()
    assert students([run])[0].first.roles == {"Ada": "teacher"}


def test_a_folder_takes_report_html(two_runs):
    assert write_report(two_runs[:1], two_runs[1]) == two_runs[1] / "report.html"


def test_unfinished_runs_are_errors(two_runs, tmp_path):
    run = two_runs[1]
    with pytest.raises(
        ClassroomError, match=r"no such run folder: .*tought.*did you mean 'taught'"
    ):
        students([tmp_path / "tought"])
    with pytest.raises(ClassroomError, match="at least one"):
        students([])
    (run / "summary.json").write_text('{"mentors": [], "last": {}}')
    with pytest.raises(ClassroomError, match=r"taught cannot be read .*'test_top1' is missing"):
        students([run])
    (run / "summary.json").unlink()
    with pytest.raises(ClassroomError, match=r"taught has no summary.json: not finished.*--resume"):
        write_report([run], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
    (run / "recipe.yaml").unlink()
    with pytest.raises(ClassroomError, match="not a run folder: it has no recipe.yaml"):
        students([run])


@pytest.mark.parametrize("name", ["environment.json", "metrics.csv"])
def test_incomplete_runs_are_errors(tmp_path, name):
    run = make_run(tmp_path / "run")
    (run / name).unlink()
    with pytest.raises(ClassroomError, match=f"run is not a complete run folder: it has no {name}"):
        students([run])


def test_table_for_the_terminal(two_runs, tmp_path):
    odd = make_run(tmp_path / "odd", mentors=("[red]Ada[/nothing]",), top1=91)
    console = Console(width=120, record=True, file=(tmp_path / "out").open("w"))
    console.print(student_table([*two_runs, odd]))
    text = console.export_text()
    console.file.close()
    assert "[red]Ada[/nothing]" in text
    for number in ("90.12", "89.37", "92.34", "+2.22", "+0.88"):
        assert number in text


def test_importing_the_report_needs_no_torch():
    code = "import sys, classroomkd.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_template_is_part_of_the_package():
    import classroomkd.report

    assert (Path(classroomkd.report.__file__).parent / "page.html.j2").is_file()


def test_a_small_test_set_is_told_with_what_it_can_tell(two_runs):
    assert "The test set has" not in verdict_on(two_runs)
    for run in two_runs:
        folder = RunFolder(run)
        folder.write_json("summary.json", {**folder.read_json("summary.json"), "test_samples": 96})
    share = 0.9234
    margin = 196 * (share * (1 - share) / 96) ** 0.5
    assert (
        f"The test set has 96 images: each result on it is known to about ±{margin:.1f} points"
        in (verdict_on(two_runs))
    )
