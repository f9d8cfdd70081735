"""The command that compares."""

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from classroomkd.cli.common import Published, say
from classroomkd.errors import ClassroomError

_MOVED = {"speed": "speed", "methods": "costs", "strength": "strength"}


class BenchGroup(TyperGroup):
    """Reads ``bench FILE.yaml``, or a package suite's name, as ``bench suite FILE.yaml``."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Put the command's name in where a suite stands in its place."""
        if args[0] in _MOVED:
            raise ClassroomError(
                f"`classroomkd bench {args[0]}` is now `python -m benchmarks.{_MOVED[args[0]]}`, in"
                " a checkout of the repository"
            )
        suites = Path(__file__).parents[1] / "suites"
        if Path(args[0]).suffix in (".yaml", ".yml") or (suites / f"{args[0]}.yaml").is_file():
            args = ["suite", *args]
        return super().resolve_command(ctx, args)


bench = typer.Typer(cls=BenchGroup, no_args_is_help=True)


@bench.callback()
def _bench() -> None:
    """Compare methods over recipes and seeds.

    `classroomkd bench FILE.yaml` is short for `classroomkd bench suite
    FILE.yaml`, and so is `classroomkd bench NAME`, of a suite of the package.
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
        typer.Argument(metavar="KEY=VALUE", help="Changes to every run, after its own."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder; runs/<suite> if left out.")] = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="NAME,NAME", help="Train these runs only."),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(metavar="N,N", help="Train these seeds only, of runs that have them."),
    ] = None,
    jobs: Annotated[
        int, typer.Option(min=1, help="Trainings at once; above 1 with one thread each.")
    ] = 1,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace runs that have changed.")
    ] = False,
    table: Annotated[bool, typer.Option("--table", help="Train nothing, show the table.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Train nothing, show each run's command and epochs.")
    ] = False,
    markdown: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write the table as Markdown.")
    ] = None,
    as_csv: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Also write it as CSV.")
    ] = None,
    latex: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write it as LaTeX.")
    ] = None,
    as_json: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write it as JSON.")
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The page; report.html of the suite's folder otherwise."),
    ] = None,
    published: Published = False,
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
    With a section `search`, the options of all runs are searched first, from
    the same short list and with as many epochs for each (docs/suites.md).

    All mistakes of all runs are listed before the first is trained. Finished
    runs are kept and interrupted ones go on: give the same command again.
    Differences are paired by seed, with 95 % intervals (Student's t).
    The suite's folder keeps every result in runs.csv, every trial in search.csv,
    and report.html shows them (with --table, only if --html is given).
    """
    from classroomkd.config.suite import load_suite

    checked = load_suite(suite, overrides or [], recipes=not table, published=published)
    folder = out or Path("runs") / checked.name
    names = [name for part in only or [] for name in part.split(",")]
    numbers = _numbers(seeds)
    failures: dict[str, str] = {}
    from classroomkd.suite.runner import changed_runs, foresee, run_suite

    if dry_run:
        for line in foresee(checked, folder, only=names, seeds=numbers):
            typer.echo(line)
        return
    if not table:
        failures = run_suite(
            checked, folder, only=names, seeds=numbers, jobs=jobs, overwrite=overwrite, say=say
        )

    from classroomkd.suite.comparison import compare
    from classroomkd.suite.records import trials_or_kept
    from classroomkd.suite.tables import to_table, write_tables

    rows, trials = compare(checked, folder), trials_or_kept(checked, folder)
    files = {"markdown": markdown, "as_csv": as_csv, "latex": latex, "as_json": as_json}
    write_tables(checked, rows, trials, **files)
    say(to_table(checked, rows))
    if changed := changed_runs(checked, folder):
        why = "its recipe, or what it needs, has changed or is gone"
        say(f"not known to be of this suite as it is now ({why}): {', '.join(changed)}")
    if html or not table:
        from classroomkd.report.suite import write_suite_report

        command = shlex.join(
            ["classroomkd", "bench", suite, *(overrides or []), "--out", str(folder)]
            + ["--published"] * published
        )
        page = write_suite_report(checked, folder, html, command=command, failures=failures)
        say(f"report: {page}")
    if failures:
        lines = "".join(f"\n  {name}: {reason}" for name, reason in failures.items())
        count = "1 run" if len(failures) == 1 else f"{len(failures)} runs"
        raise ClassroomError(f"{count} failed{lines}")


def _numbers(text: str | None) -> list[int]:
    try:
        return [int(part) for part in text.split(",")] if text else []
    except ValueError:
        raise ClassroomError(f"--seeds: numbers such as 0,1,2, not {text}") from None
