"""The recipe of one run: its fields, and what is checked about each before anything is loaded."""

from typing import Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from classroomkd.config.data import Data, View
from classroomkd.config.fields import (
    Count,
    ExistingFile,
    FolderName,
    FromRun,
    MentorStore,
    ModelName,
    Place,
    Positive,
    Role,
    Section,
    Seed,
    UserPath,
)
from classroomkd.config.training import SGD, AdamW, Cosine, OneCycle, Skip, Step, Train
from classroomkd.config.validate import validate


def _check_pretrained(entry: Any) -> Any:
    """A ValueError for a model of the zoo, which nobody offers weights for."""
    if entry.pretrained and "/" not in (entry.model or ""):
        raise ValueError(
            "pretrained needs a model of another library, such as timm/resnet18.a1_in1k"
            " (see `classroomkd list models`)"
        )
    return entry


class Student(Section):
    """The network to train."""

    model: ModelName = Field(description="see `classroomkd list models`")
    checkpoint: ExistingFile | None = Field(default=None, description="weights to start from")
    pretrained: bool = Field(
        default=False,
        description="start from the weights that another library offers, with a fresh classifier",
    )

    @model_validator(mode="after")
    def _one_start(self) -> Self:
        if self.pretrained and self.checkpoint is not None:
            raise ValueError("give checkpoint or pretrained, not both")
        return _check_pretrained(self)


class MentorRecipe(FromRun):
    """A mentor: a run of this project, a file with weights, or a model that comes with weights.

    One that trains along may do without weights.
    """

    outputs: MentorStore | None = Field(
        default=None, description="its folder in a bank, for a mentor that cannot run here"
    )
    checkpoint: ExistingFile | None = Field(default=None, description=".safetensors, .pt or .pth")
    pretrained: bool = Field(
        default=False, description="the weights that another library offers for model"
    )
    model: ModelName | None = Field(default=None, description="of the weights")
    classes: Literal["imagenet"] | tuple[str, ...] | None = Field(
        default=None, description="names in the order of the logits, or imagenet"
    )
    labels: tuple[Place, ...] | dict[str, str | Place] | None = Field(
        default=None,
        description="its class for each of the data: places among its logits in the data's order,"
        " or its name or place for classes of the data by name",
    )
    mean: tuple[float, float, float] | None = Field(
        default=None, description="of the checkpoint's pixels, which go from 0 to 1"
    )
    std: tuple[Positive, Positive, Positive] | None = None
    role: Role = "peer"
    train: bool = Field(default=False, description="whether it trains along with the student")
    name: str | None = Field(default=None, description="in reports; the model's name if left out")

    @field_validator("mean", "std")
    @classmethod
    def _of_unit_pixels(cls, values: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if any(not 0 <= value <= 1 for value in values or ()):
            raise ValueError(
                f"must be that of pixels from 0 to 1 (where they went to 255, divide it by 255),"
                f" not {list(values or ())}"
            )
        return values

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        files = (self.run, self.checkpoint, self.outputs)
        given = sum(source is not None for source in files) + self.pretrained
        fresh = self.train and given == 0 and self.model is not None
        if not fresh and given != 1:
            raise ValueError(
                "give one of run (a run folder), checkpoint (a file) with model, and outputs"
                " (its folder in a bank); or pretrained: true with model, for weights of another"
                " library; or train: true with model, to start from nothing"
            )
        if self.outputs is not None and self.train:
            raise ValueError("a mentor whose outputs alone are here cannot train along")
        if self.checkpoint is not None and self.model is None:
            raise ValueError("a checkpoint needs model: the name of its network")
        return _check_pretrained(self)

    @model_validator(mode="after")
    def _nothing_that_the_source_knows(self) -> Self:
        known = {
            "a run": (self.run is not None, ("model", "classes", "mean", "std")),
            "a bank": (self.outputs is not None, ("model", "classes", "labels", "mean", "std")),
            "a pretrained model": (self.pretrained, ("mean", "std")),
        }
        for source, (here, fields) in known.items():
            if here and (extra := [key for key in fields if getattr(self, key) is not None]):
                raise ValueError(f"{source} knows its own {', '.join(extra)}: leave it out")
        return self


class MethodRecipe(BaseModel):
    """The method and its options, such as ``{name: classroom, temperature: 8}``."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str = "classroom"

    @property
    def options(self) -> dict[str, Any]:
        """What is given to the method beside its name."""
        return dict(self.model_extra or {})

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        from classroomkd.methods import method_class

        return method_class(name).name


class Bank(Section):
    """Where mentors' outputs are stored, for this run and others with the same views."""

    path: UserPath = Field(description="folder; see `classroomkd bank build`")
    top: Count | None = Field(
        default=None, description="classes stored beside the true one; all if left out"
    )
    limit_gb: Positive = Field(default=20.0, description="size that the folder may have")


class RunRecipe(Section):
    """What every run has, whatever its task."""

    name: FolderName = Field(description="the run's folder is runs/<name>")
    seed: Seed = 0

    def to_yaml(self) -> str:
        """The resolved recipe as YAML, defaults included."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


class Recipe(RunRecipe):
    """Everything that decides a run in classification."""

    task: Literal["classification"] = "classification"
    data: Data = Data()
    student: Student
    mentors: tuple[MentorRecipe, ...] = ()
    method: MethodRecipe = MethodRecipe()
    train: Train = Train()
    bank: Bank | None = None

    @model_validator(mode="after")
    def _together(self) -> Self:
        if found := list(validate(self)):
            raise ValueError("\n".join(found))
        return self


__all__ = [
    "AdamW",
    "Bank",
    "Cosine",
    "Data",
    "MentorRecipe",
    "MethodRecipe",
    "OneCycle",
    "Recipe",
    "Role",
    "RunRecipe",
    "SGD",
    "Section",
    "Skip",
    "Step",
    "Student",
    "Train",
    "View",
]
