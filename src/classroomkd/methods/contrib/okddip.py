"""OKDDip between independent networks, of whose details some are unsure.

Shapes: ``M`` mentors, ``B`` samples, ``C`` classes, ``D`` width of a pooled feature.
"""

from collections.abc import Sequence
from math import log
from typing import Any

import torch
from torch import Tensor, nn

from classroomkd.core import Lesson, Signals
from classroomkd.core.divergence import cross_entropy
from classroomkd.methods.base import Outputs
from classroomkd.methods.contrib.cohort import CohortMethod, Share
from classroomkd.methods.options import Temperature, Weight
from classroomkd.methods.registry import register_method

WIDTHS = 8  # a map makes a feature this many times narrower


@register_method("okddip")
class OKDDip(CohortMethod):
    r"""Diverse peers: each mentor weighs all mentors by attention; the student leads the group.

    .. math:: t_a = \sum_b \alpha_{ab} \sigma(z_b / \tau), \quad
              \alpha_{ab} = softmax_b(L(h_a) \cdot E(h_b)), \qquad
              L_a = CE_a + r w \tau^2 KL(t_a \,\|\, \sigma(z_a / \tau))

    for each mentor ``a`` that trains along, over all mentors ``b``, itself included; for the
    student, the group's leader,

    .. math:: L = CE + r w \tau^2
              KL\Big(\frac{1}{M} \sum_b \sigma(z_b / \tau) \,\Big\|\, \sigma(z_s / \tau)\Big)

    ``h`` are pooled features; ``L`` and ``E`` are linear maps without bias to an eighth of the
    width. A frozen mentor is part of the targets and takes no gradient. What the mentors' mean
    teaches is attributed to them in equal parts.

    Args:
        temperature: ``tau``.
        weight: ``w``.
        ramp_share: share of the epochs in which ``r = exp(-5 (1 - e/E)^2)`` rises to 1.

    Reference: Chen et al., Online Knowledge Distillation with Diverse Peers, AAAI 2020, its
    network-based variant; defaults of the public code (a ramp of 80 of 300 epochs).

    Deviations: the predictions in a target are detached. ``L`` and ``E``, and through them the
    features of mentors that train along, are trained by the targets of the peers' loss: **whether
    the paper lets the attention's gradient into the features is unsure**; its code does, and lets
    it into the predictions, too. Probabilities are averaged as in the paper, not logits as in its
    code. Mentors of one width share a pair of maps as in the code; each further width has a pair
    of its own, to an eighth of the least width.
    """

    title = "OKDDip"
    year = 2020
    needs_features = True

    def __init__(
        self,
        *,
        temperature: Temperature = 3.0,
        weight: Weight = 1.0,
        ramp_share: Share = 80 / 300,
    ) -> None:
        super().__init__(temperature, weight, ramp_share)
        self.query = nn.ModuleDict()
        self.key = nn.ModuleDict()

    def setup(self, student: Outputs, mentors: Sequence[Outputs]) -> None:
        """Build the maps, a pair to each width."""
        features = {f"{h.shape[1]}": h for h in map(self.pooled, mentors)}
        dim = max(min((h.shape[1] for h in features.values()), default=0) // WIDTHS, 1)
        for maps in (self.query, self.key):
            for width, h in features.items():
                maps[width] = nn.Linear(h.shape[1], dim, bias=False, device=h.device)

    def lesson(self, signals: Signals) -> Lesson:
        """The leader's lesson: the cross-entropy, and the divergence from the mentors' mean."""
        student, *mentors = signals.outputs
        target = signals.label
        task_loss = cross_entropy(student.logits, target)
        for mentor in mentors:
            self.pooled(mentor)  # read by the peers' loss only, but missed at once
        term = torch.zeros_like(task_loss)
        if mentors:
            said = torch.stack([self.soften(m.logits.detach()) for m in mentors])
            term = self.imitation(student, torch.logsumexp(said, dim=0) - log(len(mentors)))
        return self.ensemble_lesson(signals, task_loss, term)

    def peer_loss(
        self,
        student: Outputs,
        mentors: Sequence[Outputs],
        trained: Sequence[int],
        target: Tensor,
        signals: Any = None,
    ) -> Tensor:
        """The loss of the mentors that train along: the leader is not heard."""
        log_targets = self.log_targets(mentors, trained)
        losses = [self.own_loss(mentors[a], target, log_targets[a]) for a in trained]
        return torch.stack(losses).sum(0).mean()

    def log_targets(self, mentors: Sequence[Outputs], trained: Sequence[int]) -> Tensor:
        """``log t``, of which the attention carries gradient: ``[M, B, C]``."""
        said = torch.stack([self.soften(m.logits.detach()) for m in mentors])
        log_alpha = torch.log_softmax(self.energy(mentors, trained), dim=1)
        return torch.logsumexp(log_alpha.unsqueeze(-1) + said, dim=1)

    def energy(self, mentors: Sequence[Outputs], trained: Sequence[int]) -> Tensor:
        """``L(h_a) . E(h_b)``: ``[M, M, B]``."""
        features = [self.pooled(mentor) for mentor in mentors]
        features = [h if place in trained else h.detach() for place, h in enumerate(features)]
        widths = [f"{h.shape[1]}" for h in features]
        if not set(widths) <= set(self.query):
            raise self.not_set_up("has no maps for these mentors")
        asked, known = (
            torch.stack([maps[width](h) for width, h in zip(widths, features, strict=True)])
            for maps in (self.query, self.key)
        )
        return torch.einsum("xbd,ybd->xyb", asked, known)
