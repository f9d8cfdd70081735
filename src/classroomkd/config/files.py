"""YAML files of recipes and suites: those of the package by name, others by their path."""

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from classroomkd.errors import RecipeError, nearest_path, unknown_name

ENDINGS = (".yaml", ".yml")


class _OneOfEach(yaml.SafeLoader):
    """YAML's plain values; a key that is given twice is a mistake."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """A mapping as it was written, if no key comes twice."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge" or not isinstance(key, yaml.ScalarNode):
                continue
            if (key.tag, key.value) in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"'{key.value}' is given twice", problem_mark=key.start_mark
                )
            seen.add((key.tag, key.value))
        return node


def packaged(folder: str) -> dict[str, Path]:
    """The YAML files in a folder of the package, by name.

    Example:
        >>> packaged("suites")["takd"].name
        'takd.yaml'
    """
    place = Path(str(files("classroomkd") / folder))
    return {path.stem: path for path in sorted(place.glob("*.yaml"))}


def find_file(source: str | Path, kind: str, known: Mapping[str, Path]) -> Path:
    """The file that a path or a known name stands for.

    Args:
        source: what was asked for.
        kind: what it should be, for the message.
        known: the package's own, by name.

    Raises:
        RecipeError: if there is none, with the nearest name.
    """
    path = Path(source)
    if path.is_file():
        return path
    if str(source) in known:
        return known[str(source)]
    if path.suffix in ENDINGS:
        raise RecipeError(str(source), [f"no such file{nearest_path(path)}"])
    raise RecipeError(str(source), [unknown_name(kind, str(source), known)])


def read_yaml(path: Path, kind: str = "recipe") -> dict[str, Any]:
    """The mapping that a YAML file holds.

    Raises:
        RecipeError: if it cannot be read, or holds something else.
    """
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), _OneOfEach)
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(str(path), [f"cannot be read as text (UTF-8): {error}"]) from error
    except yaml.YAMLError as error:
        raise RecipeError(str(path), [f"not valid YAML: {error}"]) from error
    if not isinstance(raw, dict):
        raise RecipeError(str(path), [f"a {kind} is a mapping of names to values"])
    return raw
