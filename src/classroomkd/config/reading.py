"""From YAML to a checked `Recipe`.

``base: other.yaml`` (one level) takes another recipe's values first, ``dotted.path=value``
overrides come last. Relative paths inside a recipe start from the current directory, ``base`` from
the recipe's own folder.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from classroomkd.config.error_messages import describe
from classroomkd.config.files import ENDINGS, find_file, packaged, read_yaml
from classroomkd.config.published import fill_published
from classroomkd.config.schema import MethodRecipe, RunRecipe
from classroomkd.config.training import SGD, OneCycle
from classroomkd.errors import RecipeError, nearest, nearest_path
from classroomkd.moved import names_of
from classroomkd.recipes.lineups import DATA, lineup_recipe, list_lineups
from classroomkd.tasks.registry import USUAL, recipe_class


def list_recipes() -> dict[str, Path]:
    """The recipes that come with the package, by name."""
    return packaged("recipes")


def find_recipe(source: str | Path) -> Path:
    """The file of a recipe: a path, or the name of one that comes with the package."""
    path = Path(source)
    named = path.suffix not in ENDINGS and not path.is_file()
    if named and path.as_posix().startswith(f"{DATA}/"):
        hint = f"{nearest(path.as_posix(), list_lineups())} (see `classroomkd list lineups`)"
        raise RecipeError(str(source), [f"unknown line-up '{source}'{hint}"])
    return find_file(source, "recipe", list_recipes())


def load_recipe(
    source: str | Path, overrides: Sequence[str] = (), *, resolved: bool = False
) -> RunRecipe:
    """Read, complete and check a recipe.

    Args:
        source: a YAML file, the name of a recipe of the package, or of one of its line-ups.
        overrides: ``dotted.path=value`` each, the value in YAML.
        resolved: the recipe of a run, in which nothing is left open: what it does not say is not
            filled with published options (see `classroomkd.config.published`).

    Raises:
        RecipeError: with every mistake, its path, and the nearest valid name.
    """
    path = Path(source)
    raw = None if path.is_file() else lineup_recipe(path.as_posix())
    if raw is None:
        path = find_recipe(source)
        raw = _read_file(path)
    # Names first: a new method's options may stand before or after its name.
    mistakes = []
    for override in sorted(overrides, key=lambda text: ".name=" not in text):
        try:
            _apply(raw, override)
        except RecipeError as error:
            mistakes += error.mistakes
    try:
        recipe = parse_recipe(raw, str(path), resolved=resolved)
    except RecipeError as error:
        raise RecipeError(str(path), mistakes + error.mistakes) from error
    if mistakes:
        raise RecipeError(str(path), mistakes)
    return recipe


def _read_file(path: Path) -> dict[str, Any]:
    """What a file says, over its base, with a name."""
    raw = read_yaml(path)
    if "base" in raw:
        base = path.parent / str(raw.pop("base"))
        if not base.is_file():
            raise RecipeError(str(path), [f"base: no such file: {base}{nearest_path(base)}"])
        below = read_yaml(base)
        if "base" in below:
            raise RecipeError(str(path), [f"base: {base} has a base itself; one level is allowed"])
        below.pop("name", None)  # a recipe without a name is called by its own file
        raw = _merge(below, raw)
    raw.setdefault("name", path.stem)
    return raw


def parse_recipe(
    raw: dict[str, Any], source: str = "recipe", *, resolved: bool = False
) -> RunRecipe:
    """Check and complete a recipe given as a dictionary, by its task, as `load_recipe` does."""
    mistakes, recipe = [], None
    try:
        kind = recipe_class(raw.get("task", USUAL))
    except ValueError as error:
        raise RecipeError(source, [f"task: {error}"]) from error
    raw = kind.translate(raw)
    try:
        recipe = kind.model_validate(raw)
    except ValidationError as error:
        told = [describe(item, kind) for item in error.errors()]
        mistakes = [line for mistake in told for line in mistake.splitlines()]
    mistakes += _method_mistakes(raw)
    if mistakes or recipe is None:
        raise RecipeError(source, mistakes)
    return recipe if resolved else fill_published(recipe)


def _method_mistakes(raw: dict[str, Any]) -> list[str]:
    """Mistakes in the method's options and in the number of mentors that it needs."""
    from classroomkd.methods import create_method, list_methods, method_class, option_errors

    method = raw.get("method", {})
    if not isinstance(method, dict) or not isinstance(raw.get("mentors") or [], list | tuple):
        return []
    name = method.get("name", "classroom")
    if name not in list_methods():
        return []
    options = {k: v for k, v in method.items() if k != "name" and isinstance(k, str)}
    mistakes = [f"method.{key}: {text}" for key, text in option_errors(name, options).items()]
    if not mistakes:
        try:
            create_method(name, **options)
        except ValueError as error:  # options that exclude each other
            mistakes.append(f"method: {error}")
    mentors = [m for m in raw.get("mentors") or [] if isinstance(m, dict)]
    num_mentors = method_class(name).num_mentors
    if num_mentors != 0 and not mentors:
        needed = "a mentor" if num_mentors == 1 else "mentors"
        mistakes.append(
            f"mentors: {name} needs {needed}; a student alone is trained with method.name=none"
        )
    if num_mentors == 1 and len(mentors) > 1:
        teachers = sum(m.get("role") == "teacher" for m in mentors)
        if teachers != 1:
            mistakes.append(
                f"mentors: {name} learns from one: give just one the role teacher, not {teachers}"
            )
    return mistakes


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """``above`` over ``below``: mappings are merged, anything else is replaced."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            value = _merge(_carried_over(key, old, value), value)
        merged[key] = value
    return merged


# Sections whose values are options of what they name.
_NAMED: dict[str, Any] = {
    "data": "cifar100", "augment": None, "method": MethodRecipe().name, "optimizer": SGD().name,
    "schedule": OneCycle().name,
}  # fmt: skip
"""With the name that is meant where a recipe gives none."""


def _carried_over(section: str, old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """What stays of a section under new values: another method's options, for one, must go."""
    if section not in _NAMED or "name" not in new:
        return old
    if new["name"] == old.get("name", _NAMED[section]):
        return old
    kept = ("dev", "dev_seed", "view_seed", "repeat") if section == "data" else ()
    return {k: v for k, v in old.items() if k in kept}


def _apply(raw: dict[str, Any], override: str) -> None:
    key, sign, text = override.partition("=")
    if not sign or not key:
        raise RecipeError(override, [f"{override}: an override looks like train.epochs=20"])
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(override, [f"{key}: the value is not valid YAML: {error}"]) from error
    *path, last = key.split(".")
    place: Any = raw
    for number, part in enumerate(path):
        if isinstance(place, list) and part.isdecimal() and int(part) < len(place):
            place = place[int(part)]
        elif isinstance(place, dict):
            if place.get(part) is None:  # absent, or switched off with null
                place[part] = {}
            place = place[part]
        else:
            raise RecipeError(override, [f"{'.'.join(path[: number + 1])}: there is no such place"])
    if isinstance(place, list) and last.isdecimal() and int(last) < len(place):
        place[int(last)] = value
    elif not isinstance(place, dict):
        raise RecipeError(override, [f"{key}: there is no such place"])
    else:
        section = next((part for part in reversed(path) if not part.isdecimal()), "")
        kept = _carried_over(section, dict(place), {last: value})
        place.clear()
        place.update(kept | {last: value})


__getattr__ = names_of(__name__, {
    "AnyRecipe": "classroomkd.config.schema:RunRecipe",
})  # fmt: skip
