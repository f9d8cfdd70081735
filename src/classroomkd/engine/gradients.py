"""How much each term of a loss moves the student.

Shapes: ``M`` mentors, ``B`` samples.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from classroomkd.core import Lesson
from classroomkd.core.divergence import cross_entropy
from classroomkd.methods import Outputs


@dataclass(frozen=True)
class Shares:
    """Norms of the gradients for the student's parameters.

    Attributes:
        task: of the task's term.
        mentors: of each mentor's term, ``M``.
        rest: of what is in the loss beside them, as online methods have it.
        total: of the loss; less than the sum where terms pull in different directions.
    """

    task: float
    mentors: tuple[float, ...]
    rest: float
    total: float

    def percent(self, norm: float) -> float:
        """A term's share of the sum of all norms."""
        whole = self.task + sum(self.mentors) + self.rest
        return 100 * norm / whole if whole else 0.0


class Sources(TorchFunctionMode):
    """Knows of detached tensors, and of sums of them, what they are without the detaching.

    A `Lesson` has its terms detached, so that whoever keeps it does not keep the graph.

    Example:
        >>> x = torch.ones(1, requires_grad=True)
        >>> with Sources() as sources:
        ...     detached = (2 * x).detach() + (3 * x).detach()
        >>> torch.autograd.grad(sources.of(detached), x)
        (tensor([5.]),)
    """

    _ADDITIONS = (torch.add, Tensor.add, Tensor.__add__)

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[int, tuple[Tensor, Tensor]] = {}  # kept: no other gets their ids

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Compute as usual, and note where the result comes from."""
        result = func(*args, **(kwargs or {}))
        if func is Tensor.detach:
            self._known[id(result)] = (result, args[0])
        elif func in self._ADDITIONS and any(id(value) in self._known for value in args):
            self._known[id(result)] = (result, func(*map(self.of, args), **(kwargs or {})))
        return result

    def of(self, value: Any) -> Any:
        """What a tensor was before it was detached; itself if it never was."""
        return self._known[id(value)][1] if id(value) in self._known else value


def gradient_shares(
    student: nn.Module, training_step: Callable[[], Lesson]
) -> tuple[Lesson, Shares]:
    """Hold a lesson, and find out how much each of its terms moves the student.

    Args:
        student: in training mode; gets no gradients in its ``.grad``.
        training_step: gives the lesson, computed by the student's parameters.
    """
    parameters = [p for p in student.parameters() if p.requires_grad]
    with Sources() as sources:
        lesson = training_step()
    task = sources.of(lesson.task_loss).mean()
    terms = sources.of(lesson.mentor_loss)
    terms = terms if terms.ndim == 1 else terms.flatten(1).mean(1)
    rest = _gradient(lesson.loss, parameters)
    total = rest.norm().item()
    norms: list[float] = []
    for term in (task, *terms):
        part = _gradient(term, parameters)
        norms.append(part.norm().item())
        rest -= part
    left, task_norm = rest.norm().item(), norms.pop(0)
    if left <= 1e-3 * (task_norm + sum(norms)):
        left = 0.0  # rounding
    return lesson, Shares(task_norm, tuple(norms), left, total)


def _gradient(term: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """The gradient of a term, flat, in float64; 0 where it does not depend on a parameter."""
    if not term.requires_grad:
        return torch.zeros(sum(p.numel() for p in parameters), dtype=torch.float64)
    found = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
    flat = [
        torch.zeros_like(p).flatten() if g is None else g.flatten()
        for p, g in zip(parameters, found, strict=True)
    ]
    return torch.cat(flat).double().cpu()


def term_norms(
    lesson: Lesson, sources: Sources, parameters: Sequence[Tensor]
) -> tuple[float, float]:
    """Norms of the gradients of the task's term, and of all that is in the loss beside it."""
    task = sources.of(lesson.task_loss).mean()
    own, rest = (_gradient(term, parameters).norm() for term in (task, lesson.loss - task))
    return own.item(), rest.item()


@dataclass(frozen=True)
class Strength:
    """How strongly all that a method adds to the task pulls, beside the cross-entropy at weight 1.

    Attributes:
        logits: norm of its gradient on the student's logits over the cross-entropy's. A loss on
            features alone has none there.
        parameters: the same on the student's parameters, which every loss reaches.
    """

    logits: float
    parameters: float


def measure_strength(
    student: Outputs,
    teach: Callable[[], Lesson],
    target: Tensor,
    parameters: Sequence[Tensor],
) -> Strength:
    r"""The strength of a method's terms on a batch.

    .. math:: \frac{\| \nabla (L - L_{task}) \|}{\| \nabla CE \|}

    Args:
        student: what the student says, computed by ``parameters``.
        teach: makes the lesson of it.
        target: ``[B]``.
        parameters: the student's.
    """
    with Sources() as sources:
        lesson = teach()
    added = lesson.loss - sources.of(lesson.task_loss).mean()
    label = cross_entropy(student.logits.float(), target).mean()
    logits = relative_norm(added, label, [student.logits])
    return Strength(logits, relative_norm(added, label, parameters))


def relative_norm(term: Tensor, other: Tensor, tensors: Sequence[Tensor]) -> float:
    """The norm of a term's gradient for some tensors over that of another's."""
    return (_gradient(term, tensors).norm() / _gradient(other, tensors).norm()).item()
