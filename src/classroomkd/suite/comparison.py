"""A suite's runs over their seeds, beside what they are compared with.

Run folders are read; of a run whose folder is gone, its row of ``runs.csv``.

Results on the test set, which the task chooses (top-1 in classification), are in percent; the
*chosen* epoch is the one that was best on the development split.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from classroomkd.config.suite import BEST_SINGLE, Suite, run_folder
from classroomkd.engine.runs import RunFolder
from classroomkd.statistics import Difference, Sample, holm, paired_difference
from classroomkd.suite.records import kept_records, kept_summary, searched_options
from classroomkd.tasks import headline_of


@dataclass(frozen=True)
class Compared:
    """How a run does beside a reference.

    Attributes:
        difference: points of the chosen epoch over the reference, paired by seed.
        p_holm: the p value corrected for all runs that are compared with this reference.
    """

    difference: Difference
    p_holm: float | None


@dataclass(frozen=True)
class Row:
    """One line of a suite over the seeds that are finished.

    Attributes:
        run: its name.
        student: the student's model; None if no seed is finished.
        method: the method's name; None likewise.
        result: what it was judged by, such as ``top1``; None likewise.
        seeds: the finished ones.
        options: what a search chose for it, as overrides.
        last: the result of the last epoch.
        chosen: that of the chosen epoch.
        dev: the chosen epoch's on the development split.
        active: share of samples that a mentor taught in the last epoch, mean over mentors and
            seeds; None if there are fewer than two mentors.
        best: whether its chosen result is the highest of the baseline's student model.
        against: how it does beside each reference, the baseline first; without those of other
            student models or without a common seed, and without itself.
    """

    run: str
    student: str | None
    method: str | None
    result: str | None
    seeds: tuple[int, ...]
    options: tuple[str, ...]
    last: Sample
    chosen: Sample
    dev: Sample
    active: float | None
    best: bool = False
    against: Mapping[str, Compared] = field(default_factory=dict)


def compare(suite: Suite, out: Path) -> list[Row]:
    """The rows of a suite whose runs are in `out`, in the order of the file.

    Raises:
        ClassroomError: if a finished run's files cannot be read.
    """
    summaries = {name: _summaries(suite, name, out) for name in suite.runs}
    references = _references(suite, summaries)
    against = {name: _against_all(summaries, name) for name in references}
    best = _best(suite, summaries)
    return [
        _row(
            suite,
            name,
            summaries[name],
            out,
            best=name == best,
            against={ref: own[name] for ref, own in against.items() if name in own},
        )
        for name in suite.runs
    ]


Summaries = Mapping[int, dict[str, Any]]  # by seed


def _summaries(suite: Suite, name: str, out: Path) -> Summaries:
    """What is in ``summary.json`` of the seeds that are finished, or was kept of it."""
    kept = {seed: row for (run, seed), row in kept_records(suite, out).items() if run == name}
    folders = {seed: run_folder(out, name, seed) for seed in suite.seeds_of(name)}
    return {
        seed: kept_summary(kept[seed])
        if seed in kept
        else RunFolder(folder).read_json("summary.json")
        for seed, folder in folders.items()
        if seed in kept or (folder / "summary.json").exists()
    }


def _references(suite: Suite, summaries: Mapping[str, Summaries]) -> list[str]:
    """The runs that others are compared with: the baseline, then those of `against`."""
    names = [suite.baseline, *suite.against]
    if BEST_SINGLE in names and BEST_SINGLE not in suite.runs:
        place = names.index(BEST_SINGLE)
        names[place : place + 1] = _best_single(suite, summaries)
    return list(dict.fromkeys(names))


def _best_single(suite: Suite, summaries: Mapping[str, Summaries]) -> list[str]:
    """The run of one mentor, and of the baseline's student, that is best on the development split.

    The test set does not choose it. Empty if there is no such run.
    """
    singles = {
        name: fmean(results)
        for name, own in summaries.items()
        if (results := _results(own, "best", "dev"))
        and _student(own) == _student(summaries[suite.baseline])
        and all(len(summary["mentors"]) == 1 for summary in own.values())
    }
    return [max(singles, key=lambda name: singles[name])] if singles else []


def _best(suite: Suite, summaries: Mapping[str, Summaries]) -> str | None:
    student = _student(summaries[suite.baseline])
    means = {
        name: fmean(_results(own, "best"))
        for name, own in summaries.items()
        if own and _student(own) == student
    }
    return max(means, key=lambda name: means[name]) if len(means) > 1 else None


def _row(
    suite: Suite,
    name: str,
    own: Summaries,
    out: Path,
    *,
    best: bool,
    against: Mapping[str, Compared],
) -> Row:
    first = next(iter(own.values()), {})
    folders = [run_folder(out, name, seed) for seed in own]
    shares = [share for folder in folders if (share := _active_share(folder)) is not None]
    return Row(
        run=name,
        student=first.get("student"),
        method=first.get("method"),
        result=headline_of(first) if first else None,
        seeds=tuple(own),
        options=_options(suite, name, out, own),
        last=Sample(_results(own, "last")),
        chosen=Sample(_results(own, "best")),
        dev=Sample(_results(own, "best", "dev")),
        active=fmean(shares) if shares else None,
        best=best,
        against=against,
    )


def _options(suite: Suite, name: str, out: Path, own: Summaries) -> tuple[str, ...]:
    """What the search chose for a run, from its first finished seed."""
    if not own:
        return ()
    seed = next(iter(own))
    folder = run_folder(out, name, seed)
    if folder.exists():
        return searched_options(suite, name, RunFolder(folder).raw())
    return tuple(kept_records(suite, out)[name, seed]["options"].split())


def _against_all(summaries: Mapping[str, Summaries], reference: str) -> dict[str, Compared]:
    """Every other run beside one, with p values that hold for all of them together."""
    differences = {
        name: difference
        for name, own in summaries.items()
        if name != reference and (difference := _over(own, summaries[reference]))
    }
    adjusted = holm([difference.p for difference in differences.values()])
    return {
        name: Compared(difference, p)
        for (name, difference), p in zip(differences.items(), adjusted, strict=True)
    }


def _over(own: Summaries, reference: Summaries) -> Difference | None:
    """Points over a reference, on the seeds that both have; of equal students only."""
    seeds = [
        seed
        for seed in own
        if seed in reference and own[seed]["student"] == reference[seed]["student"]
    ]
    if not seeds:
        return None
    one, other = (
        _results({seed: runs[seed] for seed in seeds}, "best") for runs in (own, reference)
    )
    return paired_difference(one, other)


def _student(own: Summaries) -> str | None:
    return next((summary["student"] for summary in own.values()), None)


def _results(own: Summaries, epoch: str, split: str = "test") -> tuple[float, ...]:
    """The headline of each seed; without seeds that have none, as without a development split."""
    found = (summary[epoch].get(f"{split}_{headline_of(summary)}") for summary in own.values())
    return tuple(value for value in found if value is not None)


def _active_share(folder: Path) -> float | None:
    """Mean over mentors of the share of samples that they taught in the last epoch."""
    rows: Sequence[Mapping[str, Any]] = RunFolder(folder).read_csv("classroom.csv")
    shares = [row["active_share"] for row in rows if row["epoch"] == rows[-1]["epoch"]]
    return fmean(shares) if len(shares) > 1 else None
