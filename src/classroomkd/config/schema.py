"""The recipe of one run: its fields, and what is checked about each before anything is loaded."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from classroomkd.errors import nearest_path, unknown_name

Role = Literal["teacher", "peer"]


def _known_model(name: str) -> str:
    from classroomkd.models import canonical_name

    return canonical_name(name)


def _existing(path: Path) -> Path:
    if not path.exists():
        raise ValueError(f"no such file or folder: {path}{nearest_path(path)}")
    return path


def _file(path: Path) -> Path:
    if _existing(path).is_dir():
        raise ValueError(f"{path} is a folder, not a file of weights")
    return path


def _run_with_student(path: Path) -> Path:
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


ModelName = Annotated[str, AfterValidator(_known_model)]
UserPath = Annotated[Path, AfterValidator(Path.expanduser)]
ExistingPath = Annotated[UserPath, AfterValidator(_existing)]
ExistingFile = Annotated[UserPath, AfterValidator(_file)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
Count = Annotated[int, Field(ge=1)]
Place = Annotated[int, Field(ge=0)]


class Section(BaseModel):
    """A part of a recipe: unknown keys are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class View(BaseModel):
    """One augmentation by name, such as ``{name: crop, padding: 4}``."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str

    @property
    def options(self) -> dict[str, Any]:
        """What is given to the view beside its name."""
        return dict(self.model_extra or {})

    @model_validator(mode="after")
    def _check(self) -> Self:
        from classroomkd.data import create_view

        try:
            create_view(self.name, **self.options)
        except TypeError as error:
            raise ValueError(f"view '{self.name}': {error}") from error
        return self


_CROP_AND_FLIP = ({"name": "crop", "padding": 4}, {"name": "flip"})
_VIEWS = {
    "digits": ({"name": "crop", "padding": 1},),
    "cifar10": _CROP_AND_FLIP,
    "cifar100": _CROP_AND_FLIP,
    "folder": ({"name": "resized_crop"}, {"name": "flip"}),
}
_STRONG = {"digits": {"name": "erase"}}  # after the usual views, in a second view
_OF_FOLDERS = ("size", "centre", "test", "bad_images", "workers", "mean", "std")


class Data(Section):
    """The data set, its development split and its views."""

    name: str = Field(default="cifar100", description="data set: see `classroomkd list datasets`")
    path: ExistingPath | None = Field(
        default=None,
        description="folder in torchvision's layout or Parquet; of photographs, with"
        " train/<class>/ and val/<class>/, or <class>/",
    )
    hub: str | None = Field(default=None, description="name of a data set on the Hugging Face hub")
    dev: float | int = Field(default=0.1, description="development split: a share, a count, or 0")
    dev_seed: int = Field(
        default=0, description="seed of the split: keep it equal over seeds of a run"
    )
    augment: tuple[View, ...] = Field(
        default=(), description="views; the data set's usual if left out"
    )
    second: tuple[View, ...] = Field(
        default=(),
        description="views of each sample's second view, for methods that want two;"
        " the data set's usual and a strong one if left out",
    )

    view_seed: Seed | None = Field(
        default=None,
        description="seed of the views; the recipe's if left out. Runs of several seeds share a"
        " bank only with one seed of views",
    )
    repeat: Count | None = Field(
        default=None,
        description="how many views of a sample there are, which repeat over the epochs: as many"
        " as epochs if left out",
    )
    size: Annotated[int, Field(ge=8)] | None = Field(
        default=None, description="folder: pixels along each side of what is shown; usually 224"
    )
    centre: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None,
        description="folder: share of the shorter side that an evaluation shows; usually 0.875",
    )
    test: Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None,
        description="folder: share or count for the test, where no folder is; usually 0.2",
    )
    bad_images: Literal["error", "skip"] | None = Field(
        default=None, description="folder: what to do about damaged images; usually error"
    )
    workers: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="folder: processes that decode; up to 8 if left out"
    )
    mean: tuple[float, float, float] | None = Field(
        default=None, description="folder: of the pixels, from 0 to 1; ImageNet's if left out"
    )
    std: tuple[Positive, Positive, Positive] | None = Field(
        default=None, description="folder: likewise"
    )

    @property
    def reading(self) -> dict[str, Any]:
        """What the data set's reader is told beside path and hub."""
        if self.name != "folder":
            return {}
        given = {key: value for key in _OF_FOLDERS if (value := getattr(self, key)) is not None}
        return {**given, "seed": self.dev_seed}

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        from classroomkd.data import list_datasets

        if name not in list_datasets():
            raise ValueError(unknown_name("data set", name, list_datasets()))
        return name

    @field_validator("dev", mode="before")
    @classmethod
    def _share_or_count(cls, dev: Any) -> Any:
        try:
            size = dev if isinstance(dev, int) else float(dev)
        except (TypeError, ValueError):
            size = -1
        if isinstance(dev, bool) or not size >= 0 or (isinstance(size, float) and size >= 1):
            raise ValueError(f"give a share below 1.0, a whole number, or 0, not {dev!r}")
        return size

    @model_validator(mode="before")
    @classmethod
    def _views_of_the_set(cls, raw: Any) -> Any:
        if not isinstance(raw, dict):
            return raw
        name = str(raw.get("name", "cifar100"))
        usual = _VIEWS.get(name, ())
        defaults = {
            "augment": usual,
            "second": (*usual, _STRONG.get(name, {"name": "randaugment"})),
        }
        return {**raw, **{key: v for key, v in defaults.items() if raw.get(key) is None}}

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if self.path and self.hub:
            raise ValueError("give path or hub, not both")
        return self

    @model_validator(mode="after")
    def _options_of_the_set(self) -> Self:
        given = [key for key in _OF_FOLDERS if getattr(self, key) is not None]
        if self.name == "folder" and self.path is None:
            raise ValueError("folder needs path: where the folders of images are")
        if self.name != "folder" and given:
            raise ValueError(f"{', '.join(given)}: only for name: folder, not {self.name}")
        return self


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


class MentorRecipe(Section):
    """A mentor: a run of this project, a file with weights, or a model that comes with weights.

    One that trains along may do without weights.
    """

    run: Annotated[UserPath, AfterValidator(_run_with_student)] | None = None
    outputs: Annotated[UserPath, AfterValidator(_shelf)] | None = Field(
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
        default=None, description="of the checkpoint's pixels"
    )
    std: tuple[Positive, Positive, Positive] | None = None
    role: Role = "peer"
    train: bool = Field(default=False, description="whether it trains along with the student")
    name: str | None = Field(default=None, description="in reports; the model's name if left out")

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


class SGD(Section):
    """Stochastic gradient descent."""

    name: Literal["sgd"] = "sgd"
    lr: Positive = 0.05
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: float = Field(default=5e-4, ge=0)

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> Self:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0")
        return self


class AdamW(Section):
    """Adam with decoupled weight decay."""

    name: Literal["adamw"]
    lr: Positive = 1e-3
    weight_decay: float = Field(default=0.05, ge=0)


class Step(Section):
    """Divide the learning rate at milestones (epochs)."""

    name: Literal["step"]
    milestones: tuple[Annotated[int, Field(gt=0)], ...] = (150, 180, 210)
    gamma: Positive = 0.1
    warmup_epochs: float = Field(default=0, ge=0)


class Cosine(Section):
    """Half a cosine from the learning rate to 0."""

    name: Literal["cosine"]
    warmup_epochs: float = Field(default=0, ge=0)


class OneCycle(Section):
    """Rise to the learning rate, then fall to nearly 0; both along a cosine."""

    name: Literal["onecycle"] = "onecycle"
    rise: float = Field(default=0.3, gt=0, lt=1, description="share of the steps in which it rises")


class Skip(Section):
    """Ask mentors that hardly teach only now and then (not in the paper)."""

    below: float = Field(default=0.05, gt=0, le=1, description="share of samples that they teach")
    every: int = Field(default=16, ge=2, description="steps from one roll call to the next")


class Train(Section):
    """Optimisation."""

    epochs: int = Field(default=12, gt=0)
    batch_size: int = Field(default=128, gt=0)
    optimizer: Annotated[SGD | AdamW, Field(discriminator="name")] = SGD()
    schedule: Annotated[Step | Cosine | OneCycle, Field(discriminator="name")] = OneCycle()
    precision: Literal["fp32", "bf16"] = "bf16"
    channels_last: bool = True
    ema: float | None = Field(
        default=None, gt=0, lt=1, description="decay of averaged weights, per step"
    )
    clip: Positive | None = Field(default=None, description="largest norm of the gradient")
    tune: bool = Field(
        default=True,
        description="find the fastest way to run each frozen mentor, where the run is long enough",
    )
    skip: Skip | None = Field(default=None, description="mentors that hardly teach; {} for usual")
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:1")

    @field_validator("optimizer", "schedule", mode="before")
    @classmethod
    def _usual(cls, raw: Any, info: ValidationInfo) -> Any:
        """Options without a name are those of the usual optimizer or schedule."""
        usual = cls.model_fields[str(info.field_name)].default
        return {"name": usual.name, **raw} if isinstance(raw, dict) else raw

    @field_validator("device")
    @classmethod
    def _device(cls, device: str) -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?", device):
            raise ValueError(f"unknown device '{device}' (known: auto, cpu, cuda, cuda:N)")
        return device


class Bank(Section):
    """Where mentors' outputs are stored, for this run and others with the same views."""

    path: UserPath = Field(description="folder; see `classroomkd bank build`")
    top: Count | None = Field(
        default=None, description="classes stored beside the true one; all if left out"
    )
    limit_gb: Positive = Field(default=20.0, description="size that the folder may have")


class Recipe(Section):
    """Everything that decides a run."""

    name: str = Field(
        pattern=r"^[^/\\]*[^/\\.][^/\\]*$", description="the run's folder is runs/<name>"
    )
    seed: Seed = 0
    task: Literal["classification"] = "classification"
    data: Data = Data()
    student: Student
    mentors: tuple[MentorRecipe, ...] = ()
    method: MethodRecipe = MethodRecipe()
    train: Train = Train()
    bank: Bank | None = None

    @model_validator(mode="after")
    def _mutual(self) -> Self:
        from classroomkd.methods import create_method, option_mistakes

        learning = [place for place, mentor in enumerate(self.mentors) if mentor.train]
        name, options = self.method.name, self.method.options
        if not learning or option_mistakes(name, options):
            return self
        if not create_method(name, **options).mutual:
            raise ValueError(
                f"mentors[{learning[0]}].train: mentors cannot train along with the method"
                f" '{name}': use one of logits that listens to all, such as dml"
            )
        return self

    def to_yaml(self) -> str:
        """The resolved recipe as YAML, defaults included."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
