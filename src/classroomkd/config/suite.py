"""A suite: recipes and seeds to be run in order and compared with a baseline.

```yaml
base: cifar100-mentor                # a recipe: a name of the package, or a path from this file
set: [train.epochs=4]                # overrides for every run
seeds: [0, 1, 2]
baseline: alone                      # the run that others are compared with
runs:
  teacher: {set: [student.model=resnet56], seeds: [0]}     # a run may have its own base and seeds
  alone: {set: [student.model=resnet20]}
  kd: {set: [student.model=resnet20, method.name=kd, "mentors=[{run: '{teacher}'}]"]}
```

``{teacher}`` is the folder of an earlier run: the one of the same seed, or of its only seed.

With ``search`` (see `config.search`), the runs' options are searched on the development split
first, each run's in as many tries; ``search: false`` of a run leaves it out.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from classroomkd.config.error_messages import describe
from classroomkd.config.fields import Section, Seed, snapshot_folder
from classroomkd.config.files import ENDINGS, find_file, packaged, read_yaml
from classroomkd.config.reading import list_recipes, load_recipe
from classroomkd.config.schema import RunRecipe
from classroomkd.config.search import RunSearch, Search
from classroomkd.errors import RecipeError, nearest, nearest_path, unknown_name
from classroomkd.recipes.lineups import PUBLISHED, lineup_recipe, published_name

BEST_SINGLE = "best-single"
"""What `against` calls the run of one mentor that is best on the development split."""
_REFERENCE = re.compile(r"\{(\w[\w.-]*)\}")


def _recipe_file(text: Any, info: ValidationInfo) -> Path:
    """A recipe beside the suite's file (the context's ``folder``), or a name of the package."""
    beside = (info.context or {}).get("folder", Path()) / str(text)
    if beside.is_file():
        return beside
    if str(text) in list_recipes():
        return list_recipes()[str(text)]
    if lineup_recipe(str(text)) is not None:
        return Path(str(text))
    if beside.suffix in ENDINGS:
        raise ValueError(f"no such file: {beside}{nearest_path(beside)}")
    raise ValueError(unknown_name("recipe", str(text), list_recipes()))


def _override(text: str) -> str:
    key = text.partition("=")[0]
    if key in ("name", "seed"):
        raise ValueError(f"{key}: a suite names its runs itself, and seeds come from `seeds`")
    return text


def _distinct(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(seeds)) < len(seeds):
        raise ValueError("a seed is given twice")
    return seeds


RecipeFile = Annotated[Path, BeforeValidator(_recipe_file)]
Overrides = tuple[Annotated[str, AfterValidator(_override)], ...]
Seeds = Annotated[tuple[Seed, ...], Field(min_length=1), AfterValidator(_distinct)]
RunName = Annotated[str, Field(pattern=r"^\w[\w.-]*$")]


def _switch(raw: Any) -> Any:
    return {True: RunSearch(), False: None}[raw] if isinstance(raw, bool) else raw


class SuiteRun(Section):
    """One line of a suite; what is left out is the suite's."""

    base: RecipeFile | None = None
    set: Overrides = ()
    seeds: Seeds | None = None
    search: Annotated[RunSearch | None, BeforeValidator(_switch)] = RunSearch()


@dataclass(frozen=True)
class PlannedRun:
    """A run of one seed, or a trial of a search, trained or not.

    Attributes:
        name: of the suite's line.
        seed: of the run.
        folder: the run's own, ``<out>/<name>-s<seed>``.
        base: file of the recipe.
        overrides: all changes to it, references replaced by folders.
        needs: folders of the runs that it refers to.
        candidate: a first trial's own options, as overrides.
        after: the trials one of which gives it its options, once they are over.
        place: which of them, counted from the best.
        epochs: length of a trial; None of a run.
    """

    name: str
    seed: int
    folder: Path
    base: Path
    overrides: tuple[str, ...]
    needs: tuple[Path, ...]
    candidate: tuple[str, ...] = ()
    after: tuple["PlannedRun", ...] = ()
    place: int = 0
    epochs: int | None = None

    def recipe(self) -> RunRecipe:
        """The checked recipe; what the run needs must be trained by now."""
        return load_recipe(self.base, self.overrides)


class Suite(Section):
    """A grid of recipes and seeds, and which of the runs is the baseline."""

    name: str = Field(
        pattern=r"^[^/\\]*[^/\\.][^/\\]*$", description="its folder is runs/<name>; the file's stem"
    )
    base: RecipeFile | None = None
    set: Overrides = ()
    seeds: Seeds = (0,)
    baseline: str
    against: tuple[str, ...] = Field(
        default=(), description=f"more runs to compare with, or {BEST_SINGLE}"
    )
    search: Search | None = None
    runs: Annotated[dict[RunName, SuiteRun], Field(min_length=1)]

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.baseline not in self.runs:
            raise ValueError(f"baseline: {unknown_name('run', self.baseline, self.runs)}")
        if self.base is None and (bare := [k for k, run in self.runs.items() if run.base is None]):
            raise ValueError(f"runs.{bare[0]}.base: is missing, and so is the suite's own base")
        for name in self.against:
            if name not in self.runs and name != BEST_SINGLE:
                known = (*self.runs, BEST_SINGLE)
                raise ValueError(f"against: {unknown_name('run', name, known)}")
        for name, run in self.runs.items():
            if mistake := self._search_mistake(name, run.search):
                raise ValueError(f"runs.{name}.search: {mistake}")
        return self

    def _search_mistake(self, name: str, own: RunSearch | None) -> str:
        """What keeps a run's search from being the suite's in other words; empty if all is well."""
        search = self.search
        if search is None:
            return "" if own in (None, RunSearch()) else "the suite has no search"
        if own is None:
            return ""
        known = {key: "" for candidate in search.options for key in candidate}
        for key in own.rename:
            if key not in known:
                return f"rename: {unknown_name('option', key, known)}"
        count, usual = len(own.candidates(search)), len(search.options)
        if count != usual:
            return f"{count} candidates, but {usual} in the suite's: every run gets as many tries"
        if search.seed in self.seeds_of(name):
            return f"seed {search.seed} is the search's own: give results another"
        return ""

    def seeds_of(self, name: str) -> tuple[int, ...]:
        """The seeds of a line."""
        return self.runs[name].seeds or self.seeds

    def overrides_of(self, name: str) -> tuple[str, ...]:
        """The changes to a line's recipe, with references as they were written."""
        return (*self.set, *self.runs[name].set)

    def planned(self, out: Path) -> list[PlannedRun]:
        """Every run with its folder under `out`, in the order of the file, then of the seeds.

        The trials of a run's search stand before it.
        """
        planned = []
        for name in self.runs:
            rungs = self.rungs(name, out)
            planned += [trial for rung in rungs for trial in rung]
            best = rungs[-1] if rungs else ()
            planned += [
                replace(self.plan(name, seed, out), after=best) for seed in self.seeds_of(name)
            ]
        return planned

    def rungs(self, name: str, out: Path) -> list[tuple[PlannedRun, ...]]:
        """The trials of a run's search, rung by rung; none if it is not searched."""
        search, own = self.search, self.runs[name].search
        if search is None or own is None:
            return []
        tried = own.candidates(search)
        rungs: list[tuple[PlannedRun, ...]] = []
        for number, (size, epochs) in enumerate(
            zip(search.sizes, search.epochs, strict=True), start=1
        ):
            folders = [
                out / "search" / f"{name}-rung{number}-{place}" for place in range(1, size + 1)
            ]
            rungs.append(
                tuple(
                    replace(
                        self.plan(name, search.seed, out, folder),
                        candidate=() if rungs else tried[place],
                        after=rungs[-1] if rungs else (),
                        place=place,
                        epochs=epochs,
                    )
                    for place, folder in enumerate(folders)
                )
            )
        return rungs

    def plan(self, name: str, seed: int, out: Path, folder: Path | None = None) -> PlannedRun:
        """One run with its folder, which is usually under `out`; what it needs always is."""
        needs: dict[str, Path] = {}

        def folder_of(reference: re.Match[str]) -> str:
            needed = reference[1]
            own = self.seeds_of(needed)
            needs[needed] = run_folder(out, needed, seed if seed in own else own[0])
            return str(needs[needed])

        overrides = [_REFERENCE.sub(folder_of, text) for text in self.overrides_of(name)]
        folder = folder or run_folder(out, name, seed)
        base = self.runs[name].base or self.base
        assert base is not None  # see _complete
        overrides += [f"name={folder.name}", f"seed={seed}"]
        return PlannedRun(name, seed, folder, base, tuple(overrides), tuple(needs.values()))


def run_folder(out: Path, name: str, seed: int) -> Path:
    """The folder of a suite's run."""
    return out / f"{name}-s{seed}"


def list_suites() -> dict[str, Path]:
    """The suites that come with the package, by name."""
    return packaged("suites")


def find_suite(source: str | Path) -> Path:
    """The file of a suite: a path, or the name of one that comes with the package."""
    return find_file(source, "suite", list_suites())


def load_suite(
    source: str | Path,
    overrides: Sequence[str] = (),
    *,
    recipes: bool = True,
    published: bool = False,
) -> Suite:
    """Read and check a suite.

    Args:
        source: a YAML file, or the name of a suite of the package.
        overrides: more changes for every run, after its own.
        recipes: also check every run's recipe. A folder that the suite itself will make counts as
            there already.
        published: of line-ups alone: train them by the protocol of published numbers (see
            `classroomkd.recipes.lineups`), as a suite with another name.

    Raises:
        RecipeError: with every mistake and its path, such as ``runs.kd: method.temprature: ...``.
    """
    path = find_suite(source)
    raw = {"name": path.stem, **read_yaml(path, "suite")}
    try:
        suite = Suite.model_validate(raw, context={"folder": path.parent})
        added = SuiteRun.model_validate({"set": tuple(overrides)}).set
    except ValidationError as error:
        raise RecipeError(str(path), [_describe(item) for item in error.errors()]) from error
    runs = {
        name: run.model_copy(update={"set": run.set + added}) for name, run in suite.runs.items()
    }
    suite = suite.model_copy(update={"runs": runs})
    if published:
        suite = _published(suite, str(path))
    if mistakes := _mistakes(suite, recipes=recipes):
        raise RecipeError(str(path), mistakes)
    return suite


def _published(suite: Suite, source: str) -> Suite:
    """The same suite by the protocol of published numbers; all its recipes must be line-ups."""

    def base(part: Suite | SuiteRun) -> dict[str, Any]:
        return {"base": part.base and Path(published_name(part.base.as_posix()))}

    try:
        runs = {name: run.model_copy(update=base(run)) for name, run in suite.runs.items()}
        own = base(suite)
    except ValueError as error:
        raise RecipeError(source, [str(error)]) from error
    return suite.model_copy(update={**own, "runs": runs, "name": f"{suite.name}{PUBLISHED}"})


def _describe(item: Any) -> str:
    """One mistake of the suite's own keys; the rest is as in recipes."""
    if item["type"] != "extra_forbidden":
        return describe(item, Suite)
    *place, key = map(str, item["loc"])
    sections = {"search": RunSearch if len(place) > 1 else Search, "": Suite}
    section = sections.get(place[-1] if place else "", SuiteRun)
    known = list(section.model_fields)
    hint = f"unknown key{nearest(key, known)} (known: {', '.join(known)})"
    return f"{'.'.join([*place, key])}: {hint}"


def _mistakes(suite: Suite, *, recipes: bool) -> list[str]:
    """Mistakes in the references and recipes; one that several runs make is told once."""
    makers: dict[str, list[str]] = {}
    kept: dict[str, tuple[int, ...]] = {}
    with TemporaryDirectory() as folder:
        for name in suite.runs:
            mistakes = _reference_mistakes(suite, name)
            if recipes and not mistakes:
                mistakes = _recipe_mistakes(suite, name, Path(folder), kept)
            for mistake in mistakes:
                makers.setdefault(mistake, []).append(name)
    also = {text: f" (and in {', '.join(rest)})" for text, (_, *rest) in makers.items() if rest}
    return [f"runs.{names[0]}: {text}{also.get(text, '')}" for text, names in makers.items()]


def _reference_mistakes(suite: Suite, name: str) -> list[str]:
    order = list(suite.runs)
    mistakes = []
    for needed in dict.fromkeys(_REFERENCE.findall("\n".join(suite.overrides_of(name)))):
        if needed not in order:
            mistakes.append(f"{{{needed}}}: {unknown_name('run', needed, order)}")
        elif order.index(needed) >= order.index(name):
            mistakes.append(f"{{{needed}}}: refer to a run that stands above this one")
        elif len(own := suite.seeds_of(needed)) > 1:
            lacking = [seed for seed in suite.seeds_of(name) if seed not in own]
            known = ", ".join(map(str, own))
            mistakes += [f"{{{needed}}}: has no seed {seed} (seeds: {known})" for seed in lacking]
    return mistakes


def _recipe_mistakes(
    suite: Suite, name: str, folder: Path, kept: dict[str, tuple[int, ...]]
) -> list[str]:
    """Mistakes in a run's recipe, with a stand-in for each folder that it refers to.

    Seeds differ in nothing else that can be wrong, so that one is enough.

    Args:
        suite: of the run.
        name: of the run.
        folder: for the stand-ins.
        kept: the snapshots of each run above; those of this one are added.
    """
    try:
        recipe = _with_stand_ins(suite, name, folder, kept)
    except RecipeError as error:
        return [text.replace(f"{folder}/", "") for text in error.mistakes]
    return _trial_mistakes(suite, name, recipe, folder)


def _with_stand_ins(
    suite: Suite, name: str, folder: Path, kept: dict[str, tuple[int, ...]]
) -> RunRecipe:
    """A run's recipe, after stand-ins were made for what it refers to; see `_recipe_mistakes`."""
    run = suite.plan(name, suite.seeds_of(name)[0], folder)
    for needed in run.needs:
        epochs = kept.get(needed.name.rpartition("-s")[0], ())
        for place in (needed, *(snapshot_folder(needed, epoch) for epoch in epochs)):
            place.mkdir(parents=True, exist_ok=True)
            (place / "student.safetensors").touch()
    recipe = run.recipe()
    kept[name] = recipe.train.snapshot_epochs
    return recipe


def _trial_mistakes(suite: Suite, name: str, recipe: RunRecipe, folder: Path) -> list[str]:
    """Mistakes in a run's search: of options that its method lacks, or of a missing split."""
    first, *_ = (*suite.rungs(name, folder), ())
    if first and not recipe.data.dev:
        return ["search: candidates are compared on the development split: set data.dev"]
    found: dict[str, None] = {}
    for trial in first:
        try:
            replace(trial, overrides=(*trial.overrides, *trial.candidate)).recipe()
        except RecipeError as error:
            found |= dict.fromkeys(error.mistakes)
    hint = (
        "say what this method calls it (search: {rename: {OPTION: ITS-OPTION}}), give the run as"
        " many candidates of its own (search: {options: ...}), or leave it out (search: false)"
    )
    return [f"search: {text.replace(f'{folder}/', '')}; {hint}" for text in found]


def recipes_of(suite: Suite) -> dict[str, RunRecipe]:
    """Each run's recipe before its runs are there: references are to stand-ins, since removed."""
    kept: dict[str, tuple[int, ...]] = {}
    with TemporaryDirectory() as folder:
        return {name: _with_stand_ins(suite, name, Path(folder), kept) for name in suite.runs}
