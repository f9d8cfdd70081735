"""The recipe of one run: what every task has, and what is checked before anything is loaded."""

from collections.abc import Sequence
from itertools import count
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator

from classroomkd.config.fields import (
    Count,
    FolderName,
    FromRun,
    MentorStore,
    Positive,
    Role,
    Section,
    Seed,
    UserPath,
)
from classroomkd.config.training import Train
from classroomkd.moved import names_of


class DataSection(Section):
    """What every task's data have: their name, the development split, the seed of the views."""

    name: str
    dev: float | int = Field(default=0.1, description="development split: a share, a count, or 0")
    dev_seed: int = Field(
        default=0, description="seed of the split: keep it equal over seeds of a run"
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


class MentorSection(FromRun):
    """What every task's mentors have, beside where their networks come from."""

    outputs: MentorStore | None = Field(
        default=None, description="its folder in a bank, for a mentor that cannot run here"
    )
    role: Role = "peer"
    train: bool = Field(default=False, description="whether it trains along with the student")
    name: str | None = Field(default=None, description="in reports; the model's name if left out")


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


class BankSection(Section):
    """Where mentors' outputs are stored, for this run and others with the same views."""

    path: UserPath = Field(description="folder; see `classroomkd bank build`")
    top: Count | None = Field(
        default=None, description="classes stored beside the true one; all if left out"
    )
    limit_gb: Positive = Field(default=20.0, description="size that the folder may have")


class RunRecipe(Section):
    """What every run has, whatever its task.

    A task's recipe says what ``data``, ``student`` and ``mentors`` are: a `DataSection`, a
    `Section` with a ``model``, and `MentorSection`s.
    """

    name: FolderName = Field(description="the run's folder is runs/<name>")
    seed: Seed = 0
    task: str
    data: Any
    student: Any
    mentors: tuple[Any, ...] = ()
    method: MethodRecipe = MethodRecipe()
    train: Train = Train()
    bank: BankSection | None = None

    @classmethod
    def translate(cls, raw: dict[str, Any]) -> dict[str, Any]:
        """A recipe as it was read, with what the task calls otherwise in the common words."""
        return raw

    def to_yaml(self) -> str:
        """The resolved recipe as YAML, defaults included."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def mentor_names(recipes: Sequence[Any]) -> list[str]:
    """A name for each mentor: its own, else its folder's or model's; repeated ones get a number.

    Args:
        recipes: `MentorSection`s, or what has their ``name``, ``run``, ``outputs`` and ``model``.

    Example:
        >>> from types import SimpleNamespace
        >>> mentor_names([SimpleNamespace(model="vgg8", run=None, outputs=None, name=None)] * 2)
        ['vgg8', 'vgg8-2']
    """
    own = [r.name or _run(r) or _outputs(r) or _short(r) or "mentor" for r in recipes]
    names: list[str] = []
    for name in own:
        numbered = (f"{name}-{number}" for number in count(2))
        free = (other for other in numbered if other not in own and other not in names)
        names.append(next(free) if name in names else name)
    return names


def _run(recipe: Any) -> str | None:
    """The run's name, and the epoch of a snapshot: ``resnet20-e2``."""
    if recipe.run is None:
        return None
    return recipe.run.name + (f"-e{recipe.epoch}" if recipe.epoch else "")


def _outputs(recipe: Any) -> str | None:
    return recipe.outputs.name if recipe.outputs else None


def _short(recipe: Any) -> str | None:
    """Without the origin: ``timm/resnet18`` is called resnet18."""
    model = getattr(recipe, "model", None)
    return model.rpartition("/")[2] if model else None


__getattr__ = names_of(__name__, {
    "Bank": "classroomkd.config.schema:BankSection",
    "Recipe": "classroomkd.tasks.classification.recipe",
    "MentorRecipe": "classroomkd.tasks.classification.recipe",
    "Student": "classroomkd.tasks.classification.recipe",
    "Data": "classroomkd.tasks.classification.images",
    "View": "classroomkd.tasks.classification.images",
    "Role": "classroomkd.config.fields",
    "AdamW": "classroomkd.config.training",
    "Cosine": "classroomkd.config.training",
    "OneCycle": "classroomkd.config.training",
    "SGD": "classroomkd.config.training",
    "Skip": "classroomkd.config.training",
    "Step": "classroomkd.config.training",
})  # fmt: skip
