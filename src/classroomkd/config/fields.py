"""What the fields of recipes share: their types, and what is checked about each."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    model_validator,
)

from classroomkd.errors import nearest_path
from classroomkd.recipes.lineups import how_to_make

Role = Literal["teacher", "peer"]


def _known_model(name: str) -> str:
    from classroomkd.models import canonical_name

    return canonical_name(name)


def missing(path: Path) -> str:
    """Say that nothing is at a path: what has a near name there, or where it was looked for."""
    here = "" if path.is_absolute() else f" (in the current folder, {Path.cwd()})"
    return f"no such file or folder: {path}{nearest_path(path) or here}"


def _existing(path: Path) -> Path:
    if not path.exists():
        raise ValueError(missing(path))
    return path


def _file(path: Path) -> Path:
    if _existing(path).is_dir():
        raise ValueError(f"{path} is a folder, not a file of weights")
    return path


def _run_with_student(path: Path) -> Path:
    if not path.exists() and (command := how_to_make(path)):
        raise ValueError(f"no such file or folder: {path}: `{command}` makes it")
    _existing(path)
    if not (path / "student.safetensors").exists():
        raise ValueError(
            f"{path} has no student.safetensors: has this run been trained to its end?"
        )
    return path


def _shelf(path: Path) -> Path:
    _existing(path)
    if not (path / "mentor.json").exists():
        raise ValueError(f"{path} has no mentor.json: give a mentor's folder in a bank")
    return path


def _name_of_folder(name: str) -> str:
    """The name, if a folder can be called so."""
    if not name.strip(".") or "/" in name or "\\" in name:
        raise ValueError(f"its folder is runs/<name>: give a name without / or \\, not {name!r}")
    return name


ModelName = Annotated[str, AfterValidator(_known_model)]
FolderName = Annotated[str, AfterValidator(_name_of_folder)]
UserPath = Annotated[Path, AfterValidator(Path.expanduser)]
RunWithStudent = Annotated[UserPath, AfterValidator(_run_with_student)]
MentorStore = Annotated[UserPath, AfterValidator(_shelf)]
ExistingPath = Annotated[UserPath, AfterValidator(_existing)]
ExistingFile = Annotated[UserPath, AfterValidator(_file)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
Count = Annotated[int, Field(ge=1)]
Place = Annotated[int, Field(ge=0)]


class Section(BaseModel):
    """A part of a recipe: unknown keys are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FromRun(Section):
    """What may come from a run: its student, of the chosen epoch or of one that was kept."""

    run: RunWithStudent | None = None
    epoch: Count | None = Field(
        default=None,
        description="of run: its student at the end of this epoch, one of its train.snapshots; the"
        " chosen one if left out",
    )

    @property
    def student_folder(self) -> Path | None:
        """Where the student's files are; None without a run."""
        return self.run and (snapshot_folder(self.run, self.epoch) if self.epoch else self.run)

    @model_validator(mode="after")
    def _kept(self) -> Self:
        if self.epoch is None or self.run is None:
            if self.epoch is not None:
                raise ValueError("epoch is of a run: give run")
            return self
        if self.epoch not in (kept := kept_epochs(self.run)):
            there = f"it has: {', '.join(map(str, kept))}" if kept else "it has none"
            raise ValueError(
                f"{self.run} has no snapshot of epoch {self.epoch} ({there}); train it with"
                f" train.snapshots=[{self.epoch}]"
            )
        return self


def snapshot_folder(run: Path, epoch: int) -> Path:
    """Folder of a run's student at the end of an epoch, from 1.

    >>> snapshot_folder(Path("runs/x"), 2).as_posix()
    'runs/x/snapshots/e0002'
    """
    return run / "snapshots" / f"e{epoch:04d}"


def kept_epochs(run: Path) -> list[int]:
    """The epochs, from 1, of which a run has snapshots."""
    found = run.glob("snapshots/e*/student.safetensors")
    return sorted(int(file.parent.name[1:]) for file in found)
