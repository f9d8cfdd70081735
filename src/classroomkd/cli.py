"""The command line: thin, and quick to answer, because torch is imported inside the commands."""

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from classroomkd.errors import ClassroomError, RecipeError

app = typer.Typer(
    name="classroomkd",
    help="Train a small network from several mentors at once.",
    epilog="A first look, without a download: classroomkd demo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

RecipeArgument = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE", help="A YAML file, or a name that `classroomkd list recipes` shows."
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="Changes to the recipe, such as student.model=resnet8 method.temperature=8",
    ),
]
Runs = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders.")]


@app.command()
def train(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; runs/<name> if left out.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on after the last epoch.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run.")] = False,
) -> None:
    """Train a student and leave a run folder with its weights, its curves and a report.

    The recipe says which data, which student, which mentors and which method. A mentor is an
    earlier run or a file of weights.
    """
    from classroomkd.config import load_recipe

    checked = load_recipe(recipe, overrides or [])  # mistakes are told before Lightning is loaded

    from classroomkd.engine.run import train as run_training
    from classroomkd.report import write_report

    folder = out or Path("runs") / checked.name
    try:
        summary = run_training(checked, folder, resume=resume, overwrite=overwrite, say=_say)
    except KeyboardInterrupt:
        begun = (folder / "checkpoints" / "last.ckpt").exists()
        how = "the same command and --resume" if begun else "the same command"
        raise ClassroomError(f"interrupted: continue with {how}") from None
    page = write_report([folder], folder / "report.html")
    for which, words in (("last", "last epoch"), ("best", "best on the development split, epoch")):
        scores = summary[which]
        if which == "last" or scores["dev_top1"] is not None:
            _say(f"{words} {scores['epoch'] + 1}: test top-1 {scores['test_top1']:.2f} %")
    _say(f"student: {folder / 'student.safetensors'}\nreport:  {page}")


class Split(StrEnum):
    """Images to judge on."""

    test = "test"
    dev = "dev"
    train = "train"


@app.command("eval")
def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")],
    split: Annotated[Split, typer.Option(help="Which images.")] = Split.test,
    last: Annotated[bool, typer.Option("--last", help="The last epoch's student.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Judge a run's student: accuracy, likelihood, calibration.

    The student is the one of the epoch that was best on the development split, unless --last.
    """
    import json

    from classroomkd.engine.judge import judge

    info, scores = judge(run, split.value, last=last)
    if as_json:
        typer.echo(json.dumps({"model": info.model, "epoch": info.epoch, **scores}))
        return
    _say(f"{info.model} of epoch {info.epoch + 1}, {info.dataset} {split.value}")
    for name, value in scores.items():
        _say(f"  {name:5s} {value:8.3f}{' nats' if name == 'nll' else ' %'}")


@app.command()
def doctor(recipe: RecipeArgument, overrides: Overrides = None) -> None:
    """Look at a classroom before hours are spent on it.

    Checks the recipe, then the mentors on real images: accuracy, class order, frozen or not,
    duplicates, and whether the terms of the loss are of comparable size. Exit code 1 if something
    is wrong.
    """
    from classroomkd.config import load_recipe

    checked = load_recipe(recipe, overrides or [])

    from classroomkd.doctor import examine

    _say(f"{recipe}: the recipe is valid")
    findings = examine(checked)
    marks = {"ok": "  ok     ", "warning": "  WARNING", "wrong": "  WRONG  "}
    for finding in findings:
        _say(f"{marks[finding.verdict]} {finding.subject}: {finding.text}")
    wrong = sum(finding.verdict == "wrong" for finding in findings)
    warnings = sum(finding.verdict == "warning" for finding in findings)
    if wrong:
        raise ClassroomError(f"{wrong} thing(s) wrong: training would not do what the recipe says")
    _say(f"verdict: ready to train{f', with {warnings} warning(s)' if warnings else ''}")


@app.command()
def report(
    runs: Runs,
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
) -> None:
    """Compare runs on one page: curves, a table of students, and who taught when."""
    from classroomkd.report import student_table, write_report

    _say(student_table(runs))
    _say(f"report: {write_report(runs, out)}")


class Kind(StrEnum):
    """What can be listed."""

    methods = "methods"
    models = "models"
    datasets = "datasets"
    recipes = "recipes"
    suites = "suites"


@app.command("list")
def list_(kind: Annotated[Kind, typer.Argument(help="What to list.")]) -> None:
    """List methods with their options, models, data sets, recipes, suites."""
    from classroomkd import catalogue

    for line in getattr(catalogue, kind.value)():
        _say(line)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the runs.")] = Path("runs/demo"),
) -> None:
    """Train a small classroom on handwritten digits, in two minutes and without a download.

    Two peers and a teacher, then one student three times: alone, from the teacher (KD), and from
    everybody (ClassroomKD).
    """
    from classroomkd.demo import run_demo

    run_demo(out, say=_say)


bank = typer.Typer(no_args_is_help=True)
app.add_typer(bank, name="bank")


@bank.callback()
def _bank() -> None:
    """Store what mentors say about every view once, and train any number of students from it.

    A recipe with `bank: {path: ...}` reads its mentors' outputs there, runs those that are missing,
    and adds what they say. Students share a bank if data, views and mentors are the same: give runs
    of several seeds one seed of views (data.view_seed=0).
    """


@bank.command("build")
def bank_build(recipe: RecipeArgument, overrides: Overrides = None) -> None:
    """Fill a recipe's bank before anything is trained.

    Says the size first. May be interrupted, and run by several processes at once.
    """
    from classroomkd.config import load_recipe

    checked = load_recipe(recipe, overrides or [])

    from classroomkd.engine.bank import build_bank

    try:
        build_bank(checked, say=_say, progress=sys.stderr.isatty())
    except KeyboardInterrupt:
        raise ClassroomError("interrupted: the same command goes on from here") from None


@bank.command("verify")
def bank_verify(recipe: RecipeArgument, overrides: Overrides = None) -> None:
    """Check every byte of a recipe's bank, and recompute a sample of it. Exit code 1 if it differs.

    Damaged parts are removed, and computed again when they are needed.
    """
    from classroomkd.config import load_recipe

    checked = load_recipe(recipe, overrides or [])

    from classroomkd.engine.bank import verify_bank
    from classroomkd.mentors.bank import Bank

    damaged = Bank(checked.bank.path, None).check() if checked.bank else []
    for line in damaged:
        _say(line)
    wrong = verify_bank(checked, say=_say)
    if damaged or wrong:
        raise ClassroomError(
            f"{len(damaged)} shards damaged, {len(wrong)} not what the mentors say here"
        )
    _say("every byte is as it was written, and what was recomputed is the same")


BankFolder = Annotated[Path, typer.Argument(metavar="BANK", help="Folder of a bank.")]


@bank.command("info")
def bank_info(path: BankFolder) -> None:
    """Say what a bank holds: mentors, views, samples, size."""
    from classroomkd.mentors.bank import Bank, size_text

    opened = Bank(path, None)
    key = opened.key
    _say(f"{path}: {key['data']['name']}, seed of views {key['seed']}, {size_text(opened.size())}")
    for row in opened.info():
        damage = f", {row.damaged} damaged" if row.damaged else ""
        _say(
            f"  {row.mentor:20s}{row.views:5d} views {row.samples:10d} samples"
            f" {size_text(row.bytes):>10s}{damage}"
        )


@bank.command("prune")
def bank_prune(
    path: BankFolder,
    keep: Annotated[
        list[str] | None, typer.Option(metavar="MENTOR", help="Not this one; may be repeated.")
    ] = None,
) -> None:
    """Remove mentors' outputs from a bank: all but those to --keep."""
    from classroomkd.errors import unknown_name
    from classroomkd.mentors.bank import Bank, size_text

    opened = Bank(path, None)
    for name in keep or []:
        if name not in opened.mentors():
            raise ClassroomError(f"--keep: {unknown_name('mentor', name, opened.mentors())}")
    before = opened.size()
    removed = opened.prune(set(keep or []))
    _say(f"removed {', '.join(removed) or 'nothing'}: {size_text(before - opened.size())}")


class BenchGroup(TyperGroup):
    """Reads ``bench FILE.yaml``, or a package suite's name, as ``bench suite FILE.yaml``."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Put the command's name in where a suite stands in its place."""
        suites = Path(__file__).parent / "suites"
        if Path(args[0]).suffix in (".yaml", ".yml") or (suites / f"{args[0]}.yaml").is_file():
            args = ["suite", *args]
        return super().resolve_command(ctx, args)


bench = typer.Typer(cls=BenchGroup, no_args_is_help=True)
app.add_typer(bench, name="bench")


@bench.callback()
def _bench() -> None:
    """Compare methods over recipes and seeds (suite), or measure the engine (speed).

    `classroomkd bench FILE.yaml` is short for `classroomkd bench suite FILE.yaml`.
    """


@bench.command("suite")
def suite_(
    suite: Annotated[
        str,
        typer.Argument(
            metavar="SUITE", help="A YAML file, or a name that `classroomkd list suites` shows."
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Changes to every run, after its own."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder; runs/<suite> if left out.")] = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="NAME", help="Train this run only; may be repeated."),
    ] = None,
    jobs: Annotated[
        int, typer.Option(min=1, help="Trainings at once; above 1 with one thread each.")
    ] = 1,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace runs that have changed.")
    ] = False,
    table: Annotated[bool, typer.Option("--table", help="Train nothing, show the table.")] = False,
    markdown: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write the table as Markdown.")
    ] = None,
    as_json: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write it as JSON.")
    ] = None,
) -> None:
    r"""Train a suite's runs over their seeds, and compare them with its baseline.

    A suite is a YAML file such as

      base: cifar100-classroom      # a recipe: a name, or a path from this file
      set: \[train.epochs=4]         # for every run
      seeds: [0, 1, 2]
      baseline: alone               # what the others are compared with
      runs:
        alone: {set: \[method.name=none]}
        kd: {set: \[method.name=kd]}
        again: {set: \[method.name=kd, "mentors=[{run: '{kd}'}]"]}

    where '{kd}' is the folder of an earlier run (the same seed, or its only one).

    All mistakes of all runs are listed before the first is trained. Finished
    runs are kept and interrupted ones go on: give the same command again.
    Differences are paired by seed, with 95 % intervals (Student's t).
    """
    from classroomkd.config.suite import load_suite

    checked = load_suite(suite, overrides or [], recipes=not table)
    folder = out or Path("runs") / checked.name
    failures: dict[str, str] = {}
    if not table:
        from classroomkd.bench.suite import run_suite

        failures = run_suite(
            checked, folder, only=only or [], jobs=jobs, overwrite=overwrite, say=_say
        )

    from classroomkd.bench.comparison import compare, write_comparison

    rows = compare(checked, folder)
    _say(write_comparison(checked, rows, markdown=markdown, as_json=as_json))
    if failures:
        lines = "".join(f"\n  {name}: {reason}" for name, reason in failures.items())
        count = "1 run" if len(failures) == 1 else f"{len(failures)} runs"
        raise ClassroomError(f"{count} failed{lines}")


@bench.command()
def speed(
    out: Annotated[Path | None, typer.Option(help="Also write the numbers as JSON.")] = None,
) -> None:
    """Measure images a second of the whole training step, against a textbook loop.

    A student with six mentors; all variants in one run, interleaved, medians, ratios first.
    """
    from classroomkd.bench.speed import run_benchmark

    run_benchmark(out, say=_say)


@bench.command("methods")
def methods_(
    out: Annotated[Path | None, typer.Option(help="Also write the numbers as JSON.")] = None,
) -> None:
    """Measure what each method's own computation costs, beside the student's step."""
    from classroomkd.bench.costs import run_costs

    run_costs(out, say=_say)


def _say(what: object) -> None:
    """Print a line of text, or a table."""
    if isinstance(what, str):
        from tqdm import tqdm

        tqdm.write(what)  # leaves a bar that is being drawn intact
    else:
        from rich.console import Console

        Console().print(what)


def main() -> None:
    """Run the command line; errors that a user can act on end it without a traceback."""
    try:
        app()
    except RecipeError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
    except (ClassroomError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)


def command() -> None:
    """The installed program: as `main`, but a mistake in a recipe is told at once.

    To take torch down in good order costs half a second, and there is nothing left to lose.
    """
    try:
        main()
    except SystemExit as end:
        if end.code != 2:
            raise
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(2)
