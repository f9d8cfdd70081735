"""How and where runs were trained: facts that all share, or which runs each value holds for."""

from collections.abc import Callable, Sequence
from typing import Any

from classroomkd.report.read import RunRecord, plain
from classroomkd.report.table import DASH

Facts = list[tuple[str, list[tuple[str, str]]]]


def protocol_facts(records: Sequence[RunRecord]) -> Facts:
    """How the runs were trained: for each fact its values, each with whom it holds for."""
    facts: dict[str, Callable[[RunRecord], str]] = {
        "data set": lambda r: r.data,
        "training samples": _training,
        "development split": _development,
        "test samples": lambda r: str(r.summary.get("test_samples", DASH)),
        "views in training": lambda r: _views(r.recipe["data"].get("augment") or []),
        "epochs": lambda r: str(r.recipe["train"]["epochs"]),
        "batch size": lambda r: str(r.recipe["train"]["batch_size"]),
        "optimizer": lambda r: _named(r.recipe["train"]["optimizer"]),
        "schedule": lambda r: _named(r.recipe["train"]["schedule"]),
        "precision": lambda r: str(r.recipe["train"]["precision"]),
        "seed": lambda r: str(r.seed),
    }
    return [(name, _by_value(records, fact)) for name, fact in facts.items()]


def environment_facts(records: Sequence[RunRecord]) -> Facts:
    """Where the runs were trained: hardware and versions."""

    def of(key: str) -> Callable[[RunRecord], str]:
        return lambda record: plain(record.environment.get(key, DASH))

    facts = {name: of(name) for name in ("hardware", "device", "threads", "platform", "python")}
    packages = dict.fromkeys(n for r in records for n in r.environment.get("packages") or {})
    for name in packages:
        facts[name] = lambda r, name=name: str(
            (r.environment.get("packages") or {}).get(name, DASH)
        )
    return [(name, _by_value(records, fact)) for name, fact in facts.items()]


def _named(choice: dict[str, Any]) -> str:
    """A named choice with its options: ``sgd (lr 0.1, momentum 0.9)``."""
    options = [f"{key} {plain(value)}" for key, value in choice.items() if key != "name"]
    return f"{choice['name']} ({', '.join(options)})" if options else str(choice["name"])


def _views(augment: Sequence[dict[str, Any]]) -> str:
    return ", ".join(map(_named, augment)) or "none"


def _training(record: RunRecord) -> str:
    """How many, and what was chosen of them: ``900 (data.fraction 0.1)``."""
    data = record.recipe["data"]
    usual = {"train_classes": None, "fraction": 1.0, "noise": None}
    chosen = {key: data[key] for key in usual if data.get(key, usual[key]) != usual[key]}
    if data.get("fraction_seed") and "fraction" in chosen:
        chosen["fraction_seed"] = data["fraction_seed"]
    count = str(record.environment.get("training_samples", DASH))
    said = ", ".join(f"data.{key} {plain(value)}" for key, value in chosen.items())
    return f"{count} ({said})" if said else count


def _development(record: RunRecord) -> str:
    size = record.environment.get("development_samples")
    if not record.recipe["data"].get("dev"):
        return "none: the chosen epoch is the last one"
    seed = record.recipe["data"].get("dev_seed", 0)
    return f"{size} samples of the training set (seed {seed}); the test set chooses nothing"


def _by_value(
    records: Sequence[RunRecord], fact: Callable[[RunRecord], str]
) -> list[tuple[str, str]]:
    """Each value with the labels of its runs; no labels if all runs share it."""
    labels: dict[str, list[str]] = {}
    for record in records:
        labels.setdefault(fact(record), []).append(record.label)
    if len(labels) == 1:
        return [(value, "") for value in labels]
    return [(value, ", ".join(names)) for value, names in labels.items()]
