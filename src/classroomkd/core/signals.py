"""Signals: what any method reads about a batch, whatever the task.

Shapes: ``M`` mentors, ``B`` samples, ``U`` units of a sample (1 in classification), ``K`` bins.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Blocks = tuple[Tensor, ...]
"""Logits of a unit, one tensor for each categorical axis that it has (SimCC: x and y)."""

TaskLoss = Callable[[Blocks, Blocks], Tensor]
"""The student's own loss from its logits and the target, ``[B, U]``."""


@dataclass(frozen=True)
class Signals:
    """What student and mentors put out for a batch, and what it is to be compared with.

    Attributes:
        student: logits with gradient, one ``[B, U, K]`` a block.
        mentors: detached logits, one ``[M, B, U, K]`` a block.
        target: one ``[B, U]`` (indices) or ``[B, U, K]`` (probabilities) a block; None without
            labels: then nobody is ranked by them, and there is no task loss.
        unit_weight: ``[B, U]``, by which units are ranked and averaged; None for equal weights.
        mentor_unit_weight: ``[B, U]``, in the mentors' terms; None for ``unit_weight``.
        mentor_mask: ``[M, B, U]`` (bool), the units that each mentor speaks about; None for all.
        rank_divergence: of student ``[B, U]`` and mentors ``[M, B, U]``, to rank by in place of
            their divergence from the target.
        task_loss: the student's own loss; None for the method's, usually the cross-entropy.
        group: what is ranked together, if not as the method has it.
        has_units: whether samples have units, or an axis of one was added.
        outputs: what the student and then each mentor said, with features, for methods that read
            more than logits.
        index: ``[B]``, the samples' numbers in the training set, or None.
    """

    student: Blocks
    mentors: Blocks
    target: Blocks | None
    unit_weight: Tensor | None = None
    mentor_unit_weight: Tensor | None = None
    mentor_mask: Tensor | None = None
    rank_divergence: tuple[Tensor, Tensor] | None = None
    task_loss: TaskLoss | None = None
    group: Any = None
    has_units: bool = False
    outputs: tuple[Any, ...] = ()
    index: Tensor | None = None

    @property
    def label(self) -> Tensor:
        """The target of samples without units: ``[B]``, or probabilities ``[B, K]``.

        With units, that of the first block, for methods that do not read it.

        Raises:
            ValueError: if there is none.
        """
        if self.target is None:
            raise ValueError("this method needs labels: give a target")
        return self.target[0] if self.has_units else self.target[0].squeeze(1)
