"""A method between networks of different families, in the space of logits: OFA-KD.

Shapes: ``B`` samples, ``C`` classes, ``D`` channels, ``H`` and ``W`` pixels.
"""

import re
from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from classroomkd.errors import unknown_name
from classroomkd.methods.base import Outputs, SingleMethod
from classroomkd.methods.options import Temperature, Weight
from classroomkd.methods.pairs import exact
from classroomkd.methods.registry import register_method

Gamma = Annotated[float, Field(ge=1, allow_inf_nan=False)]
Gammas = Annotated[list[Gamma], Field(min_length=1)]
Stages = Annotated[list[str], Field(min_length=1)]


@register_method("ofa")
class OFA(SingleMethod):
    r"""Branches turn the student's maps into logits, which learn from the teacher's prediction.

    .. math:: \ell(z, \gamma) = - \sum_c \big( (p_c + [c = y])^\gamma - [c = y] \big)
              \log \sigma(z / \tau)_c, \quad p = \sigma(z_t / \tau), \qquad
              L = CE + v\, \ell(z_s, \gamma_0) + w \sum_i \ell(r_i(F_i), \gamma_i)

    ``F_i`` are the student's stages; instead of the last one, the map that it pools, where it shows
    it. The branch ``r_i`` of the stage ``i`` of ``n``, trained along, has ``n - i`` blocks that
    halve the map (each two depthwise separable 3x3 convolutions), or a 1x1 convolution for the last
    stage; the mean over the pixels; and a linear layer. Its width doubles from block to block and
    ends in the student's or the teacher's pooled width, whichever is larger. Nothing of the
    teacher but its logits is compared, so that the two may be of any two families. With ``gamma``
    1 the target is the teacher's prediction; above, that of the true class counts more. Of a
    target of probabilities, ``y`` is the most probable class.

    Args:
        weight: ``w``.
        kd_weight: ``v``.
        gamma: one for all, or one for each stage and a last one, ``gamma_0``, for the logits.
        temperature: ``tau``.
        stages: the names of the ``F_i`` by hand, of those above; None for all.

    Reference: Hao et al., One-for-All: Bridge the Gap Between Heterogeneous Architectures in
    Knowledge Distillation, NeurIPS 2023; branches, weights and temperature of its public code
    (Hao840/OFAKD), ``gamma`` of its only command (DeiT-T to ResNet-18 on ImageNet; its parser's 1
    switches the enhancement off, and the paper chooses it for each pair). Its recipe for CIFAR-100:
    images of 224 pixels, 300 epochs, batch 128, lr .05 with a cosine to 1e-3, weight decay 2e-3,
    smoothing .1.

    Deviations: students of tokens have the same branches, on their tokens laid out as a map; in the
    public code theirs merge patches and end in transformer blocks. There are as many stages as the
    student shows; the public code knows networks of four.
    """

    title = "OFA-KD"
    year = 2023
    kind = "feature"
    needs_features = True

    def __init__(
        self,
        *,
        weight: Weight = 1.0,
        kd_weight: Weight = 1.0,
        gamma: Gamma | Gammas = 1.5,
        temperature: Temperature = 1.0,
        stages: Stages | None = None,
    ) -> None:
        super().__init__()
        self.weight = weight
        self.kd_weight = kd_weight
        self.gamma = gamma
        self.temperature = temperature
        self.stages = stages
        self.branches = nn.ModuleList()

    def setup(self, student: Outputs, mentors: Sequence[Outputs]) -> None:
        """Build the branches."""
        every = branched(student)
        pooled = [o.features["pooled"] for o in (student, mentors[0]) if "pooled" in o.features]
        width = max(f.shape[1] for f in (student.features[every[-1]], *pooled))
        for name in self.stages or every:
            if name not in every:
                raise ValueError(f"stages: {unknown_name('stage of the student', name, every)}")
        names = self.stages or every
        self.gammas(names)
        self.branches = nn.ModuleList(
            Branch(
                student.features[name].shape[1],
                len(every) - 1 - every.index(name),
                width,
                student.logits.shape[1],
            ).to(student.logits.device)
            for name in names
        )

    def gammas(self, names: Sequence[str]) -> list[float]:
        """The exponents of the stages and of the logits."""
        if not isinstance(self.gamma, list):
            return [self.gamma] * (len(names) + 1)
        if len(self.gamma) != len(names) + 1:
            raise ValueError(
                f"gamma: one number, or one for each of {', '.join(names)} and one for the logits,"
                f" not {len(self.gamma)}"
            )
        return self.gamma

    def term(
        self, student: Outputs, mentor: Outputs, target: Tensor, index: Tensor | None = None
    ) -> Tensor:
        """The logits' and the branches' part, weighted: ``[B]``."""
        names = self.stages or branched(student)
        if len(self.branches) != len(names):
            raise self.not_set_up("has no branches yet")
        *gammas, last = self.gammas(names)
        there = exact(mentor.logits.detach())
        classes = target.argmax(1) if target.is_floating_point() else target

        def loss(logits: Tensor, gamma: float) -> Tensor:
            return enhanced_cross_entropy(logits, there, classes, gamma, self.temperature)

        parts = [
            loss(branch(exact(student.features[name])), gamma)
            for branch, name, gamma in zip(self.branches, names, gammas, strict=True)
        ]
        whole = self.kd_weight * loss(exact(student.logits), last)
        return whole + self.weight * torch.stack(parts).sum(0)


def branched(student: Outputs) -> list[str]:
    """The names of the maps that get a branch, shallow to deep."""
    names = [n for n, f in student.features.items() if re.fullmatch(r"stage\d+", n) and f.ndim == 4]
    if not names:
        raise ValueError(
            "the student shows no stages (its features:"
            f" {', '.join(student.features) or 'none'}); give Outputs(logits, features) with the"
            " stages of network.forward_stages(images)"
        )
    return [*names[:-1], "head"] if "head" in student.features else names


def enhanced_cross_entropy(
    student: Tensor, mentor: Tensor, target: Tensor, gamma: float, temperature: float
) -> Tensor:
    """Cross-entropy of the mentor's prediction, that of the true class enhanced: ``[B]``."""
    truth = F.one_hot(target, student.shape[1]).to(mentor.dtype)
    wanted = (torch.softmax(mentor / temperature, 1) + truth) ** gamma - truth
    return -(wanted * F.log_softmax(student / temperature, 1)).sum(1)


class Branch(nn.Sequential):
    """From a map ``[B, D, H, W]`` to logits ``[B, C]``.

    Args:
        in_channels: of the map.
        halvings: how often the map is halved; 0 for a 1x1 convolution instead.
        width: channels in the end.
        num_classes: ``C``.

    Example:
        >>> Branch(16, 2, 64, 10)(torch.rand(2, 16, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(self, in_channels: int, halvings: int, width: int, num_classes: int) -> None:
        widths = [in_channels * 2**i for i in range(max(halvings, 1))] + [width]
        layers: list[nn.Module] = [nn.Conv2d(in_channels, width, 1)]
        if halvings:
            layers = [
                SeparableHalving(here, there)
                for here, there in zip(widths, widths[1:], strict=False)
            ]
        super().__init__(
            *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes)
        )
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)


class SeparableHalving(nn.Sequential):
    """Two depthwise separable 3x3 convolutions, the first with stride 2."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        layers: list[nn.Module] = []
        for there, stride in ((in_channels, 2), (out_channels, 1)):
            layers += [
                nn.Conv2d(in_channels, in_channels, 3, stride, 1, groups=in_channels, bias=False),
                nn.Conv2d(in_channels, there, 1, bias=False),
                nn.BatchNorm2d(there),
                nn.ReLU(),
            ]
        super().__init__(*layers)
