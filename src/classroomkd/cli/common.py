"""What the commands share: their arguments, and how they speak."""

from pathlib import Path
from typing import Annotated

import typer

RecipeArgument = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE", help="A YAML file, or a name that `classroomkd list recipes` shows."
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Changes to the recipe, such as student.model=resnet8 method.temperature=8",
    ),
]

Published = Annotated[
    bool,
    typer.Option(
        "--published",
        help="Line-ups by the protocol of published numbers: all 50,000 images, float32.",
    ),
]
Runs = Annotated[list[Path], typer.Argument(metavar="RUN", help="Run folders.")]


def say(what: object) -> None:
    """Print a line of text, or a table."""
    if isinstance(what, str):
        from tqdm import tqdm

        tqdm.write(what)  # leaves a bar that is being drawn intact
    else:
        from rich.console import Console

        Console().print(what)
