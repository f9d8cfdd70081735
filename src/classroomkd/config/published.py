"""Published options in recipes: those that a recipe leaves open, and what a run says about them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from classroomkd.config.schema import MentorSection, MethodRecipe, RunRecipe

if TYPE_CHECKING:
    from classroomkd.methods import Setting


def fill_published(recipe: RunRecipe) -> RunRecipe:
    """The recipe with those published options of its method that it does not set.

    What is published may depend on the data set, the student and the teacher: the mentor with this
    role, or the only one. A teacher that is not trained yet is not known.
    """
    from classroomkd.methods import published_options

    method = recipe.method
    found = published_options(method.name, method.options, _setting(recipe))
    options = {option: published.value for option, published in found.items()} | method.options
    filled = MethodRecipe.model_validate({"name": method.name, **options})
    return recipe.model_copy(update={"method": filled})


def published_notes(recipe: RunRecipe) -> list[str]:
    """A line that says which options of the method are published ones, and from where.

    A second one tells which are published otherwise.
    """
    from classroomkd.methods import method_options, published_options

    method = recipe.method
    found = published_options(method.name, method.options, _setting(recipe))
    usual = method_options(method.name).model_fields
    taken: dict[str, list[str]] = {}
    own = []
    for option, published in found.items():
        here = method.options.get(option, usual[option].default)
        if here == published.value:
            taken.setdefault(published.source, []).append(f"{option} {here}")
        else:
            own.append(f"{option} {here} instead of {published.value} ({published.source})")
    notes = [f"{', '.join(options)} ({source})" for source, options in taken.items()]
    return [
        f"{method.name}, {kind}: {'; '.join(lines)}"
        for kind, lines in (("published options", notes), ("options of its own", own))
        if lines
    ]


def _setting(recipe: RunRecipe) -> "Setting":
    from classroomkd.methods import Setting

    imagenet = getattr(recipe.data, "classes", None) == "imagenet"
    data = "imagenet" if imagenet else recipe.data.name
    return Setting(data, _teacher(recipe.mentors), recipe.student.model)


def _teacher(mentors: tuple[MentorSection, ...]) -> str | None:
    """The model of the one mentor, or of the one with this role; None if that is not known."""
    teachers = [mentor for mentor in mentors if len(mentors) == 1 or mentor.role == "teacher"]
    if len(teachers) != 1:
        return None
    mentor = teachers[0]
    if mentor.run is not None:
        return _said(mentor.run / "student.json", "model")
    if mentor.outputs is not None:
        return _said(mentor.outputs / "mentor.json", "architecture")
    return getattr(mentor, "model", None)


def _said(file: Path, key: str) -> str | None:
    """What a JSON file says under a key; whoever opens the mentor complains about a bad file."""
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    value: Any = said.get(key) if isinstance(said, Mapping) else None
    return value if isinstance(value, str) else None
