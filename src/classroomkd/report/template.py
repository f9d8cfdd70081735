"""Pages from templates: what all of them share, and how they are written."""

import os
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from classroomkd.errors import ClassroomError
from classroomkd.svg import DARK, LIGHT


def fill(template: str, **values: Any) -> str:
    """The page of a template of this folder; text is escaped, colours are those of drawings."""
    environment = Environment(
        loader=PackageLoader("classroomkd", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    palette = list(zip(LIGHT, DARK, strict=True))
    return environment.get_template(template).render(palette=palette, **values)


def replace_page(path: Path, page: str) -> None:
    """Write a page at once; an earlier one is replaced.

    Raises:
        ClassroomError: if it cannot be written.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(page, encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        raise ClassroomError(f"the report cannot be written to {path}: {error}") from error
