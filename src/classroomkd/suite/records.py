"""Two small tables of a suite, written as results come: ``runs.csv`` and ``search.csv``.

They hold no path and no weight, so that a study's can be kept where its text is.
"""

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from classroomkd.config.search import written
from classroomkd.config.suite import Suite, run_folder
from classroomkd.engine.runs import RunFolder, read_table
from classroomkd.suite.search import SearchTrial, trials_of
from classroomkd.tasks import headline_of


def write_records(suite: Suite, out: Path) -> None:
    """Write both tables of what is finished by now; without a search there is no ``search.csv``."""
    _write(out / "runs.csv", run_records(suite, out))
    if suite.search is not None:
        _write(out / "search.csv", search_records(suite, out))


def run_records(suite: Suite, out: Path) -> list[dict[str, Any]]:
    """A row for each finished run of each seed.

    It has the commit that trained it, the options that the suite searches as they are in its
    recipe, all results of the last and of the selected epoch, and the seconds of training.
    """
    return [
        _run_record(suite, name, seed, RunFolder(folder))
        for name in suite.runs
        for seed in suite.seeds_of(name)
        if ((folder := run_folder(out, name, seed)) / "summary.json").exists()
    ]


def _run_record(suite: Suite, name: str, seed: int, run: RunFolder) -> dict[str, Any]:
    environment, summary = run.read_json("environment.json"), run.read_json("summary.json")
    return {
        "suite": suite.name,
        "commit": environment.get("commit"),
        "run": name,
        "student": summary["student"],
        "method": summary["method"],
        "seed": seed,
        "mentors": _joined(summary.get("mentors", ())),
        "headline": headline_of(summary),
        "options": _joined(searched_options(suite, name, run.raw())),
        **{f"last_{key}": value for key, value in summary["last"].items()},
        **{f"selected_{key}": value for key, value in summary["best"].items()},
        "seconds": environment.get("seconds"),
    }


def kept_records(suite: Suite, out: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """Rows of ``runs.csv`` whose run folder is gone, by run and seed: it was kept without them."""
    rows = {(str(row["run"]), row["seed"]): row for row in read_table(out / "runs.csv")}
    return {
        (name, seed): rows[name, seed]
        for name in suite.runs
        for seed in suite.seeds_of(name)
        if (name, seed) in rows and not run_folder(out, name, seed).exists()
    }


def kept_summary(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a row of ``runs.csv`` keeps of the run's ``summary.json``."""

    def results(prefix: str) -> dict[str, Any]:
        return {
            key.removeprefix(prefix): value
            for key, value in record.items()
            if key.startswith(prefix) and value != ""
        }

    return {
        "student": record["student"],
        "method": record["method"],
        "mentors": str(record.get("mentors", "")).split(),
        "headline": record.get("headline", "top1"),
        "last": results("last_"),
        "best": results("selected_"),
    }


def trials_or_kept(suite: Suite, out: Path) -> list[SearchTrial]:
    """Every trial of a suite: of its folders or, where they are gone, of ``search.csv``."""
    path = out / "search.csv"
    if (out / "search").exists() or not path.exists():
        return trials_of(suite, out)
    return [
        SearchTrial(
            run=str(row["run"]),
            rung=int(row["rung"]),
            epochs=int(row["epochs"]),
            options=tuple(str(row["options"]).split()),
            dev=None if row["dev"] == "" else float(row["dev"]),
            kept=row["kept"] == "yes",
        )
        for row in read_table(path)
        if row["run"] in suite.runs
    ]


def search_records(suite: Suite, out: Path) -> list[dict[str, Any]]:
    """A row for each trial of each run's search, finished or not."""
    return [
        {
            "suite": suite.name,
            "run": trial.run,
            "rung": trial.rung,
            "epochs": trial.epochs,
            "options": _joined(trial.options),
            "dev": trial.dev,
            "kept": "yes" if trial.kept else "",
        }
        for trial in trials_of(suite, out)
    ]


def searched_options(suite: Suite, name: str, recipe: Mapping[str, Any]) -> tuple[str, ...]:
    """What a run's own recipe says about the options that its suite searches, as overrides."""
    search, own = suite.search, suite.runs[name].search
    if search is None or own is None:
        return ()
    return tuple(f"{key}={written(_at(recipe, key))}" for key in own.keys(search))


def _at(recipe: Any, key: str) -> Any:
    for part in key.split("."):
        recipe = recipe[int(part)] if isinstance(recipe, list) else recipe.get(part)
        if recipe is None:
            return None
    return recipe


def _joined(options: Sequence[str]) -> str:
    return " ".join(options)


def _write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a table at once; runs of other tasks may have other columns."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    with part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(part, path)
