"""A second method beside a filter: each mentor that is heard also teaches by a method of its own.

Shapes: ``M`` mentors, ``B`` samples.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, cast

import torch
from pydantic import AfterValidator
from torch import Tensor, nn

from classroomkd.core import Lesson, Signals
from classroomkd.methods.base import Method, Outputs
from classroomkd.methods.registry import create_method, method_class, option_errors


def chosen_method(also: str | dict[str, Any]) -> dict[str, Any]:
    """A method of one mentor with its options, checked."""
    chosen = {"name": also} if isinstance(also, str) else also
    if "name" not in chosen:
        raise ValueError(
            "give the name of a method, or its name and options: {name: at, weight: 500}"
        )
    name, options = chosen["name"], {k: v for k, v in chosen.items() if k != "name"}
    if method_class(name).num_mentors != 1:
        raise ValueError(f"{name} is no method of one mentor, which each active one could teach by")
    if mistakes := option_errors(name, options):
        raise ValueError("; ".join(f"{option}: {text}" for option, text in mistakes.items()))
    if create_method(name, **options).extra_epochs:
        raise ValueError(f"{name} in a classroom has no epochs of its own: leave out init_epochs")
    return chosen


Also = Annotated[str | dict[str, Any], AfterValidator(chosen_method)]


class SecondMethod(nn.Module):
    r"""Any method of one mentor, one copy for each mentor, at the weights of a first method.

    .. math:: L = L_{first} + mean_i \sum_m a_m(i) w_m(i) T_m(i)

    where ``a`` and ``w`` are who is active, and with what weight, in the first method's lesson, and
    ``T_m`` is the second method's term for mentor ``m``, without its cross-entropy. A term that
    relates samples, and so has one value for a batch, counts by the batch's mean of ``a_m w_m``.

    Args:
        name: of the method.
        **options: of it.

    Attributes:
        wants: the method's class, which says what it reads.
    """

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__()
        self.name, self.options = name, options
        self.wants = method_class(name)
        self.copies = nn.ModuleList()
        self._train_set: tuple[Tensor, Tensor] | None = None
        self._epoch = 0, 1

    def on_train_set(self, index: Tensor, target: Tensor) -> None:
        """Keep the training set for the copies, until `setup`."""
        self._train_set = index, target

    def setup(self, student: Outputs, mentors: Sequence[Outputs]) -> None:
        """Build a copy for each mentor."""
        copies = [create_method(self.name, **self.options) for _ in mentors]
        for method, mentor in zip(copies, mentors, strict=True):
            if self._train_set is not None:
                method.on_train_set(*self._train_set)
            method.setup(student, [mentor])
            method.begin_epoch(*self._epoch)
        self._train_set = None
        self.copies = nn.ModuleList(copies)

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Tell the copies."""
        self._epoch = epoch, epochs
        for method in self.copies:
            cast(Method, method).begin_epoch(epoch, epochs)

    def added_to(self, lesson: Lesson, signals: Signals) -> Lesson:
        """The first method's lesson with the terms of the second.

        Raises:
            RuntimeError: if there are not as many copies as mentors.
        """
        student, *mentors = signals.outputs
        if not mentors:
            return lesson
        if len(self.copies) != len(mentors):
            raise RuntimeError(
                f"classroom has {self.name} for {len(self.copies)} mentors instead of"
                f" {len(mentors)}: call method.setup(student, mentors) with the outputs of a first"
                " batch, before the optimizer is made"
            )
        shares = lesson.active * lesson.weight
        if shares.ndim == 3:  # units that are ranked by themselves: a sample's term is of them all
            shares = shares.mean(-1)
        terms = torch.stack(
            [
                share * cast(Method, method).term(student, mentor, signals.label, signals.index)
                for share, method, mentor in zip(shares, self.copies, mentors, strict=True)
            ]
        )
        return replace(
            lesson,
            loss=lesson.loss + terms.sum(0).mean(),
            mentor_loss=lesson.mentor_loss + terms.detach(),
        )
