"""The command line: what it does, how it fails, how fast it answers."""

import errno
import json
import re
import subprocess
import sys

import pytest

from classroomkd.cli import main


@pytest.fixture
def cli(monkeypatch, capsys):
    """Run the command line in this process: (exit code, stdout, stderr)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["classroomkd", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
            raise SystemExit(0)
        out, err = capsys.readouterr()
        return end.value.code or 0, out, err

    return run


@pytest.fixture
def recipe(digits_recipe, tmp_path):
    path = tmp_path / "quick.yaml"
    path.write_text(digits_recipe().to_yaml())
    return path


def test_train_eval_report(cli, recipe, tmp_path):
    out = tmp_path / "run"
    code, text, err = cli("train", recipe, "seed=3", "--out", out)
    assert (code, "report.html" in text) == (0, True), err
    assert (out / "report.html").exists()
    summary = json.loads((out / "summary.json").read_text())
    assert summary["seed"] == 3

    code, text, _ = cli("eval", out, "--json")
    assert code == 0
    assert json.loads(text)["top1"] == pytest.approx(summary["best"]["test_top1"], abs=1e-3)
    code, text, _ = cli("eval", out, "--last", "--split", "dev")
    assert "digits dev" in text

    code, text, _ = cli("report", out, "--out", tmp_path / "page.html")
    assert (code, "resnet8" in text) == (0, True)
    assert (tmp_path / "page.html").exists()

    code, _, err = cli("train", recipe, "--out", out)
    assert code == 1
    assert "--overwrite" in err


def test_doctor_finds_what_is_wrong(cli, recipe):
    code, text, err = cli("doctor", recipe)
    assert code == 1
    assert "near chance" in text
    assert "wrong" in err


def test_doctor_is_content_with_trained_mentors(cli, digits_recipe, tmp_path):
    from classroomkd.engine.run import train

    alone = digits_recipe(
        method={"name": "none"}, mentors=[], student={"model": "resnet14"},
        train={"epochs": 6, "batch_size": 64},
    )  # fmt: skip
    train(alone, tmp_path / "mentor", progress=False, say=lambda _: None)
    path = tmp_path / "good.yaml"
    mentor = {"run": str(tmp_path / "mentor")}
    path.write_text(digits_recipe(mentors=[mentor]).to_yaml())
    code, text, err = cli("doctor", path, "method.task_weight=1")
    assert code == 0, text + err
    assert "verdict: ready to train" in text
    path.write_text(digits_recipe(mentors=[mentor, mentor]).to_yaml())
    _, text, _ = cli("doctor", path)
    assert "mentor, mentor-2: say the same" in text


def test_every_mistake_of_a_recipe_is_listed(cli, recipe):
    code, _, err = cli("train", recipe, "student.model=resnet9", "train.epochs=0", "methd.name=kd")
    assert code == 2
    assert "3 mistakes" in err
    for piece in ("student.model", "'resnet8'", "train.epochs", "did you mean 'method'?"):
        assert piece in err
    code, _, err = cli("train", "digits-clasroom")
    assert code == 2
    assert "did you mean 'digits-classroom'?" in err


def test_runtime_failures_say_what_to_do(cli, tmp_path):
    code, _, err = cli("eval", tmp_path)
    assert code == 1
    assert err.startswith("error: ")
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("methods", "ClassroomKD"), ("models", "resnet8x4"), ("datasets", "cifar100"), ("recipes", "digits-classroom"), ("lineups", "cifar100/wrn_40_1-1t5p"), ("suites", "takd")],
)  # fmt: skip
def test_list(cli, kind, expected):
    code, text, _ = cli("list", kind)
    assert code == 0
    assert expected in text


def test_the_published_protocol_is_for_line_ups(cli):
    code, _, err = cli("train", "digits-mentor", "--published")
    assert code == 2
    assert "digits-mentor is no line-up: --published is for recipes that `classroomkd list" in err
    code, _, err = cli("train", "cifar100/vgg8-1t0p", "--published")
    assert code == 2
    assert "`classroomkd train cifar100/vgg13 --published` makes it" in err


def test_a_run_without_the_test_set_ends_with_its_development_split(cli, tmp_path):
    quick = ("student.model=resnet8", "train.epochs=1", "train.batch_size=256", "train.test=false")
    code, text, _ = cli("train", "digits-mentor", *quick, "--out", tmp_path / "run")
    assert code == 0
    dev = json.loads((tmp_path / "run" / "summary.json").read_text())["last"]["dev_top1"]
    assert f"last epoch 1: dev top-1 {dev:.2f} %" in text
    assert not (tmp_path / "run" / "report.html").exists()


def test_bench_runs_a_suite_and_shows_it_again(cli, tmp_path):
    path, out = tmp_path / "two.yaml", tmp_path / "out"
    path.write_text(
        "base: digits-mentor\nset: [student.model=resnet8]\nbaseline: alone\n"
        "runs:\n  alone: {}\n  bad: {set: [train.optimizer.lr=1.0e+30]}\n"
    )
    quick = ("train.epochs=1", "train.batch_size=256")
    code, text, err = cli("bench", path, *quick, "--out", out)
    assert code == 1
    assert err.startswith("error: 1 run failed\n  bad-s0: epoch 1: the loss is no longer finite")
    assert "alone-s0: epoch 1/1" in text
    assert "report.html" in text
    assert "bad-s0 failed: epoch 1" in (out / "report.html").read_text()
    shown, values = tmp_path / "shown" / "table.md", tmp_path / "table.json"
    numbers, tex = tmp_path / "table.csv", tmp_path / "table.tex"
    files = ("--markdown", shown, "--json", values, "--csv", numbers, "--latex", tex)
    code, again, _ = cli("bench", "suite", path, "--table", "--out", out, *files)
    assert code == 0
    assert "epoch 1/1" not in again
    top1 = json.loads((out / "alone-s0" / "summary.json").read_text())["last"]["test_top1"]
    assert f"{top1:.2f}" in again
    assert f"| alone | resnet8 | none | 1 | {top1:.2f} |" in shown.read_text()
    assert json.loads(values.read_text())["runs"][0]["last"]["values"] == [top1]
    assert f"two,alone,resnet8,none,,1,{top1}," in numbers.read_text()
    assert r"\begin{tabular}" in tex.read_text()
    code, dry, _ = cli("bench", path, *quick, "--out", out, "--dry-run", "--only", "alone,bad")
    assert code == 0
    assert dry.splitlines()[0] == "   0 epochs  # alone-s0 is done"
    assert dry.splitlines()[-1] == "   1 epochs in all"
    code, _, err = cli("bench", path, *quick, "--out", out, "--seeds", "0,x")
    assert (code, err) == (1, "error: --seeds: numbers such as 0,1,2, not 0,x\n")


def test_bench_lists_mistakes_before_anything_is_trained(cli, tmp_path):
    code, _, err = cli("bench", "digits", "method.temprature=3", "--out", tmp_path / "out")
    assert code == 2
    assert "runs.kd: method.temprature: unknown option" in err
    assert not (tmp_path / "out").exists()
    code, _, err = cli("bench", "suite", "digit")
    assert code == 2
    assert "did you mean 'digits'?" in err
    code, _, err = cli("bench", tmp_path / "none.yaml")
    assert code == 2
    assert "no such file" in err


def test_bench_help_teaches(cli):
    code, text, _ = cli("bench", "suite", "--help")
    assert code == 0
    assert "set: [train.epochs=4]" in text
    assert "kd: {set: [method.name=kd]}" in text
    assert "FILE.yaml" in cli("bench", "--help")[1]
    assert cli("bench", "spede")[0] == 2


COMMANDS = ("train", "eval", "doctor", "plan", "report", "list", "demo", "bank", "bench")


@pytest.mark.parametrize("command", [*COMMANDS, "bank build", "bank prune", "bench suite"])
def test_help_fits_a_terminal(cli, command, monkeypatch):
    def body(columns):
        monkeypatch.setenv("COLUMNS", columns)
        text = cli(*command.split(), "--help")[1].partition("╭")[0]
        _usage, _summary, *paragraphs = re.split(r"\n\s*\n", text.strip())
        return [line.strip() for part in paragraphs for line in part.splitlines()]

    assert body("80") == body("300"), "no line is broken by a narrow terminal"


@pytest.mark.parametrize("command", ["train", "eval", "report"])
def test_help_has_an_example(cli, command):
    assert f"classroomkd {command} " in cli(command, "--help")[1].partition("╰")[2]


def test_help_answers_before_torch_is_loaded():
    code = (
        "import sys; sys.argv = ['classroomkd', '--help']\n"
        "from classroomkd.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules and 'pydantic' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "train" in done.stdout


def test_rooms_are_imported_one_way():
    from importlinter.cli import lint_imports

    assert lint_imports(no_cache=True) == 0


def test_bank_commands(cli, recipe, tmp_path):
    folder = tmp_path / "bank"
    chosen = (recipe, f"bank.path={folder}", "train.epochs=1")
    code, out, _ = cli("bank", "build", *chosen)
    assert (code, "1 views x 2 mentors" in out) == (0, True)
    code, out, _ = cli("bank", "info", folder)
    assert code == 0
    assert "digits, seed of views 0" in out
    assert "resnet14" in out
    code, out, _ = cli("bank", "verify", *chosen)
    assert (code, "every byte is as it was written" in out) == (0, True)
    code, _, err = cli("bank", "prune", folder, "--keep", "resnet9")
    assert (code, "did you mean 'resnet8'?" in err) == (1, True)
    code, out, _ = cli("bank", "prune", folder, "--keep", "resnet8")
    assert (code, "removed resnet14" in out) == (0, True)
    shard = folder / "resnet8" / "v00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    code, out, err = cli("bank", "verify", *chosen)
    assert (code, "1 shards damaged" in err) == (1, True)
    code, _, err = cli("bank", "info", tmp_path)
    assert (code, "is not a bank" in err) == (1, True)
    code, _, err = cli("bank", "build", recipe)
    assert (code, "it needs bank: {path: ...}" in err) == (1, True)


def test_measurements_are_told_to_have_moved(cli):
    code, _, err = cli("bench", "methods", "--out", "costs.json")
    assert (code, "python -m benchmarks.costs" in err) == (1, True)


def test_resume_and_overwrite_exclude_each_other(cli, tmp_path):
    code, _, err = cli("train", "digits-mentor", "--resume", "--overwrite", "--out", tmp_path / "r")
    assert code == 1
    assert "not both" in err
    assert not (tmp_path / "r").exists()


def test_a_full_disk_is_told_with_what_to_do(cli, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("classroomkd.engine.run.train", full)
    code, _, err = cli("train", "digits-mentor", "--out", tmp_path / "r")
    assert code == 1
    assert "the disk is full" in err
    assert f"make room for {tmp_path / 'r'}, and continue with the same command" in err


def test_eval_of_a_folder_that_is_no_run(cli, tmp_path):
    code, _, err = cli("eval", tmp_path)
    assert code == 1
    assert err == f"error: {tmp_path} is not a run folder: it has no recipe.yaml\n"
