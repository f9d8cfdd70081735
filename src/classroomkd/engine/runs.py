"""The run folder: every file of a run, written atomically, and readable without this package."""

import csv
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from filelock import FileLock, Timeout

from classroomkd.config import RunRecipe, load_recipe, parse_recipe
from classroomkd.config.fields import snapshot_folder
from classroomkd.errors import ClassroomError, RecipeError

Row = Mapping[str, float | int | str]
LOCK = ".lock"
FILES = {
    LOCK, "recipe.yaml", "environment.json", "metrics.csv", "classroom.csv", "checkpoints",
    "snapshots",
    "student.safetensors", "student.json", "summary.json", "report.html",
    "pictures.safetensors", "pictures.json",
}  # fmt: skip
PLACES = {f"train.{key}" for key in ("device", "devices", "student_placement", "mentor_placement")}
"""What may change when a run is resumed: where it is trained, not what."""


TEXTS = ("mentor", "mentors", "run", "suite", "commit", "method", "student", "options")
"""Columns that hold no number, even where a name looks like one."""


class RunFolder:
    """Names of a run's files, and how they are written and read.

    Args:
        path: the folder; it need not exist yet.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def checkpoint(self) -> Path:
        """The state of training after the last epoch that was completed."""
        return self.path / "checkpoints" / "last.ckpt"

    @property
    def last(self) -> Path:
        """Folder of the student of the last epoch, in the format of the run folder itself."""
        return self.path / "checkpoints" / "last"

    def snapshot(self, epoch: int) -> Path:
        """Folder, made if need be, of the student at the end of an epoch, from 1."""
        folder = snapshot_folder(self.path, epoch)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def check(self, recipe: RunRecipe, *, resume: bool = False, overwrite: bool = False) -> None:
        """See that nothing is overwritten without being asked, before anything is loaded.

        Raises:
            ClassroomError: if the folder has files and neither flag is given, or if `resume` finds
                no checkpoint or another recipe.
        """
        if resume:
            self._check_resumable(recipe)
        elif strange := sorted({p.name.removesuffix(".part") for p in self._content()} - FILES):
            raise ClassroomError(
                f"{self.path} holds other files, such as {strange[0]}: it is not a run folder and "
                "is left alone; choose another with --out"
            )
        elif not overwrite and (self.checkpoint.exists() or (self.path / "summary.json").exists()):
            raise ClassroomError(
                f"{self.path} exists: continue it with --resume, replace it with --overwrite, "
                "or choose another folder with --out"
            )

    def prepare(self, recipe: RunRecipe, *, fresh: bool) -> None:
        """Write the recipe; a fresh start first removes an earlier run's files."""
        for path in self._content() if fresh else ():
            if path.name in ("checkpoints", "snapshots"):
                shutil.rmtree(path)
            elif path.name != LOCK:
                path.unlink()
        self.last.mkdir(parents=True, exist_ok=True)
        self.write("recipe.yaml", recipe.to_yaml())

    def claim(self) -> FileLock:
        """Make the folder and lock it, so that no second training writes into it.

        Raises:
            ClassroomError: if another process holds it, or the folder cannot be made.
        """
        lock = FileLock(self.path / LOCK)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout as error:
            raise ClassroomError(f"{self.path}: another training is writing into it") from error
        except OSError as error:
            raise ClassroomError(f"{self.path} cannot be made or written to: {error}") from error
        return lock

    def _content(self) -> list[Path]:
        return list(self.path.iterdir()) if self.path.is_dir() else []

    def _check_resumable(self, recipe: RunRecipe) -> None:
        if not self.checkpoint.exists():
            raise ClassroomError(
                f"{self.checkpoint} does not exist, there is nothing to resume: "
                "start again without --resume"
            )
        if changed := self.changes(recipe):
            raise ClassroomError(
                f"{self.path} was started with another recipe; what differs: {', '.join(changed)}."
                " Resume with the same recipe, or start anew with --out"
            )

    def recipe(self) -> RunRecipe:
        """The resolved recipe of the run."""
        return load_recipe(self.path / "recipe.yaml", resolved=True)

    def changes(self, recipe: RunRecipe) -> list[str]:
        """What in a recipe differs from the run's, but for where it is trained.

        Files and folders are the same however their paths are written.
        """
        old, new = (_resolved(r.model_dump()) for r in (self.recipe(), recipe))
        return [key for key in _differences(old, new) if key not in PLACES]

    def raw(self) -> dict[str, Any]:
        """The resolved recipe as it was written down, unchecked: its files may have moved."""
        path = self.path / "recipe.yaml"
        if not path.exists():
            raise ClassroomError(f"{self.path} is not a run folder: it has no recipe.yaml")
        try:
            raw = yaml.safe_load(path.read_text(encoding="utf-8"))
            raw["data"]["name"]
        except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
            raise ClassroomError(f"{path} cannot be read: {error}") from error
        return raw

    def evaluation_recipe(self) -> RunRecipe:
        """The run's recipe as evaluation needs it: its mentors, bank and first weights may be gone.

        Raises:
            ClassroomError: if the folder is no run, or its data are not there.
        """
        raw = self.raw()
        student = {key: raw["student"][key] for key in raw["student"] if key != "checkpoint"}
        alone = {"mentors": [], "method": {"name": "none"}, "bank": None, "student": student}
        path = str(self.path / "recipe.yaml")
        try:
            return parse_recipe({**raw, **alone}, path, resolved=True)
        except RecipeError as error:
            raise ClassroomError(f"{path}: {'; '.join(error.mistakes)}") from error

    def write(self, name: str, text: str) -> None:
        """Write a text file atomically."""
        part = self.path / f"{name}.part"
        part.write_text(text, encoding="utf-8")
        os.replace(part, self.path / name)

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file atomically."""
        self.write(name, json.dumps(value, indent=2) + "\n")

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a JSON file; a ClassroomError says so if the run has none."""
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ClassroomError(f"{self.path / name} cannot be read: {error}") from error

    def append(self, name: str, epoch: int, rows: Sequence[Row]) -> None:
        """Put an epoch's rows into a CSV file, in place of any of this epoch or a later one."""
        kept = [row for row in self.read_csv(name) if int(row["epoch"]) < epoch]
        rows = [*kept, *({"epoch": epoch, **row} for row in rows)]
        part = self.path / f"{name}.part"
        with part.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]) if rows else ["epoch"])
            writer.writeheader()
            writer.writerows(
                # repr: what is read back is what was written, to the last bit
                {k: repr(v) if isinstance(v, float) else v for k, v in row.items()}
                for row in rows
            )
        os.replace(part, self.path / name)

    def read_csv(self, name: str) -> list[dict[str, Any]]:
        """The rows of a CSV file, numbers as floats; empty if there is none."""
        return read_table(self.path / name)


def read_table(path: Path) -> list[dict[str, Any]]:
    """The rows of a CSV file, numbers as floats; empty if there is none."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [
        {key: text if key in TEXTS else _number(text) for key, text in row.items()} for row in rows
    ]


def _number(text: str) -> float | int | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def environment(device: torch.device) -> dict[str, Any]:
    """Versions and hardware of this run."""
    packages = ("classroomkd", "torch", "torchvision", "lightning", "numpy")
    return {
        "started": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "commit": _commit(),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "packages": {name: version(name) for name in packages},
        "device": str(device),
        "hardware": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
    }


def _commit() -> str | None:
    """The commit of this code, with ``-dirty`` if it was changed since; None outside of git."""
    git = ["git", "-C", str(Path(__file__).parent)]
    # An installed copy may lie within somebody else's repository, which does not track it.
    ours = [*git, "ls-files", "--error-unmatch", Path(__file__).name]
    name = [*git, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        subprocess.run(ours, check=True, capture_output=True)
        return subprocess.run(name, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _resolved(value: Any) -> Any:
    """Plain values with the paths in them made absolute."""
    if isinstance(value, Path):
        return value.resolve()
    if isinstance(value, dict):
        return {key: _resolved(item) for key, item in value.items()}
    return [_resolved(item) for item in value] if isinstance(value, (list, tuple)) else value


def _differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Paths at which two recipes differ.

    >>> _differences({"a": {"b": 1, "c": 2}, "d": [3]}, {"a": {"b": 1, "c": 5}, "d": [3, 4]})
    ['a.c', 'd']
    """
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [path] if old != new else []
    inside = ((key, f"{path}.{key}" if path else key) for key in {**old, **new})
    return [d for key, name in inside for d in _differences(old.get(key), new.get(key), name)]
