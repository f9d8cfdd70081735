"""The command line: thin, and quick to answer, because torch is imported inside the commands."""

import os
import sys
from enum import StrEnum
from errno import ENOSPC
from pathlib import Path
from typing import Annotated

import typer

from classroomkd.cli.bank import bank
from classroomkd.cli.bench import bench
from classroomkd.cli.common import (
    Overrides,
    Published,
    RecipeArgument,
    Runs,
    say,
)
from classroomkd.errors import ClassroomError, RecipeError

# Typer keeps a docstring's lines: below the first they are short enough for 80 columns.
app = typer.Typer(
    name="classroomkd",
    help="Train a small network from several mentors at once.",
    epilog="A first look, without a download: classroomkd demo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

app.add_typer(bank, name="bank")
app.add_typer(bench, name="bench")


@app.command(
    epilog="Examples: classroomkd train digits-mentor, or"
    " classroomkd train my-recipe.yaml student.model=resnet20 method.name=kd"
)
def train(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; runs/<name> if left out.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on after the last epoch.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run.")] = False,
    published: Published = False,
) -> None:
    """Train a student and leave a run folder with its weights, its curves and a report.

    The recipe says which data, which student, which mentors and which method.
    A mentor is an earlier run, a file of weights, or a pretrained model of
    another library. All mistakes of a recipe are listed before anything is
    loaded.
    """
    from classroomkd.config import load_recipe
    from classroomkd.recipes.lineups import published_name

    if published:
        try:
            recipe = published_name(recipe)
        except ValueError as error:
            raise RecipeError(recipe, [str(error)]) from error
    checked = load_recipe(recipe, overrides or [])  # mistakes are told before Lightning is loaded

    from classroomkd.engine.devices import speaks
    from classroomkd.engine.run import train as run_training
    from classroomkd.report import write_report
    from classroomkd.tasks import result_title

    if resume and overwrite:
        raise ClassroomError("give --resume (go on) or --overwrite (start anew), not both")
    folder = out or Path("runs") / checked.name
    try:
        summary = run_training(checked, folder, resume=resume, overwrite=overwrite, say=say)
    except KeyboardInterrupt:
        raise ClassroomError(f"interrupted: continue with {_same_command(folder)}") from None
    except OSError as error:
        if error.errno != ENOSPC:
            raise
        raise ClassroomError(
            f"the disk is full ({error}): make room for {folder}, and continue with"
            f" {_same_command(folder)}"
        ) from error
    if not speaks():
        return
    headline = summary["headline"]
    named = result_title(headline)
    for which, words in (("last", "last epoch"), ("best", "best on the development split, epoch")):
        scores = summary[which]
        split = "test" if checked.train.test else "dev"
        if which == "last" or scores[f"dev_{headline}"] is not None:
            result = scores[f"{split}_{headline}"]
            say(f"{words} {scores['epoch'] + 1}: {split} {named} {result:.2f} %")
    say(f"student: {folder / 'student.safetensors'}")
    if checked.train.test:  # a report compares results on the test set
        say(f"report:  {write_report([folder], folder / 'report.html')}")


def _same_command(folder: Path) -> str:
    """How an unfinished run goes on, or begins again."""
    begun = (folder / "checkpoints" / "last.ckpt").exists()
    return "the same command and --resume" if begun else "the same command"


class Split(StrEnum):
    """Images to judge on."""

    test = "test"
    dev = "dev"
    train = "train"


@app.command("eval", epilog="Example: classroomkd eval runs/digits-classroom --split dev")
def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")],
    split: Annotated[Split, typer.Option(help="Which images.")] = Split.test,
    last: Annotated[bool, typer.Option("--last", help="The last epoch's student.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Judge a run's student: accuracy, likelihood, calibration; of poses, AP or PCK.

    The student is the one of the epoch that was best on the development split,
    unless --last.
    """
    import json

    from classroomkd.engine.evaluate_run import evaluate_run

    info, scores = evaluate_run(run, split.value, last=last)
    if as_json:
        typer.echo(json.dumps({"model": info.model, "epoch": info.epoch, **scores}))
        return
    say(f"{info.model} of epoch {info.epoch + 1}, {info.dataset} {split.value}")
    for name, value in scores.items():
        say(f"  {name:8s} {value:8.3f}{' nats' if name == 'nll' else ' %'}")


@app.command()
def doctor(recipe: RecipeArgument, overrides: Overrides = None) -> None:
    """Look at a classroom before hours are spent on it.

    Checks the recipe, then the mentors on real images: accuracy, against what
    their sources claim, class order, pixels, frozen or not, duplicates; how
    much each term of the loss moves the student; and what the run will take.
    Ends with a verdict; exit code 1 if something is wrong.
    """
    from classroomkd.config import load_recipe

    checked = load_recipe(recipe, overrides or [])

    from classroomkd.doctor import conclude, examine

    say(f"{recipe}: the recipe is valid")
    findings = examine(checked)
    marks = {"ok": "  ok     ", "warning": "  WARNING", "wrong": "  WRONG  "}
    for finding in findings:
        cure = f" -> {finding.cure}" if finding.cure else ""
        say(f"{marks[finding.verdict]} {finding.subject}: {finding.text}{cure}")
    conclusion = conclude(findings)
    if not conclusion.ready:
        raise ClassroomError(conclusion.text)
    say(f"verdict: {conclusion.text}")


@app.command()
def plan(recipe: RecipeArgument, overrides: Overrides = None) -> None:
    """Say what a run will take: time and memory of each network and of the run, live and banked.

    Some steps are measured, nothing is trained. The fastest way to run each
    mentor is found along the way, and kept for the training.
    """
    from classroomkd.config import load_recipe
    from classroomkd.engine.plan import plan_run

    plan_run(load_recipe(recipe, overrides or []), say)


@app.command(epilog="Example: classroomkd report runs/alone runs/classroom --out report.html")
def report(
    runs: Runs,
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
) -> None:
    """Compare runs on one page: curves, a table of students, and who taught when.

    Runs that differ in their seed alone are one student, with mean and spread.
    """
    from classroomkd.report import student_table, write_report

    say(student_table(runs))
    say(f"report: {write_report(runs, out)}")


class Kind(StrEnum):
    """What can be listed."""

    methods = "methods"
    models = "models"
    datasets = "datasets"
    recipes = "recipes"
    lineups = "lineups"
    suites = "suites"


@app.command("list")
def list_(
    kind: Annotated[Kind, typer.Argument(metavar="KIND", help="What to list.")],
) -> None:
    """List what recipes can name: methods with their options, models, data sets, recipes, ...

    Line-ups are recipes that are made from a table, suites grids of runs for
    `classroomkd bench`.
    """
    from classroomkd import catalogue

    for line in getattr(catalogue, kind.value)():
        say(line)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the runs.")] = Path("runs/demo"),
) -> None:
    """Train a small classroom on handwritten digits, in two minutes and without a download.

    Two peers and a teacher, then one student three times: alone, from the
    teacher (KD), and from everybody (ClassroomKD).
    """
    from classroomkd.demo import run_demo

    run_demo(out, say=say)


def main() -> None:
    """Run the command line; errors that a user can act on end it without a traceback."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # under torchrun, all processes warn
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
