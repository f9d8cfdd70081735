"""Tasks: what is learnt, and how well."""

from collections.abc import Mapping
from typing import Any

__all__ = ["headline_of", "result_title"]

_TITLES = {"top1": "top-1", "top5": "top-5", "nll": "NLL", "ece": "ECE"}


def result_title(name: str) -> str:
    """What a result is called in sentences and tables.

    >>> result_title("top1"), result_title("PCK@0.2")
    ('top-1', 'PCK@0.2')
    """
    return _TITLES.get(name, name)


def headline_of(summary: Mapping[str, Any]) -> str:
    """The result that a run's student was chosen by; older summaries are of classification.

    >>> headline_of({"headline": "AP"}), headline_of({})
    ('AP', 'top1')
    """
    return summary.get("headline", "top1")
