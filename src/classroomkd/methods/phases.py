"""Methods that learn in two phases: something first, and the task afterwards."""

from math import ceil
from typing import Annotated

from pydantic import Field
from torch import Tensor

from classroomkd.core.divergence import statistics_dtype
from classroomkd.methods.base import Outputs
from classroomkd.methods.pairs import FeatureMethod, Pairs

Share = Annotated[float, Field(gt=0, lt=1)]


def first_epochs(share: float, epochs: int) -> int:
    """How many epochs a share of them is, rounded up.

    Example:
        >>> first_epochs(0.125, 240), first_epochs(0.125, 20), first_epochs(0.07, 100)
        (30, 3, 7)
    """
    return max(ceil(share * epochs - 1e-9), 1)  # 0.07 * 100 is a little more than 7


class TwoPhaseMethod(FeatureMethod):
    """A method on feature maps whose first epochs learn something else than the later ones.

    Args:
        weight: as of `FeatureMethod`.
        pairs: as of `FeatureMethod`.
        init_share: of the run's epochs for the first phase, rounded up, one at least.
        init_epochs: of a first phase before the run's epochs, of which none is taken then.
        stem: as of `FeatureMethod`.

    Attributes:
        first: whether the first phase's terms are learnt in this epoch.
        second: whether the second's are. Both are where nobody calls `begin_epoch`.
    """

    def __init__(
        self,
        weight: float,
        pairs: Pairs | None,
        *,
        init_share: float,
        init_epochs: int | None,
        stem: bool = False,
    ) -> None:
        super().__init__(weight, pairs, stem=stem)
        self.init_share = init_share
        self.extra_epochs = init_epochs or 0
        self.first = self.second = True

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Choose the phase; epochs before the run's own have numbers below 0."""
        self.first = epoch < (0 if self.extra_epochs else first_epochs(self.init_share, epochs))
        self.second = not self.first


class PreparingMethod(TwoPhaseMethod):
    """A method that prepares the student: first its term alone, then the cross-entropy alone."""

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Choose between the teacher's maps and the task."""
        super().begin_epoch(epoch, epochs)
        self.task_weight = float(self.second)

    def term(
        self, student: Outputs, mentor: Outputs, target: Tensor, index: Tensor | None = None
    ) -> Tensor:
        """The term of the epochs that prepare, 0 after them: ``[B]``."""
        if self.first:
            return super().term(student, mentor, target, index)
        logits = student.logits.detach()
        return logits.new_zeros(len(logits), dtype=statistics_dtype(logits))
