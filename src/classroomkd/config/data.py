"""The part of a recipe that says which images, and in which views."""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from classroomkd.config.fields import Count, ExistingPath, Positive, Section, Seed
from classroomkd.errors import unknown_name


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
