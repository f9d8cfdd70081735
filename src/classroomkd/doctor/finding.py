"""What the doctor found, and what it comes to."""

from collections.abc import Sequence
from dataclasses import dataclass

from classroomkd.tasks.base import ASPECTS, Finding


@dataclass(frozen=True)
class Conclusion:
    """What all findings come to: whether a training may start, and why or with what reserve."""

    ready: bool
    text: str


def conclude(findings: Sequence[Finding]) -> Conclusion:
    """The verdict in words: what is wrong first, or which warnings matter most.

    Example:
        >>> few = Finding("warning", "data", "few images", "data", "find more")
        >>> odd = Finding("wrong", "vgg8", "its classes are in another order", "order", "map them")
        >>> conclude([few]).text
        'ready to train, with 1 warning; what matters most: data: find more'
        >>> conclude([few, odd]).text
        'not ready to train: 1 thing is wrong; first, vgg8: map them'
    """
    by_weight = sorted(findings, key=lambda finding: ASPECTS.index(finding.aspect))
    wrong = [finding for finding in by_weight if finding.verdict == "wrong"]
    warnings = [finding for finding in by_weight if finding.verdict == "warning"]
    if wrong:
        count = "1 thing is" if len(wrong) == 1 else f"{len(wrong)} things are"
        return Conclusion(False, f"not ready to train: {count} wrong; first, {_advice(wrong[0])}")
    if warnings:
        count = "1 warning" if len(warnings) == 1 else f"{len(warnings)} warnings"
        most = "; ".join(map(_advice, warnings[:2]))
        return Conclusion(True, f"ready to train, with {count}; what matters most: {most}")
    return Conclusion(True, "ready to train")


def _advice(finding: Finding) -> str:
    return f"{finding.subject}: {finding.cure or finding.text}"
