"""The border of the core: logits in the shapes that users have, checked and put into blocks.

Shapes: ``M`` mentors, ``B`` samples, ``C`` classes, ``U`` units, ``K`` bins.
"""

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from classroomkd.core.divergence import statistics_dtype
from classroomkd.core.signals import Blocks, Signals, TaskLoss

P = ParamSpec("P")
R = TypeVar("R")
RENAMED = {
    "heard": "mentor_mask",
    "taught_weight": "mentor_unit_weight",
    "ranking": "rank_divergence",
}


def with_old_names(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator: take arguments by the names that they had before 0.2, with a warning."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        for old in RENAMED.keys() & kwargs.keys():
            text = f"{old} is now called {RENAMED[old]}; the old name goes in the next release"
            warnings.warn(text, DeprecationWarning, stacklevel=2)
            kwargs[RENAMED[old]] = kwargs.pop(old)
        return function(*args, **kwargs)

    wrapper.__kwdefaults__ = function.__kwdefaults__  # type: ignore[attr-defined]
    return wrapper


Logits = Tensor | Sequence[Tensor]
MentorLogits = Tensor | Sequence[Tensor] | Sequence[Sequence[Tensor]]


def make_signals(
    student_logits: Logits,
    mentor_logits: MentorLogits,
    target: Logits | None,
    *,
    unit_weight: Tensor | None = None,
    mentor_unit_weight: Tensor | None = None,
    mentor_mask: Tensor | None = None,
    rank_divergence: tuple[Tensor, Tensor] | None = None,
    task_loss: TaskLoss | None = None,
    group: str | None = None,
) -> Signals:
    """Check what users have, and give each the shape ``[..., B, U, K]``.

    Mentors are detached: they are targets here. Arguments are those of `classroom_loss`;
    ``task_loss`` and ``group`` those of `Signals`.

    Raises:
        ValueError: for shapes that do not fit, saying which and what was expected.
        TypeError: for logits that are no tensors, such as the output object of a network.

    Example:
        >>> signals = make_signals(torch.zeros(2, 3), [torch.zeros(2, 3)], torch.tensor([0, 2]))
        >>> signals.mentors[0].shape, signals.label
        (torch.Size([1, 2, 1, 3]), tensor([0, 2]))
    """
    student = _blocks(student_logits, "student_logits")
    shape = next((z.shape for z in student), torch.Size())
    has_units = len(shape) == 3
    for z in student:
        if z.ndim not in (2, 3) or z.shape[:-1] != shape[:-1]:
            shapes = [tuple(z.shape) for z in student]
            raise ValueError(f"student_logits must be [B, C] or blocks of [B, U, K], got {shapes}")
    if 0 in shape:
        raise ValueError(f"student_logits is empty: {tuple(shape)}")
    targets = None if target is None else _targets(target, student)
    mentors = tuple(
        _stack(block, z, number if len(student) > 1 else None)
        for number, (block, z) in enumerate(
            zip(_by_block(mentor_logits, student), student, strict=True)
        )
    )
    if unit_weight is not None:
        if unit_weight.shape != shape[:-1]:
            raise ValueError(
                f"unit_weight has shape {tuple(unit_weight.shape)}, expected {tuple(shape[:-1])}"
            )
        unit_weight = unit_weight.to(statistics_dtype(unit_weight)).clamp_min(0)
        # Units without weight may carry any label, such as -1: no label of theirs is looked up.
        targets = targets and tuple(
            t if t.is_floating_point() else t.where(unit_weight > 0, 0) for t in targets
        )
    if not has_units:
        student = tuple(z.unsqueeze(1) for z in student)
        mentors = tuple(z.unsqueeze(2) for z in mentors)
        targets = targets and tuple(t.unsqueeze(1) for t in targets)
        unit_weight = None if unit_weight is None else unit_weight.unsqueeze(1)
    mentor_unit_weight, mentor_mask, rank_divergence = _parse_units(
        mentors[0].shape[:-1], mentor_unit_weight, mentor_mask, rank_divergence
    )
    return Signals(
        student,
        mentors,
        targets,
        unit_weight,
        mentor_unit_weight,
        mentor_mask,
        rank_divergence,
        task_loss,
        group,
        has_units,
    )


def _parse_units(
    shape: torch.Size,
    mentor_unit_weight: Tensor | None,
    mentor_mask: Tensor | None,
    rank_divergence: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor | None, Tensor | None, tuple[Tensor, Tensor] | None]:
    """Check what is said about mentors' units; ``mentor_mask`` becomes ``[M, B, U]``.

    Args:
        shape: ``[M, B, U]``.
        mentor_unit_weight: ``[B, U]``, or None.
        mentor_mask: ``[M, U]`` or ``[M, B, U]``, or None.
        rank_divergence: ``[B, U]`` and ``[M, B, U]``, or None.

    Raises:
        ValueError: for other shapes, saying which and what was expected.
    """
    if mentor_unit_weight is not None:
        if mentor_unit_weight.shape != shape[1:]:
            found, expected = tuple(mentor_unit_weight.shape), tuple(shape[1:])
            raise ValueError(f"mentor_unit_weight has shape {found}, expected {expected}")
        mentor_unit_weight = mentor_unit_weight.to(statistics_dtype(mentor_unit_weight)).clamp_min(
            0
        )
    if mentor_mask is not None:
        whole = mentor_mask.unsqueeze(1) if mentor_mask.ndim == 2 else mentor_mask
        if whole.ndim != 3 or whole.shape not in (shape, torch.Size([shape[0], 1, shape[2]])):
            m, b, u = shape
            expected = f"{(m, u)} or {(m, b, u)}"
            raise ValueError(
                f"mentor_mask has shape {tuple(mentor_mask.shape)}, expected {expected}"
            )
        mentor_mask = whole.bool().expand(shape)
    if rank_divergence is not None:
        found, expected = (
            [tuple(r.shape) for r in rank_divergence],
            [tuple(shape[1:]), tuple(shape)],
        )
        if found != expected:
            raise ValueError(f"rank_divergence has shapes {found}, expected {expected}")
        own, others = (r.detach().to(statistics_dtype(r)).clamp_min(0) for r in rank_divergence)
        rank_divergence = (own, others)
    return mentor_unit_weight, mentor_mask, rank_divergence


def _blocks(value: Logits, what: str) -> Blocks:
    blocks = (value,) if isinstance(value, Tensor) else value
    if not isinstance(blocks, Sequence) or not all(isinstance(z, Tensor) for z in blocks):
        hint = ": pass its .logits" if hasattr(value, "logits") else ""
        raise TypeError(f"{what}: expected a tensor, got {type(value).__name__}{hint}")
    return tuple(blocks)


def _targets(target: Logits, student: Blocks) -> Blocks:
    targets = _blocks(target, "target")
    if len(targets) != len(student):
        raise ValueError(f"target has {len(targets)} blocks, student_logits {len(student)}")
    for t, z in zip(targets, student, strict=True):
        expected = z.shape if t.is_floating_point() else z.shape[:-1]
        if t.shape != expected:
            kind = "probabilities" if t.is_floating_point() else "class indices"
            hint = "; probabilities are floating point" if t.shape == z.shape else ""
            raise ValueError(
                f"target of {kind} has shape {tuple(t.shape)}, expected {tuple(expected)}"
                f" for student_logits {tuple(z.shape)}{hint}"
            )
    return tuple(t if t.is_floating_point() else t.long() for t in targets)


def _by_block(mentors: MentorLogits, student: Blocks) -> list[Tensor | list[Tensor]]:
    """Sort mentor logits by block: from one tensor, from a list of mentors, or from both."""
    whole = student[0].ndim + 1
    if isinstance(mentors, Tensor) and mentors.ndim != whole:
        raise ValueError(
            f"mentor_logits has shape {tuple(mentors.shape)}; a tensor has all mentors along its "
            "first axis: put one mentor's logits in a list"
        )
    listed = [mentors] if isinstance(mentors, Tensor) and mentors.ndim == whole else list(mentors)
    stacked = [z for z in listed if isinstance(z, Tensor) and z.ndim == whole]
    if stacked and len(stacked) == len(listed):
        if len(stacked) != len(student):
            raise ValueError(f"mentor_logits has {len(stacked)} blocks, student {len(student)}")
        return list(stacked)
    rows = [_blocks(mentor, f"mentor {number}") for number, mentor in enumerate(listed)]
    for number, row in enumerate(rows):
        if len(row) != len(student):
            raise ValueError(f"mentor {number} has {len(row)} blocks, the student {len(student)}")
    return [[row[b] for row in rows] for b in range(len(student))]


def _stack(mentors: Tensor | list[Tensor], student: Tensor, block: int | None) -> Tensor:
    for number, logits in enumerate(mentors):
        if logits.shape != student.shape:
            where = f"mentor {number}" + ("" if block is None else f", block {block}")
            raise ValueError(
                f"logits of {where} have shape {tuple(logits.shape)}, the student's "
                f"{tuple(student.shape)}: map a mentor's classes to the student's first"
            )
    if isinstance(mentors, Tensor):
        return mentors.detach()
    if not mentors:
        return student.detach().new_zeros(0, *student.shape)
    return torch.stack([z.detach() for z in mentors])
