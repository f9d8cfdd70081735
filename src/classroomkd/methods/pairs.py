"""Which feature of the student learns from which of the mentor, and the parts that make them meet.

Shapes: ``B`` samples, ``D`` channels, ``H`` and ``W`` pixels; features are ``[B, D, H, W]`` maps
(stem and stages, in order of depth) and the ``[B, D]`` pooled feature.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import combinations
from math import log2
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from classroomkd.core.divergence import statistics_dtype
from classroomkd.errors import unknown_name
from classroomkd.methods.base import Outputs, SingleMethod

Features = Mapping[str, Tensor]
Pairs = Annotated[list[tuple[str, str]], Field(min_length=1)]


def stage_pairs(student: Features, mentor: Features, *, stem: bool = True) -> list[tuple[str, str]]:
    """Pair the feature maps of two networks, shallow to deep: (the student's, the mentor's).

    The last map goes with the last. With as many maps on both sides, all others follow in order.
    Otherwise every map of the network with fewer gets one of the other, in order, so that the
    ratios of their heights (in octaves) sum to the least; among equals the deepest are taken.

    Args:
        student: features by name, in order of depth; only the stem and the stages are looked at.
        mentor: the same.
        stem: whether the map named ``"stem"`` takes part.

    Raises:
        ValueError: if a network shows no feature map.

    Example:
        >>> import torch
        >>> def maps(**heights):
        ...     return {name: torch.empty(1, 8, h, h) for name, h in heights.items()}
        >>> few = maps(stem=32, stage1=32, stage2=16, stage3=8)
        >>> many = maps(stem=32, stage1=16, stage2=8, stage3=4, stage4=4)
        >>> stage_pairs(few, many)
        [('stem', 'stem'), ('stage1', 'stage1'), ('stage2', 'stage2'), ('stage3', 'stage4')]
    """
    here, there = _maps(student, stem, "student"), _maps(mentor, stem, "mentor")
    if len(here) <= len(there):
        return list(zip(here, _match(here, there), strict=True))
    return list(zip(_match(there, here), there, strict=True))


def _maps(features: Features, stem: bool, whose: str) -> dict[str, int]:
    kind = r"(stem|stage\d+)" if stem else r"stage\d+"
    heights = {n: v.shape[2] for n, v in features.items() if re.fullmatch(kind, n) and v.ndim == 4}
    if not heights:
        raise ValueError(
            f"the {whose} shows no feature maps (its features: {', '.join(features) or 'none'});"
            " give Outputs(logits, features) with the stages of network.forward_stages(images)"
        )
    return heights


def _match(few: dict[str, int], many: dict[str, int]) -> list[str]:
    """For each of few, one of many: in order, the last to the last."""
    heights, names = list(few.values()), list(many)
    last = names[-1]

    def misfit(chosen: Sequence[str]) -> float:
        return sum(abs(log2(h / many[n])) for h, n in zip(heights[:-1], chosen, strict=True))

    choices = list(combinations(names[:-1], len(few) - 1))
    return [*min(reversed(choices), key=misfit), last]


def check_pairs(pairs: Sequence[tuple[str, str]], student: Features, mentor: Features) -> None:
    """Raise a ValueError, naming the nearest, for a pair given by hand that is not there."""
    for pair in pairs:
        for name, features, whose in zip(
            pair, (student, mentor), ("student", "mentor"), strict=True
        ):
            if name not in features:
                known = [n for n, value in features.items() if value.ndim == 4]
                raise ValueError(f"pairs: {unknown_name(f'feature of the {whose}', name, known)}")
            if features[name].ndim != 4:
                raise ValueError(f"pairs: '{name}' of the {whose} is no map [B, D, H, W]")


def same_size(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps at the smaller height and width, by adaptive average pooling of the larger."""
    size = (min(one.shape[2], other.shape[2]), min(one.shape[3], other.shape[3]))
    return pool_to(one, size), pool_to(other, size)


def pool_to(feature: Tensor, size: tuple[int, int]) -> Tensor:
    """A map ``[B, D, H, W]`` average-pooled to a size; the map itself where it has it."""
    return feature if tuple(feature.shape[2:]) == size else F.adaptive_avg_pool2d(feature, size)


def exact(feature: Tensor) -> Tensor:
    """A feature in float32 if it came in half precision, else as it is."""
    return feature.to(statistics_dtype(feature))


def finite_samples(feature: Tensor) -> tuple[Tensor, Tensor]:
    """A feature ``[B, ...]`` with zeros for samples that are not finite, and which are, ``[B]``."""
    finite = feature.isfinite().flatten(1).all(1)
    return torch.where(finite.view(-1, *[1] * (feature.ndim - 1)), feature, 0), finite


class Regressor(nn.Sequential):
    """From the student's channels to the mentor's: a 1x1 convolution and batch normalisation.

    Example:
        >>> import torch
        >>> Regressor(16, 64)(torch.rand(2, 16, 8, 8)).shape
        torch.Size([2, 64, 8, 8])
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        conv = nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        super().__init__(conv, nn.BatchNorm2d(out_channels))


class FeatureMethod(SingleMethod):
    """A method that pairs feature maps: the cross-entropy and a distance of a pair.

    A subclass implements `distance`, and `adapter` if it has trainable parts for each pair, which
    `setup` then builds from the shapes of a first batch. `adapters` holds them in the order of the
    pairs.

    Args:
        weight: of the sum over pairs, beside the cross-entropy's 1.
        pairs: (the student's, the mentor's) by hand; None to find them with `stage_pairs`.
        stem: whether the stems take part where pairs are found.

    Attributes:
        adapts: whether it has trainable parts.
        last_alone: whether it uses the last pair only, where pairs are found.
    """

    kind = "feature"
    needs_features = True
    takes_units = True
    adapts = False
    last_alone = False

    def __init__(self, weight: float, pairs: Pairs | None, *, stem: bool = False) -> None:
        super().__init__()
        self.weight = weight
        self.pairs = pairs
        self.stem = stem
        self.adapters = nn.ModuleList()

    def names(self, student: Outputs, mentor: Outputs) -> list[tuple[str, str]]:
        """The names of the pairs that this method uses, shallow to deep."""
        if self.pairs is None:
            found = stage_pairs(student.features, mentor.features, stem=self.stem)
            return found[-1:] if self.last_alone else found
        check_pairs(self.pairs, student.features, mentor.features)
        return self.pairs

    def maps(self, student: Outputs, mentor: Outputs) -> list[tuple[Tensor, Tensor]]:
        """The maps of the pairs in full precision, the mentor's detached."""
        return [
            (exact(student.features[here]), exact(mentor.features[there].detach()))
            for here, there in self.names(student, mentor)
        ]

    def setup(self, student: Outputs, mentors: Sequence[Outputs]) -> None:
        """Build the adapters, one to a pair; a method without them checks that it finds pairs."""
        maps = self.maps(student, mentors[0])
        if self.adapts:
            self.adapters = nn.ModuleList(self.adapter(s, t).to(s.device) for s, t in maps)

    def adapter(self, student: Tensor, mentor: Tensor) -> nn.Module:
        """The trainable part of a pair; to be implemented where `adapts`."""
        return Regressor(student.shape[1], mentor.shape[1])

    def term(
        self, student: Outputs, mentor: Outputs, target: Tensor, index: Tensor | None = None
    ) -> Tensor:
        """What `distances` makes of the pairs, summed and weighted: ``[B]`` or ``[]``."""
        maps = self.maps(student, mentor)
        if self.adapts and len(self.adapters) != len(maps):
            raise self.not_set_up("has no adapters yet")
        return self.weight * torch.stack(self.distances(maps)).sum(0)

    def distances(self, maps: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
        """A value for each sample ``[B]``, or one for the batch ``[]``, of every pair."""
        if self.adapts:
            return [
                self.distance(s, t, adapter)
                for (s, t), adapter in zip(maps, self.adapters, strict=True)
            ]
        return [self.distance(s, t) for s, t in maps]

    def distance(self, student: Tensor, mentor: Tensor, adapter: nn.Module | None = None) -> Tensor:
        """How far a pair of maps is apart: ``[B]`` or ``[]``; to be implemented."""
        raise NotImplementedError(f"{type(self).__name__} does not implement distance()")
