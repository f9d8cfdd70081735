"""The recipe of one run in image classification."""

from collections.abc import Iterator
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from classroomkd.config.fields import ExistingFile, ModelName, Place, Positive, Section
from classroomkd.config.schema import MentorSection, RunRecipe
from classroomkd.config.validate import validate
from classroomkd.tasks.classification.images import Data


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


class MentorRecipe(MentorSection):
    """A mentor: a run of this project, a file with weights, or a model that comes with weights.

    One that trains along may do without weights.
    """

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


class Recipe(RunRecipe):
    """Everything that decides a run in classification."""

    task: Literal["classification"] = "classification"
    data: Data = Data()
    student: Student
    mentors: tuple[MentorRecipe, ...] = ()

    @model_validator(mode="after")
    def _together(self) -> Self:
        if found := [*validate(self), *self._clashes()]:
            raise ValueError("\n".join(found))
        return self

    def _clashes(self) -> Iterator[str]:
        stored = self.bank is not None or any(mentor.outputs for mentor in self.mentors)
        if stored and self.data.copies > 1:
            yield (
                "data.copies: a bank holds one view of a sample for each epoch: leave out"
                " data.copies, or the bank"
            )
