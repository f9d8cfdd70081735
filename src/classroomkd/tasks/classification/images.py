"""The part of a recipe that says which images, and in which views."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from classroomkd.config.fields import Count, Section, Seed, UserPath, missing
from classroomkd.config.schema import DataSection
from classroomkd.errors import nearest_path, unknown_name

if TYPE_CHECKING:
    from classroomkd.data import Mixing


def _existing_or_pattern(path: Path) -> Path:
    from classroomkd.data.splits import is_pattern

    if not path.exists() and not is_pattern(path):
        raise ValueError(missing(path))
    return path


def _class_choice(chosen: Any) -> Any:
    """Classes as a list, also where one class or one range is given alone."""
    from classroomkd.data.selection import CLASS_RANGE

    items = list(chosen) if isinstance(chosen, list | tuple) else [chosen]
    if not items:
        raise ValueError("is empty: give a class at least, or leave it out")
    for item in items:
        negative = isinstance(item, int) and item < 0
        if isinstance(item, bool) or not isinstance(item, int | str) or negative:
            raise ValueError(
                f"must be names of classes, numbers from 0, or ranges such as 0-49, got {item!r}"
            )
        ends = CLASS_RANGE.fullmatch(str(item))
        if ends is not None and int(ends[1]) > int(ends[2]):
            raise ValueError(f"ranges go up, as in {ends[2]}-{ends[1]}, not {item}")
    return items


DataPath = Annotated[UserPath, AfterValidator(_existing_or_pattern)]
Alpha = Annotated[float, Field(ge=0, le=1e6)]
Share = Annotated[float, Field(ge=0, le=1)]
ClassChoice = Annotated[tuple[int | str, ...], BeforeValidator(_class_choice)]
Spread = Annotated[float, Field(gt=0, le=1)]


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


class Mix(Section):
    """How samples are mixed in training; see `classroomkd.data.Mixing`."""

    mixup: Alpha = Field(default=0.0, description="alpha of mixup, such as 0.8; 0 for none")
    cutmix: Alpha = Field(default=0.0, description="alpha of cutmix, such as 1.0; 0 for none")
    switch: Share = Field(default=0.5, description="probability of cutmix where both are on")
    p: Share = Field(default=1.0, description="probability that a sample is mixed")

    @model_validator(mode="after")
    def _some_kind(self) -> Self:
        if not self.model_fields_set & {"mixup", "cutmix"}:
            raise ValueError("give mixup, cutmix or both: their alpha, such as mixup: 0.8")
        return self


class Noise(Section):
    """Wrong labels in training; see `classroomkd.data.LabelNoise`."""

    rate: Share = Field(description="probability that a label is replaced by another class")
    classes: ClassChoice | None = Field(
        default=None,
        description="whose labels: names, numbers from 0, or a range such as 0-49; all if left out",
    )
    seed: Seed = Field(default=0, description="of the choice")


PHOTOGRAPHS = ("folder", "imagenet", "shards", "table")
_CROP_AND_FLIP = ({"name": "crop", "padding": 4}, {"name": "flip"})
_VIEWS = {
    "digits": ({"name": "crop", "padding": 1},),
    "cifar10": _CROP_AND_FLIP,
    "cifar100": _CROP_AND_FLIP,
    **dict.fromkeys(PHOTOGRAPHS, ({"name": "resized_crop"}, {"name": "flip"})),
}
_STRONG = {"digits": {"name": "erase"}}  # after the usual views, in a second view
_SHOWN = ("size", "centre", "test", "bad_images", "workers", "mean", "std")
_OPTIONS = {
    "folder": _SHOWN,
    "imagenet": _SHOWN,
    "shards": (*_SHOWN, "image", "label", "classes"),
    "table": (*_SHOWN, "image", "label", "classes", "subset"),
}
_EVERY_OPTION = tuple(dict.fromkeys(option for known in _OPTIONS.values() for option in known))


class Data(DataSection):
    """The data set, its development split and its views."""

    name: str = Field(default="cifar100", description="data set: see `classroomkd list datasets`")
    path: DataPath | None = Field(
        default=None,
        description="folder in torchvision's layout or Parquet; of photographs, with"
        " train/<class>/ and val/<class>/, or <class>/; for a table, Parquet files, and for shards,"
        " tar files: a folder, or a pattern such as shards/{000..127}.tar",
    )
    hub: str | None = Field(default=None, description="name of a data set on the Hugging Face hub")
    train_classes: ClassChoice | None = Field(
        default=None,
        description="train on samples of these classes alone: names, numbers from 0, or a range"
        " such as 0-49. The network keeps an output for each class; development and test keep all",
    )
    fraction: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1.0, description="share of the training samples to train on, of each class alike"
    )
    fraction_seed: Seed = Field(default=0, description="seed of that choice")
    noise: Noise | None = Field(
        default=None,
        description="wrong labels in training, such as {rate: 0.4}: symmetric noise; those of"
        " development and test stay as they are",
    )
    augment: tuple[View, ...] = Field(
        default=(), description="views; the data set's usual if left out"
    )
    second: tuple[View, ...] = Field(
        default=(),
        description="views of each sample's second view, for methods that want two;"
        " the data set's usual and a strong one if left out",
    )

    mix: Mix | None = Field(
        default=None, description="mixup and cutmix of training images and their targets"
    )
    smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="label smoothing: the part of a target that all classes share"
    )
    copies: Count = Field(
        default=1,
        description="how often an epoch shows a sample, each time in another view (repeated"
        " augmentation); an epoch keeps its length, and shows as many fewer samples",
    )
    image: str | None = Field(
        default=None,
        description="table: the column of the images; shards: their extension; found if left out",
    )
    label: str | None = Field(
        default=None,
        description="table: the column of the labels, found if left out; shards: their extension"
        " or json.<field>; usually cls",
    )
    classes: tuple[str, ...] | str | None = Field(
        default=None,
        description="table, shards: names of the classes in the order of the labels: a list, a"
        " text file with one a line, or imagenet; the data's own if left out",
    )
    subset: str | None = Field(
        default=None, description="table: configuration of the hub's set, or folder of path"
    )
    size: Annotated[int, Field(ge=8)] | None = Field(
        default=None,
        description="photographs: pixels along each side of what is shown; usually 224",
    )
    centre: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None,
        description="photographs: share of the shorter side that an evaluation shows;"
        " usually 0.875",
    )
    test: Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None,
        description="photographs: share or count for the test, where none are set apart for it;"
        " usually 0.2",
    )
    bad_images: Literal["error", "skip"] | None = Field(
        default=None, description="photographs: what to do about damaged images; usually error"
    )
    workers: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="photographs: processes that decode; up to 8 if left out"
    )
    mean: tuple[Share, Share, Share] | None = Field(
        default=None, description="photographs: of the pixels, from 0 to 1; ImageNet's if left out"
    )
    std: tuple[Spread, Spread, Spread] | None = Field(
        default=None, description="photographs: likewise"
    )

    @property
    def mixing(self) -> "Mixing | None":
        """What samples are mixed with; None if they are not."""
        from classroomkd.data import Mixing

        mixing = Mixing(**self.mix.model_dump()) if self.mix else None
        return mixing if mixing and mixing.on else None

    @property
    def selection(self) -> dict[str, Any]:
        """What of the training set is learnt from: options of `training_selection`."""
        from classroomkd.data import LabelNoise

        noise = LabelNoise(**self.noise.model_dump()) if self.noise else None
        chosen = {"classes": self.train_classes, "fraction": self.fraction}
        return {**chosen, "seed": self.fraction_seed, "noise": noise}

    @property
    def reading(self) -> dict[str, Any]:
        """What the data set's reader is told beside path and hub."""
        if self.name not in _OPTIONS:
            return {}
        own = _OPTIONS[self.name]
        given = {key: value for key in own if (value := getattr(self, key)) is not None}
        return {**given, "seed": self.dev_seed}

    @field_validator("classes")
    @classmethod
    def _names_or_file(cls, classes: tuple[str, ...] | str | None) -> tuple[str, ...] | str | None:
        if isinstance(classes, str) and classes != "imagenet":
            file = Path(classes).expanduser()
            if not file.is_file():
                raise ValueError(f"no such file: {file}{nearest_path(file)}; or give imagenet")
        return classes

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        from classroomkd.data import list_datasets

        if name not in list_datasets():
            raise ValueError(unknown_name("data set", name, list_datasets()))
        return name

    @model_validator(mode="before")
    @classmethod
    def _views_of_the_set(cls, raw: Any) -> Any:
        if not isinstance(raw, dict):
            return raw
        raw = dict(raw)
        if raw.pop("streaming", False):  # that of earlier releases; false meant nothing
            raise ValueError(
                "streaming: is no more: leave it out. A table is stored once, in the cache of"
                " `datasets` (on the disk that $HF_HOME names), and mapped into memory; what has no"
                " room there twice is read where it lies as tar files (name: shards)"
            )
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
        own = _OPTIONS.get(self.name, ())
        wrong = [key for key in _EVERY_OPTION if getattr(self, key) is not None and key not in own]
        if wrong:
            known = ", ".join(name for name, options in _OPTIONS.items() if wrong[0] in options)
            raise ValueError(f"{', '.join(wrong)}: only for name: {known}, not {self.name}")
        if self.name in PHOTOGRAPHS and not (self.path or self.hub):
            also = " or hub" if self.name == "table" else ""
            raise ValueError(f"{self.name} needs path{also}: where the photographs are")
        if self.name in PHOTOGRAPHS and self.name != "table" and self.hub:
            raise ValueError(f"hub: not for {self.name}: what is on the hub is a table")
        if self.path and self.name not in ("shards", "table") and not self.path.exists():
            raise ValueError(f"path: {self.name} takes a folder, not a pattern: {self.path}")
        return self
