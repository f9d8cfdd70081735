"""Weights of mentors by a network that is learnt for what a step of the student brings: MMKD.

Shapes: ``M`` mentors, ``B`` samples, ``C`` classes, ``D`` channels, ``N`` pixels.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from classroomkd.core import Lesson, Signals, make_lesson
from classroomkd.core.divergence import cross_entropy, kl_divergence
from classroomkd.core.filter import everyone, score_mentors
from classroomkd.core.lesson import squeeze_groups
from classroomkd.methods.base import Method, Outputs
from classroomkd.methods.heads import Projector, head_map
from classroomkd.methods.options import Count, Temperature, Weight
from classroomkd.methods.pairs import exact, finite_samples, same_size
from classroomkd.methods.registry import register_method

INNER_STEPS = 2


class Said(NamedTuple):
    """What mentors say about a batch, with zeros in place of what is not finite.

    Attributes:
        logits: ``[M, B, C]``.
        maps: one ``[B, D_m, H, W]`` a mentor.
        valid: ``[M, B]`` (bool), whose logits are finite.
        seen: ``[M, B]`` (bool), whose map is finite, too.
    """

    logits: Tensor
    maps: list[Tensor]
    valid: Tensor
    seen: Tensor


class Terms(NamedTuple):
    """What mentors teach: ``loss [M, B]`` of logits and features together, and the weights."""

    loss: Tensor
    weight: Tensor


@register_method("mmkd")
class MMKD(Method):
    r"""Meta-learnt weights: two networks weigh the mentors on every sample, logits and features.

    .. math:: L = \lambda CE + \alpha \sum_m w_m \tau^2 KL(\sigma(z_m/\tau) \,\|\, \sigma(z_s/\tau))
              + \beta \sum_m v_m \frac{1}{D_m N} \| r_m(F_s) - F_m \|^2

    .. math:: w = softmax(g(z_1, \dots, z_M, z_s)), \qquad
              v = softmax(h(F_1 F_1^\top, \dots, F_M F_M^\top, F_s F_s^\top))

    ``g`` takes all logits of a sample side by side, ``h`` its rows of the batch's Gram matrices of
    flattened maps. Both are a linear layer to half the width, a ReLU and a linear layer to ``M``
    numbers. Weights add up to 1 over the mentors whose answer is finite, and are constants to the
    student's gradient. ``F`` is the map that a network pools (where sizes differ, the larger is
    average-pooled to the smaller); ``r_m`` is trained along: three convolutions (1x1, 3x3, 1x1;
    half the student's channels in between), each with batch normalisation and ReLU.

    Every ``meta_every`` steps the parameters of ``g`` and ``h`` are updated by what two steps of
    matching bring a student (its weights and those of ``r``, together ``theta``) on hard samples
    ``H``. With ``L_M`` the mentors' part of ``L`` on ``H``,

    .. math:: \theta_1 = \theta - \eta \nabla L_M(\theta), \quad
              \theta_2 = \theta_1 - \eta \nabla L_M(\theta_1), \quad
              \theta_3 = \theta_2 - \eta \nabla CE_H(\theta_2)

    and Adam takes a step along the gradient of ``CE_H(theta_3)`` with respect to the parameters of
    ``g`` and ``h``, through all three steps; what ``g`` and ``h`` see of the student counts as a
    constant. The student itself stays where it is. ``H`` is drawn from a buffer that the first
    batches fill; of each later batch the samples that the student gets wrong replace others at
    random.

    The engine's step calls `outer_step`; in a loop of your own call it after each lesson, or the
    weights stay those of untrained networks. It needs the student as a network with
    ``forward_stages``; an update takes the time of about eight steps of a student (a small ResNet
    on a CPU) and asks the mentors once.

    Args:
        temperature: ``tau``.
        weight: ``alpha``, of the mentors' logits together.
        feature_weight: ``beta``, of their features together.
        task_weight: ``lambda``, of the cross-entropy.
        batch_size: the samples that ``h`` has inputs for: those of the largest batch. The rows of a
            smaller batch end in zeros.
        meta_every: steps of the student from one update of ``g`` and ``h`` to the next.
        meta_rate: the learning rate of their Adam.
        meta_decay: its weight decay.
        inner_rate: ``eta``.
        buffer_size: of the hard samples.

    Reference: Zhang et al., Adaptive Multi-Teacher Knowledge Distillation with Meta-Learning, ICME
    2023; formulas, networks and defaults are those of its public code, with the options of its
    example command.

    Deviations: the public code's inner steps have the momentum, the weight decay and the learning
    rate that the student's optimizer has at that moment; here they are plain gradient descent at
    ``inner_rate``, its first learning rate, throughout (Adam takes the gradient's size away, not
    what the smaller steps of a late epoch would change in its direction). It updates before a step
    of the student rather than after, and not also at the end of each epoch. Batches smaller than
    the others are not skipped. **Unsure**: whether the paper's numbers have the convolutions of
    ``r`` that the example command asks for, and what ``h`` can learn from rows whose places are
    those of a shuffled batch.
    """

    title = "MMKD"
    year = 2023
    kind = "feature"
    needs_features = True
    soft_targets = False
    bilevel = True

    def __init__(
        self,
        *,
        temperature: Temperature = 4.0,
        weight: Weight = 1.0,
        feature_weight: Weight = 100.0,
        task_weight: Weight = 1.0,
        batch_size: Count = 64,
        meta_every: Count = 5,
        meta_rate: Temperature = 1e-3,
        meta_decay: Weight = 1e-4,
        inner_rate: Temperature = 0.05,
        buffer_size: Count = 256,
    ) -> None:
        super().__init__()
        self.temperature, self.weight, self.feature_weight = temperature, weight, feature_weight
        self.task_weight, self.batch_size, self.inner_rate = task_weight, batch_size, inner_rate
        self.meta_every, self.meta_rate, self.meta_decay = meta_every, meta_rate, meta_decay
        self.hard = HardSamples(buffer_size)
        self.matching: Matching | None = None
        self.adam: torch.optim.Adam | None = None
        self.steps = 0

    def setup(self, student: Outputs, mentors: Sequence[Outputs]) -> None:
        """Build the regressors, the two networks and their Adam."""
        if not mentors:
            return
        width = head_map(student.features, "student").shape[1]
        widths = [head_map(mentor.features, "mentor").shape[1] for mentor in mentors]
        matching = Matching(
            [Projector(width, there, max(width // 2, 1)) for there in widths],
            weighing_network(student.logits.shape[1], len(mentors)),
            weighing_network(self.batch_size, len(mentors)),
            temperature=self.temperature,
            weight=self.weight,
            feature_weight=self.feature_weight,
            batch_size=self.batch_size,
        )
        self.matching = matching.to(student.logits.device)
        networks = self.matching.weighing.parameters()
        self.adam = torch.optim.Adam(networks, self.meta_rate, weight_decay=self.meta_decay)

    def lesson(self, signals: Signals) -> Lesson:
        """The cross-entropy, and what the mentors teach at the weights of now."""
        student, *mentors = signals.outputs
        target = signals.label
        scores = score_mentors(signals)
        task_loss = self.task_weight * cross_entropy(student.logits, target)
        if not mentors:
            return squeeze_groups(
                make_lesson(scores, task_loss, task_loss.new_zeros(0, len(target)))
            )
        feature = head_map(student.features, "student")
        terms = self._matching(mentors).terms(student.logits, feature, clean(mentors))
        temperature = scores.valid.new_full((), self.temperature, dtype=scores.dtype)
        return squeeze_groups(
            make_lesson(
                scores,
                task_loss,
                terms.loss,
                everyone(scores),
                (self.weight * terms.weight.detach()).unsqueeze(-1),
                temperature,
            )
        )

    def outer_step(
        self,
        student: nn.Module,
        ask: Callable[[Tensor], Sequence[Outputs]],
        images: Tensor,
        target: Tensor,
        logits: Tensor,
    ) -> None:
        """Keep the batch's hard samples, and update the two networks where it is time."""
        self.hard.put(images, target, logits.detach())
        due = self.steps % self.meta_every == 0
        self.steps += 1
        if self.adam is None or self.matching is None or not due:
            return
        shown, label = self.hard.draw(len(target))
        gradient = self.hypergradient(student, ask(shown), shown, label)
        for name, parameter in self.matching.weighing.named_parameters():
            parameter.grad = gradient[name]
        self.adam.step()
        self.adam.zero_grad()  # so that the student's optimizer leaves them alone

    def hypergradient(
        self, student: nn.Module, mentors: Sequence[Outputs], images: Tensor, target: Tensor
    ) -> dict[str, Tensor]:
        """The gradient of the loss after three steps, for each parameter of the networks."""
        matching = self._matching(mentors)
        said = clean(mentors)
        pupil = Pupil(student, matching)
        networks = dict(pupil.named_parameters())
        outer = {
            name: value.detach().requires_grad_()
            for name, value in networks.items()
            if name.startswith("matching.weighing.")
        }
        inner = {
            name: value.detach().requires_grad_()
            for name, value in networks.items()
            if value.requires_grad and name not in outer
        }
        buffers = {name: value.clone() for name, value in pupil.named_buffers()}

        def loss(matched: bool) -> Tensor:
            tensors = {**buffers, **outer, **inner}
            given = (images, said if matched else None)
            logits, taught = functional_call(pupil, tensors, given)
            return taught if matched else cross_entropy(logits, target).mean()

        with torch.enable_grad():
            for matched in [True] * INNER_STEPS + [False]:
                gradients = torch.autograd.grad(
                    loss(matched), list(inner.values()), create_graph=True, allow_unused=True
                )
                inner = {
                    name: value if step is None else value - self.inner_rate * step
                    for (name, value), step in zip(inner.items(), gradients, strict=True)
                }
            gradients = torch.autograd.grad(loss(matched=False), list(outer.values()))
        names = [name.removeprefix("matching.weighing.") for name in outer]
        return dict(zip(names, gradients, strict=True))

    def get_extra_state(self) -> dict[str, Any]:
        """What a resumed run needs beside the parameters: Adam's moments and the buffer."""
        adam = None if self.adam is None else self.adam.state_dict()
        return {"adam": adam, "hard": self.hard.state(), "steps": self.steps}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take it up again."""
        if self.adam is not None and state["adam"] is not None:
            self.adam.load_state_dict(deepcopy(state["adam"]))
        self.hard.resume(deepcopy(state["hard"]))
        self.steps = state["steps"]

    def _matching(self, mentors: Sequence[Outputs]) -> "Matching":
        there = 0 if self.matching is None else len(self.matching.regressors)
        if self.matching is None or there != len(mentors):
            raise self.not_set_up(f"has networks for {there} mentors instead of {len(mentors)}")
        return self.matching


class Matching(nn.Module):
    """The mentors' part of the loss: regressors, and the two networks that weigh.

    Args:
        regressors: one a mentor.
        logit_network: ``g``.
        feature_network: ``h``.
        temperature: ``tau``.
        weight: ``alpha``.
        feature_weight: ``beta``.
        batch_size: how many samples ``h`` has inputs for.
    """

    def __init__(
        self,
        regressors: list[Projector],
        logit_network: nn.Module,
        feature_network: nn.Module,
        *,
        temperature: float,
        weight: float,
        feature_weight: float,
        batch_size: int,
    ) -> None:
        super().__init__()
        self.regressors = nn.ModuleList(regressors)
        networks = {"logits": logit_network, "features": feature_network}
        self.weighing = nn.ModuleDict(networks).requires_grad_(False)
        self.temperature, self.weight = temperature, weight
        self.feature_weight, self.batch_size = feature_weight, batch_size

    def terms(self, logits: Tensor, feature: Tensor, said: Said) -> Terms:
        """What the mentors teach a student with these logits ``[B, C]`` and this map."""
        logits, tau = exact(logits), self.temperature
        asked = torch.cat([*said.logits, logits.detach()], dim=1)
        weight = masked_softmax(self.weighing["logits"](asked).T, said.valid)
        divergence = tau**2 * kl_divergence(logits.unsqueeze(0), said.logits, tau, tau)
        asked = torch.cat([self.gram(m) for m in [*said.maps, feature.detach()]], dim=1)
        feature_weight = masked_softmax(self.weighing["features"](asked).T, said.seen)
        pairs = [same_size(feature, there) for there in said.maps]
        distance = torch.stack(
            [
                (regressor(here) - there).square().mean((1, 2, 3))
                for regressor, (here, there) in zip(self.regressors, pairs, strict=True)
            ]
        )
        taught = self.weight * weight * divergence
        return Terms(taught + self.feature_weight * feature_weight * distance, weight)

    def gram(self, feature: Tensor) -> Tensor:
        """Inner products of a batch's flattened maps, with zeros for who is not there."""
        missing = self.batch_size - len(feature)
        if missing < 0:
            raise ValueError(
                f"mmkd weighs batches of up to {self.batch_size} samples, and this one has"
                f" {len(feature)}: set method.batch_size"
            )
        flat = feature.flatten(1)
        return F.pad(flat @ flat.T, (0, missing))


class Pupil(nn.Module):
    """A student with the mentors' part of its loss: what the inner steps train."""

    def __init__(self, student: nn.Module, matching: Matching) -> None:
        super().__init__()
        self.student, self.matching = student, matching

    def forward(self, images: Tensor, said: Said | None) -> tuple[Tensor, Tensor | None]:
        """Logits ``[B, C]``, and what mentors that said something teach on average, ``[]``."""
        stages = dict(self.student.forward_stages(images))  # type: ignore[operator]
        logits = stages.pop("logits")
        if said is None:
            return logits, None
        terms = self.matching.terms(logits, head_map(stages, "student"), said)
        return logits, terms.loss.sum(0).mean()


class HardSamples:
    """A buffer of samples that the student got wrong, never read back from the device.

    Args:
        size: how many it holds.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.images: Tensor | None = None
        self.target: Tensor | None = None

    def put(self, images: Tensor, target: Tensor, logits: Tensor) -> None:
        """Keep a batch while there is room; then what is wrong of it, in random places."""
        if self.images is None or self.target is None:
            self.images, self.target = images[: self.size].clone(), target[: self.size].clone()
            return
        self.images, self.target = self.images.to(images.device), self.target.to(images.device)
        room = self.size - len(self.images)
        if room:
            self.images = torch.cat([self.images, images[:room]])
            self.target = torch.cat([self.target, target[:room]])
            return
        place = torch.randperm(self.size, device=images.device)[: len(images)]
        images, target = images[: self.size], target[: self.size]
        wrong = logits[: self.size].argmax(1) != target
        kept = self.images[place], self.target[place]
        self.target[place] = torch.where(wrong, target, kept[1])
        self.images[place] = torch.where(wrong.view(-1, 1, 1, 1), images, kept[0])

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Different samples at random, as many as asked for or as there are."""
        assert self.images is not None
        assert self.target is not None
        place = torch.randperm(len(self.images), device=self.images.device)[:count]
        return self.images[place], self.target[place]

    def state(self) -> dict[str, Tensor | None]:
        """What it holds."""
        return {"images": self.images, "target": self.target}

    def resume(self, state: dict[str, Tensor | None]) -> None:
        """Hold what another held."""
        self.images, self.target = state["images"], state["target"]


def weighing_network(width: int, mentors: int) -> nn.Sequential:
    """From the answers of mentors and student, each of a width, to a number for each mentor."""
    inputs = width * (mentors + 1)
    return nn.Sequential(nn.Linear(inputs, inputs // 2), nn.ReLU(), nn.Linear(inputs // 2, mentors))


def masked_softmax(score: Tensor, valid: Tensor) -> Tensor:
    """A softmax over the mentors that are heard, ``[M, B]``; 0 for the others."""
    score = torch.where(valid, score, torch.finfo(score.dtype).min)
    return torch.where(valid, torch.softmax(score, dim=0), 0)


def clean(mentors: Sequence[Outputs]) -> Said:
    """What mentors say, with zeros in place of what is not finite."""
    said, valid = zip(*(finite_samples(exact(m.logits.detach())) for m in mentors), strict=True)
    maps, seen = zip(
        *(finite_samples(head_map(m.features, "mentor").detach()) for m in mentors), strict=True
    )
    valid = torch.stack(valid)
    return Said(torch.stack(said), list(maps), valid, valid & torch.stack(seen))
