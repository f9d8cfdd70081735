"""What methods share whose networks all learn from one prediction, made of all of theirs.

Shapes: ``M`` mentors, ``B`` samples, ``C`` classes, ``D`` width of a pooled feature.
"""

from functools import partial
from math import exp
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from classroomkd.core import Lesson, Signals, make_lesson
from classroomkd.core.divergence import cross_entropy
from classroomkd.core.filter import score_mentors
from classroomkd.core.lesson import squeeze_groups
from classroomkd.methods.base import Method, Outputs
from classroomkd.methods.pairs import exact

Share = Annotated[float, Field(ge=0, le=1)]


class CohortMethod(Method):
    r"""A method in which every network ``k`` learns from an ensemble's prediction ``t_k``.

    .. math:: L_k = CE_k + r w \tau^2 KL(t_k \,\|\, \sigma(z_k / \tau))

    What the ensemble teaches cannot be told apart by mentor: in a lesson each mentor has an equal
    part of it (the value, and the weight ``r w``, divided by ``M``).

    Args:
        temperature: ``tau``.
        weight: ``w``.
        ramp_share: share of the epochs in which ``r`` rises from ``exp(-5)`` to 1 (see `ramp_up`);
            ``r`` is 1 before the first epoch has begun.
    """

    kind = "online"
    mutual = True

    def __init__(self, temperature: float, weight: float, ramp_share: float = 0.0) -> None:
        super().__init__()
        self.temperature = temperature
        self.weight = weight
        self.ramp_share = ramp_share
        self.ramp = 1.0

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Set ``r``."""
        self.ramp = ramp_up(epoch, self.ramp_share * epochs)

    def soften(self, logits: Tensor) -> Tensor:
        """Log-probabilities at the temperature, ``[..., C]``."""
        return torch.log_softmax(exact(logits) / self.temperature, dim=-1)

    def imitation(self, network: Outputs, log_target: Tensor) -> Tensor:
        """The weighted divergence of a network's prediction from a target ``[B, C]``: ``[B]``."""
        divergence = (log_target.exp() * (log_target - self.soften(network.logits))).sum(-1)
        return self.ramp * self.weight * self.temperature**2 * divergence

    def own_loss(self, network: Outputs, target: Tensor, log_target: Tensor) -> Tensor:
        """``L_k`` of a network: ``[B]``."""
        return cross_entropy(network.logits, target) + self.imitation(network, log_target)

    def pooled(self, network: Outputs) -> Tensor:
        """A network's pooled feature ``[B, D]`` in full precision."""
        if "pooled" not in network.features:
            raise ValueError(
                f"{self.name} needs the feature 'pooled': give Outputs(logits, features) with the"
                " features of network.forward_stages(images)"
            )
        return exact(network.features["pooled"])

    def ensemble_lesson(self, signals: Signals, task_loss: Tensor, term: Tensor) -> Lesson:
        """The lesson of a task loss ``[B]`` and of what an ensemble teaches ``[B]``.

        Without mentors there is no ensemble, and the task is all.
        """
        scores = score_mentors(signals)
        mentors = len(scores.valid)
        count = max(mentors, 1)
        number = partial(scores.valid.new_full, (), dtype=scores.dtype)
        return squeeze_groups(
            make_lesson(
                scores,
                task_loss,
                (term / count).expand(mentors, -1),
                weight=number(fill_value=self.ramp * self.weight / count),
                temperature=number(fill_value=self.temperature),
            )
        )


def ramp_up(epoch: int, length: float) -> float:
    """``exp(-5 (1 - epoch / length)**2)``, and 1 from epoch ``length`` on.

    Reference: Laine and Aila, Temporal Ensembling for Semi-Supervised Learning, ICLR 2017.

    Example:
        >>> [round(ramp_up(epoch, 80), 3) for epoch in (0, 40, 80, 299)]
        [0.007, 0.287, 1.0, 1.0]
    """
    return exp(-5 * (1 - epoch / length) ** 2) if epoch < length else 1.0
