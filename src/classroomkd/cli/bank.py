"""The commands of the bank."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from classroomkd.cli.common import Overrides, RecipeArgument, say
from classroomkd.errors import ClassroomError

bank = typer.Typer(no_args_is_help=True)


@bank.callback()
def _bank() -> None:
    """Store what mentors say about every view once, and train any number of students from it.

    A recipe with `bank: {path: ...}` reads its mentors' outputs there, runs
    those that are missing, and adds what they say. Students share a bank if
    data, views and mentors are the same: give runs of several seeds one seed of
    views (data.view_seed=0).
    """


@bank.command("build")
def build(recipe: RecipeArgument, overrides: Overrides = None) -> None:
    """Fill a recipe's bank before anything is trained.

    Says the size first. May be interrupted, and run by several processes at
    once.
    """
    from classroomkd.config import load_recipe
    from classroomkd.engine.bank import build_bank

    checked = load_recipe(recipe, overrides or [])
    try:
        build_bank(checked, say=say, progress=sys.stderr.isatty())
    except KeyboardInterrupt:
        raise ClassroomError("interrupted: the same command goes on from here") from None


@bank.command("verify")
def verify(recipe: RecipeArgument, overrides: Overrides = None) -> None:
    """Check every byte of a recipe's bank, and recompute a sample of it. Exit code 1 if it differs.

    Damaged parts are removed, and computed again when they are needed.
    """
    from classroomkd.config import load_recipe
    from classroomkd.engine.bank import verify_bank
    from classroomkd.mentors.bank import Bank

    checked = load_recipe(recipe, overrides or [])
    damaged = Bank(checked.bank.path, None).check() if checked.bank else []
    for line in damaged:
        say(line)
    wrong = verify_bank(checked, say=say)
    if damaged or wrong:
        raise ClassroomError(
            f"{len(damaged)} shards damaged, {len(wrong)} not what the mentors say here"
        )
    say("every byte is as it was written, and what was recomputed is the same")


BankFolder = Annotated[Path, typer.Argument(metavar="BANK", help="Folder of a bank.")]


@bank.command("info")
def info(path: BankFolder) -> None:
    """Say what a bank holds: mentors, views, samples, size."""
    from classroomkd.mentors.bank import Bank, size_text

    opened = Bank(path, None)
    key = opened.key
    say(f"{path}: {key['data']['name']}, seed of views {key['seed']}, {size_text(opened.size())}")
    for row in opened.info():
        damage = f", {row.damaged} damaged" if row.damaged else ""
        say(
            f"  {row.mentor:20s}{row.views:5d} views {row.samples:10d} samples"
            f" {size_text(row.bytes):>10s}{damage}"
        )


@bank.command("prune")
def prune(
    path: BankFolder,
    keep: Annotated[
        list[str] | None, typer.Option(metavar="MENTOR", help="Not this one; may be repeated.")
    ] = None,
) -> None:
    """Remove mentors' outputs from a bank: all but those to --keep.

    Without --keep the bank is emptied. What is removed is computed again when
    it is needed.
    """
    from classroomkd.errors import unknown_name
    from classroomkd.mentors.bank import Bank, size_text

    opened = Bank(path, None)
    for name in keep or []:
        if name not in opened.mentors():
            raise ClassroomError(f"--keep: {unknown_name('mentor', name, opened.mentors())}")
    before = opened.size()
    removed = opened.prune(set(keep or []))
    say(f"removed {', '.join(removed) or 'nothing'}: {size_text(before - opened.size())}")
