"""The search of a suite: the same short list of options for every run, with the same budget.

```yaml
search:
  options: {method.weight: [0.3, 1, 3], method.task_weight: [0.1, 1]}   # 6 candidates
  epochs: [1, 3]   # rungs of successive halving: all for 1 epoch, the best of them for 3
  keep: 0.34       # share of a rung's candidates that go on to the next
  seed: 100        # its own: no result is of this seed
```

``options`` may also list the candidates one by one, where values belong together::

  options:
    - {method.weight: 0.5, method.task_weight: 0.5}
    - {method.weight: 0.9, method.task_weight: 0.1}

Each rung trains its candidates from the start, with schedule and warm-ups shortened to the rung's
length. The best on the development split go on; the best of the last rung gives the run its
options. The test set is not looked at.
"""

from itertools import product
from typing import Annotated, Any, Self

import yaml
from pydantic import BeforeValidator, Field, model_validator

from classroomkd.config.fields import Count, Section, Seed
from classroomkd.config.schema import RunRecipe
from classroomkd.config.training import Step

_FIXED = {
    "name": "a suite names its runs itself",
    "seed": "seeds come from `seeds` and `search.seed`",
    "train.epochs": "the lengths of trials are `search.epochs`",
    "train.test": "a search never looks at the test set",
    "data.dev": "candidates are compared on the same development split",
    "data.dev_seed": "candidates are compared on the same development split",
}


def _as_candidates(raw: Any) -> list[dict[str, Any]]:
    """The candidates of a list, or all combinations of a mapping's values, the last key fastest."""
    if isinstance(raw, dict):
        for key, values in raw.items():
            if not isinstance(values, list | tuple):
                raise ValueError(f"{key}: give a list of values, not {values!r}")
        raw = [dict(zip(raw, values, strict=True)) for values in product(*raw.values())]
    if not isinstance(raw, list | tuple) or not raw or not all(raw):
        raise ValueError("give a mapping of options to lists of values, or a list of candidates")
    if not all(isinstance(candidate, dict) for candidate in raw):
        raise ValueError("a candidate is a mapping of options to values")
    for key in {str(key) for candidate in raw for key in candidate} & _FIXED.keys():
        raise ValueError(f"{key}: {_FIXED[key]}")
    return list(raw)


Options = Annotated[tuple[dict[str, Any], ...], BeforeValidator(_as_candidates)]


class Search(Section):
    """The list that every run's options come from, and what each search may cost."""

    options: Options
    epochs: Annotated[tuple[Count, ...], Field(min_length=1)]
    keep: float = Field(default=1 / 3, gt=0, lt=1, description="share that goes on to the next")
    seed: Seed = 100

    @model_validator(mode="after")
    def _rungs(self) -> Self:
        if list(self.epochs) != sorted(set(self.epochs)):
            raise ValueError("epochs: each rung must be longer than the one before")
        if len(self.sizes) > 1 and self.sizes[-1] == 1:
            raise ValueError(
                f"keep: {self.keep:g} of {self.sizes[-2]} candidates leaves one for the last rung,"
                " where it would be alone: leave the rung out, or keep more"
            )
        return self

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many candidates each rung trains.

        Example:
            >>> options = {"method.weight": [0.3, 1, 3], "method.task_weight": [0.1, 1]}
            >>> Search(options=options, epochs=(1, 3), keep=0.34).sizes
            (6, 2)
        """
        sizes = [len(self.options)]
        for _ in self.epochs[1:]:
            sizes.append(max(1, round(sizes[-1] * self.keep)))
        return tuple(sizes)

    @property
    def budget(self) -> int:
        """The epochs that one run's search trains."""
        return sum(size * epochs for size, epochs in zip(self.sizes, self.epochs, strict=True))

    def __str__(self) -> str:
        rungs = zip(self.sizes, self.epochs, strict=True)
        parts = [f"{n} of {epochs} epoch{'s' * (epochs > 1)}" for n, epochs in rungs]
        return f"{', then '.join(parts)}: {self.budget} epochs"


class RunSearch(Section):
    """What differs in the search of one run, whose method calls its options otherwise."""

    rename: dict[str, str] = {}
    options: Options | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.rename and self.options is not None:
            raise ValueError("give rename or options, not both")
        return self

    def candidates(self, search: Search) -> list[tuple[str, ...]]:
        """The run's own list: the options of each candidate, as overrides."""
        chosen = search.options if self.options is None else self.options
        return [
            tuple(f"{self.rename.get(key, key)}={written(value)}" for key, value in options.items())
            for options in chosen
        ]

    def keys(self, search: Search) -> list[str]:
        """The recipe's keys that the run's candidates set."""
        chosen = self.candidates(search)
        return list(dict.fromkeys(text.partition("=")[0] for texts in chosen for text in texts))


def written(value: Any) -> str:
    """A value as an override says it.

    Example:
        >>> written(1e-05), written(None), written([1, 2]), written("gap")
        ('1.0e-05', 'null', '[1, 2]', 'gap')
    """
    return yaml.safe_dump([value], default_flow_style=True, width=10**6).strip()[1:-1]


def shortened(recipe: RunRecipe, epochs: int) -> tuple[str, ...]:
    """Overrides that train a recipe for so many epochs, with all that is counted in them shortened.

    This is the schedule's milestones and warm-up, and the method's options that end in
    ``_epochs``, its defaults included.
    """
    from classroomkd.methods import method_options

    train, method = recipe.train, recipe.method
    share = epochs / train.epochs
    lengths = {f"train.schedule.{k}": v for k, v in train.schedule if k == "warmup_epochs" and v}
    options = method_options(method.name).model_validate(method.options)
    lengths |= {f"method.{k}": v for k, v in options if k.endswith("_epochs") and v}
    changes: dict[str, Any] = {
        key: max(1, round(value * share)) if isinstance(value, int) else value * share
        for key, value in lengths.items()
    }
    if isinstance(train.schedule, Step):
        changes["train.schedule.milestones"] = [m * share for m in train.schedule.milestones]
    if train.snapshots is not None:
        changes["train.snapshots"] = None  # nobody learns from a trial
    changes["train.epochs"] = epochs
    return tuple(f"{key}={written(value)}" for key, value in changes.items())
