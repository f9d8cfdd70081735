"""Run folders as a report reads them: finished ones only, and wherever they were trained.

The recipe is read as plain YAML: a run may come from another machine, whose data set and mentors
are not here.
"""

import json
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

from classroomkd.errors import ClassroomError, nearest_path
from classroomkd.tasks import headline_of


@dataclass(frozen=True)
class RunRecord:
    """What a finished run left behind.

    Attributes:
        path: the run folder.
        label: its name; its path where another run of the report has the same name.
        recipe: ``recipe.yaml``.
        environment: ``environment.json``.
        summary: ``summary.json``.
        metrics: ``metrics.csv``, a row an epoch.
        classroom: ``classroom.csv``, a row an epoch and mentor.
        roles: the role of each mentor that the method listened to, by the mentor's name.
    """

    path: Path
    label: str
    recipe: dict[str, Any]
    environment: dict[str, Any]
    summary: dict[str, Any]
    metrics: list[dict[str, Any]]
    classroom: list[dict[str, Any]]
    roles: dict[str, str]

    @property
    def student(self) -> str:
        """The student's model."""
        return str(self.recipe["student"]["model"])

    @property
    def method(self) -> str:
        """The method's name."""
        return str(self.recipe["method"]["name"])

    @property
    def method_text(self) -> str:
        """The method with the options that were given to it."""
        options = {k: v for k, v in self.recipe["method"].items() if k != "name"}
        given = ", ".join(f"{key}={plain(value)}" for key, value in options.items())
        return f"{self.method} ({given})" if given else self.method

    @property
    def data(self) -> str:
        """The data set, and where it came from unless it comes with a library."""
        data = self.recipe["data"]
        origin = data.get("hub") or data.get("path")
        return f"{data['name']} ({origin})" if origin else str(data["name"])

    @property
    def headline(self) -> str:
        """The result that its student was chosen by, such as ``top1``."""
        return headline_of(self.summary)

    @property
    def results(self) -> list[str]:
        """Its other results on the test set, by name."""
        names = (name.removeprefix("test_") for name in self.summary["best"] if "test_" in name)
        return [name for name in names if name != self.headline]

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.recipe["seed"]

    @property
    def command(self) -> str:
        """The shell command that trains the run again, beside the old one."""
        recipe, again = (
            shlex.quote(str(path))
            for path in (self.path / "recipe.yaml", self.path.with_name(f"{self.path.name}-again"))
        )
        return f"classroomkd train {recipe} --out {again}"

    def mentor_rows(self) -> dict[str, list[dict[str, Any]]]:
        """The rows of ``classroom.csv`` by mentor, in the order of the epochs."""
        rows: dict[str, list[dict[str, Any]]] = {}
        for row in self.classroom:
            rows.setdefault(str(row["mentor"]), []).append(row)
        return rows


def read_runs(runs: Sequence[Path | str]) -> list[RunRecord]:
    """Read finished runs; a folder given twice counts once.

    Raises:
        ClassroomError: if a folder is not a finished run, or none is given.
    """
    folders: dict[Path, Path] = {}
    for run in runs:
        folders.setdefault(Path(run).resolve(), Path(run))
    if not folders:
        raise ClassroomError("a report needs at least one run folder")
    records = [read_run(folder) for folder in folders.values()]
    count = Counter(record.label for record in records)
    return [replace(r, label=str(r.path)) if count[r.label] > 1 else r for r in records]


def read_run(folder: Path) -> RunRecord:
    """Read one finished run.

    Raises:
        ClassroomError: naming the folder and what is missing or broken.
    """
    from classroomkd.engine.runs import RunFolder

    _check_finished(folder)
    run = RunFolder(folder)
    try:
        recipe = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
        summary = run.read_json("summary.json")
        if not recipe["train"].get("test", True):
            raise ClassroomError(
                f"{folder} was trained without a look at the test set (train.test: false): it has"
                " no results that a report could compare"
            )
        return RunRecord(
            path=folder,
            label=folder.resolve().name,
            recipe=_checked_recipe(recipe),
            environment=run.read_json("environment.json"),
            summary=_checked_summary(summary),
            metrics=run.read_csv("metrics.csv"),
            classroom=run.read_csv("classroom.csv"),
            roles=_roles(recipe, summary["mentors"]),
        )
    except (yaml.YAMLError, OSError, KeyError, TypeError, ValueError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise ClassroomError(f"{folder} cannot be read as a run folder: {what}") from error


def plain(value: Any) -> str:
    """A value of a recipe as it would be written on the command line.

    Example:
        >>> plain(True), plain("gap"), plain(8.0), plain({"name": "sgd", "lr": 0.1})
        ('true', 'gap', '8.0', '{"name": "sgd", "lr": 0.1}')
    """
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _check_finished(folder: Path) -> None:
    if not folder.is_dir():
        raise ClassroomError(f"no such run folder: {folder}{nearest_path(folder)}")
    if not (folder / "recipe.yaml").is_file():
        raise ClassroomError(f"{folder} is not a run folder: it has no recipe.yaml")
    if not (folder / "summary.json").is_file():
        where = shlex.quote(str(folder))
        raise ClassroomError(
            f"{folder} has no summary.json: not finished: continue with "
            f"classroomkd train {where}/recipe.yaml --out {where} --resume"
        )
    for name in ("environment.json", "metrics.csv"):
        if not (folder / name).is_file():
            raise ClassroomError(f"{folder} is not a complete run folder: it has no {name}")


def _checked_recipe(recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe, if it has what a report says about it."""
    for section, key in (("data", "name"), ("student", "model"), ("method", "name")):
        recipe[section][key]
    for key in ("epochs", "batch_size", "optimizer", "schedule", "precision"):
        recipe["train"][key]
    recipe["seed"]
    return recipe


def _checked_summary(summary: dict[str, Any]) -> dict[str, Any]:
    """The summary, if it judges the last and the chosen student."""
    for key in ("last", "best"):
        float(summary[key][f"test_{headline_of(summary)}"])
        int(summary[key]["epoch"])
    return summary


def _roles(recipe: dict[str, Any], heard: Sequence[str]) -> dict[str, str]:
    from classroomkd.config import mentor_names

    entries = [
        SimpleNamespace(
            run=Path(entry["run"]) if entry.get("run") else None,
            epoch=entry.get("epoch"),
            outputs=Path(entry["outputs"]) if entry.get("outputs") else None,
            model=entry.get("model"),
            name=entry.get("name"),
        )
        for entry in recipe.get("mentors") or []
    ]
    roles = {
        name: str(entry.get("role", "peer"))
        for name, entry in zip(mentor_names(entries), recipe.get("mentors") or [], strict=True)
    }
    return {str(name): roles.get(str(name), "peer") for name in heard}
