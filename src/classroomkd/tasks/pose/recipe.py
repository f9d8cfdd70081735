"""The recipe of one run in pose estimation: a student that finds joints in crops of persons."""

import warnings
from collections.abc import Iterator
from dataclasses import fields
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from classroomkd.config.fields import ExistingFile, ExistingPath, Positive, Section, UserPath
from classroomkd.config.schema import DataSection, MentorSection, RunRecipe
from classroomkd.config.validate import build_method, validate
from classroomkd.errors import unknown_name

Pixels = Annotated[int, Field(ge=16)]
Size = tuple[Pixels, Pixels]


def _pose_model(name: str) -> str:
    from classroomkd.tasks.pose.models import parse_pose_name

    return str(parse_pose_name(name))


PoseModelName = Annotated[str, AfterValidator(_pose_model)]


class PoseData(DataSection):
    """The persons, their development split and their views."""

    name: str = Field(description="coco (any set in its format), mpii or lspet")
    path: ExistingPath | None = Field(default=None, description="folder of the data set")
    category: str | None = Field(default=None, description="coco: whose joints; usually person")
    joints: Literal["coco", "mpii", "lsp"] | None = Field(
        default=None, description="coco: which joints to keep; all of the category if left out"
    )
    boxes: UserPath | None = Field(
        default=None, description="coco: detected boxes for the test, in COCO's results format"
    )
    heads: UserPath | None = Field(
        default=None, description="mpii: file of head boxes, where annotations are JSON"
    )
    bad: Literal["error", "skip"] = Field(
        default="error", description="what to do about annotations that cannot be used"
    )
    padding: Positive = Field(
        default=1.25, description="how many times as large as the box a plain crop is"
    )
    views: dict[str, Any] = Field(
        default_factory=dict,
        description="of training: flip, scale, rotation, rotation_probability, shift, half_body",
    )
    workers: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="threads or processes that decode images; up to 8 if left out"
    )

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        from classroomkd.tasks.pose.data import list_persons

        if name not in list_persons():
            raise ValueError(unknown_name("pose data set", name, list_persons()))
        return name

    @field_validator("views")
    @classmethod
    def _ranges(cls, views: dict[str, Any]) -> dict[str, Any]:
        from classroomkd.tasks.pose.data import PoseViews

        try:
            PoseViews(**views)
        except TypeError as error:
            known = ", ".join(field.name for field in fields(PoseViews))
            raise ValueError(f"{str(error).split(') ')[-1]} (known: {known})") from error
        return views


class PoseStudent(Section):
    """The network to train."""

    model: PoseModelName = Field(description="such as pose/small/heatmap or pose/resnet18/simcc")
    input: Size = Field(default=(256, 192), description="height and width of a crop, in pixels")
    options: dict[str, Any] = Field(default_factory=dict, description="of the model")
    checkpoint: ExistingFile | None = Field(default=None, description="weights to start from")
    pretrained: bool = Field(default=False, description="start from ImageNet's weights (timm)")


class PoseMentorRecipe(MentorSection):
    """A mentor: a run of this project, or a model of another library with its weights."""

    model: PoseModelName | None = Field(
        default=None, description="pose/hf/<hub id or folder> or pose/torchvision/<name>"
    )
    checkpoint: ExistingFile | None = Field(default=None, description="weights of model")
    joints: Literal["coco", "mpii", "lsp"] | None = Field(
        default=None, description="the joints that model finds; coco's if left out"
    )
    input: Size | None = Field(
        default=None, description="height and width that model takes; its own, or the student's"
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if sum(source is not None for source in (self.run, self.model, self.outputs)) != 1:
            raise ValueError(
                "give one of run (a run folder), model (of another library) and outputs (its folder"
                " in a bank)"
            )
        if self.outputs is not None and self.train:
            raise ValueError("a mentor whose outputs alone are here cannot train along")
        known = ("checkpoint", "joints", "input")
        if self.run and (extra := [key for key in known if getattr(self, key) is not None]):
            raise ValueError(f"a run knows its own {', '.join(extra)}: leave it out")
        return self


class LossSection(Section):
    """What units, scores and the task are."""

    score: Literal["auto", "likelihood", "oks"] = Field(
        default="auto",
        description="rank by the likelihood of the truth, or by OKS of the decoded joints;"
        " auto: by OKS where heads, sizes or joints differ",
    )
    task: Literal["ce", "mse"] = Field(
        default="ce",
        description="the student's own loss: ce, the cross-entropy over bins, or mse, beta**2/2"
        " times the squared error of heatmaps; mse if left out with fpd and okdhp",
    )
    unlabelled: Literal["leave", "teach"] = Field(
        default="leave", description="joints without label: teach them at their sample's rank"
    )
    flip_test: bool = Field(default=True, description="judge on the mean with the mirror image")


def _own_task(method: Any) -> str | None:
    """The task that a method brings; None for a method that has none, or is not known."""
    from classroomkd.methods import list_methods, method_class

    return method_class(method).own_task if method in list_methods() else None


class PoseRecipe(RunRecipe):
    """Everything that decides a run in pose estimation."""

    task: Literal["pose"] = "pose"
    data: PoseData
    student: PoseStudent
    mentors: tuple[PoseMentorRecipe, ...] = ()
    loss: LossSection = LossSection()

    @classmethod
    def translate(cls, raw: dict[str, Any]) -> dict[str, Any]:
        """Joints are units in ``method.group``; ``loss`` was called ``lessons`` before 0.2."""
        method = raw.get("method")
        if isinstance(method, dict) and method.get("group") == "joint":
            raw = {**raw, "method": {**method, "group": "unit"}}
        if "lessons" in raw and "loss" not in raw:
            text = (
                "lessons is now called loss in pose recipes; the old key goes in the next release"
            )
            warnings.warn(text, DeprecationWarning, stacklevel=2)
            raw = {**raw, "loss": raw["lessons"]}
            del raw["lessons"]
        return raw

    @model_validator(mode="before")
    @classmethod
    def _usual_optimizer(cls, raw: Any) -> Any:
        """AdamW, as is usual for poses: logits are ten times the outputs, too steep for SGD."""
        train = raw.get("train") or {} if isinstance(raw, dict) else None
        if not isinstance(train, dict) or train.get("optimizer") is not None:
            return raw
        return {**raw, "train": {**train, "optimizer": {"name": "adamw", "lr": 2e-3}}}

    @model_validator(mode="before")
    @classmethod
    def _task_of_the_method(cls, raw: Any) -> Any:
        """The method's own task, where the recipe leaves it open."""
        method = raw.get("method") if isinstance(raw, dict) else None
        name = method.get("name") if isinstance(method, dict) else None
        loss = raw.get("loss") or {} if isinstance(raw, dict) else None
        if not isinstance(loss, dict) or "task" in loss or not (own := _own_task(name)):
            return raw
        return {**raw, "loss": {**loss, "task": own}}

    @model_validator(mode="after")
    def _together(self) -> Self:
        if found := [*validate(self), *self._clashes()]:
            raise ValueError("\n".join(found))
        return self

    def _clashes(self) -> Iterator[str]:
        method = build_method(self.method)
        if method and (not method.takes_units or not method.soft_targets):
            yield (
                f"method: '{method.name}' reads more than logits of units or feature maps: in pose"
                " use none, aver, kd, fpd, dwpose, okdhp, classroom, or one of maps such as at"
            )
        if (own := _own_task(self.method.name)) and self.loss.task != own:
            yield (
                f"loss.task: {self.method.name} is made for {own}, and its mentors would not be"
                f" seen beside {self.loss.task}: leave loss.task out, or set it to {own}"
            )
        if method and method.needs_accuracy:
            yield "method.prior: mentors of poses are not measured before training; leave it out"
