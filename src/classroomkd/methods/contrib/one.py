"""ONE between independent networks, whose gate's input is unsure.

Shapes: ``M`` mentors, ``B`` samples, ``C`` classes.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from classroomkd.core import Lesson, Signals
from classroomkd.core.divergence import cross_entropy
from classroomkd.methods.base import Outputs
from classroomkd.methods.contrib.cohort import CohortMethod, Share
from classroomkd.methods.options import Temperature, Weight
from classroomkd.methods.pairs import exact
from classroomkd.methods.registry import register_method


class Gate(nn.Sequential):
    """How much each network counts for a sample: ``[B, inputs] -> [B, networks]``, rows sum to 1.

    Normalised over the batch without running statistics, since only training asks it. A bias of
    the linear layer would be taken away by the normalisation.
    """

    def __init__(self, inputs: int, networks: int) -> None:
        super().__init__(
            nn.Linear(inputs, networks, bias=False),
            nn.BatchNorm1d(networks, track_running_stats=False),
            nn.ReLU(),
            nn.Softmax(dim=1),
        )


@register_method("one")
class ONE(CohortMethod):
    r"""On-the-fly native ensemble: all networks learn from a gated ensemble that learns with them.

    .. math:: z_e = \sum_k g_k z_k, \qquad
              L = CE(z_e) + \sum_k \big[ CE_k + r w \tau^2
              KL(\sigma(z_e / \tau) \,\|\, \sigma(z_k / \tau)) \big]

    over the student and the mentors that train along; frozen mentors are part of ``z_e`` and take
    no gradient. In the divergence ``z_e`` is detached. What the ensemble teaches is attributed to
    the mentors in equal parts.

    The student's lesson has ``CE(z_e)`` with the mentors detached, as a part of the task's loss,
    and so trains the gate; the peers' loss has it with student and gate detached. Everything gets
    its gradient once, while the value is counted in both.

    Args:
        temperature: ``tau``.
        weight: ``w``.
        ramp_share: share of the epochs in which ``r = exp(-5 (1 - e/E)^2)`` rises to 1.

    Reference: Lan et al., Knowledge Distillation by On-the-Fly Native Ensemble, NeurIPS 2018;
    defaults of its public code (a ramp of 80 of 300 epochs).

    Deviations: in the paper the networks are branches of one trunk and the gate sees the trunk's
    feature; here they are independent, and the gate (linear, batch normalisation, ReLU, softmax, as
    in the public code) sees the pooled features of all, detached: **what it should see between
    independent networks is unsure**. The code's 1e-7 added to the target is left out.
    """

    title = "ONE"
    year = 2018
    needs_features = True

    def __init__(
        self,
        *,
        temperature: Temperature = 3.0,
        weight: Weight = 1.0,
        ramp_share: Share = 80 / 300,
    ) -> None:
        super().__init__(temperature, weight, ramp_share)
        self.gate: Gate | None = None

    def setup(self, student: Outputs, mentors: Sequence[Outputs]) -> None:
        """Build the gate."""
        widths = [self.pooled(network).shape[1] for network in (student, *mentors)]
        self.gate = Gate(sum(widths), len(widths)).to(student.logits.device)

    def lesson(self, signals: Signals) -> Lesson:
        """The student's lesson, and the gate's."""
        student, *mentors = signals.outputs
        target = signals.label
        shares = self.shares((student, *mentors))
        ensemble = mixture(shares, [student.logits, *(m.logits.detach() for m in mentors)])
        task_loss = cross_entropy(student.logits, target) + cross_entropy(ensemble, target)
        term = self.imitation(student, self.soften(ensemble.detach()))
        return self.ensemble_lesson(signals, task_loss, term)

    def peer_loss(
        self,
        student: Outputs,
        mentors: Sequence[Outputs],
        trained: Sequence[int],
        target: Tensor,
        signals: Any = None,
    ) -> Tensor:
        """The loss of the mentors that train along, and of the ensemble as far as it is theirs."""
        shares = self.shares((student, *mentors)).detach()
        logits = [m.logits if k in trained else m.logits.detach() for k, m in enumerate(mentors)]
        ensemble = mixture(shares, [student.logits.detach(), *logits])
        log_target = self.soften(ensemble.detach())
        losses = [self.own_loss(mentors[k], target, log_target) for k in trained]
        return torch.stack([*losses, cross_entropy(ensemble, target)]).sum(0).mean()

    def shares(self, networks: Sequence[Outputs]) -> Tensor:
        """What the gate makes of the networks' features: ``[B, 1 + M]``."""
        features = torch.cat([self.pooled(network).detach() for network in networks], dim=1)
        if self.gate is None or self.gate[0].in_features != features.shape[1]:
            raise self.not_set_up("has no gate for these networks")
        if len(features) < 2:
            raise ValueError(f"{self.name} normalises over the batch: give it 2 samples or more")
        return self.gate(features)


def mixture(shares: Tensor, logits: Sequence[Tensor]) -> Tensor:
    """The networks' logits ``[B, C]``, added up by their shares ``[B, K]``: ``[B, C]``.

    Example:
        >>> mixture(torch.tensor([[0.5, 0.5]]), [torch.tensor([[0.0, 2.0]]), torch.zeros(1, 2)])
        tensor([[0., 1.]])
    """
    return torch.einsum("bk,kbc->bc", shares, torch.stack([exact(z) for z in logits]))
