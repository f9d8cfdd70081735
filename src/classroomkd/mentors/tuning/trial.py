"""Whether a variant of a network gives the results that float32 gives."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor, nn

from classroomkd.mentors.tuning.fold import (
    Fold,
    answers,
    find_folds,
    relative_error,
    tensors_of,
)
from classroomkd.mentors.tuning.variants import Tuned, Variant, tuned

AGREEMENT = 0.95  # share of images with the same top class
TIE = 0.01  # of the largest logit: classes that are this near count as the same


class Trial:
    """A frozen network, its variants, and what they answer to an example and to random images.

    Args:
        network: stays as it is.
        example: images ``[B, 3, H, W]`` float32, on the network's device.

    Attributes:
        rejected: variants that failed, each with the reason: an error, or how results differ.
    """

    def __init__(self, network: nn.Module, example: Tensor) -> None:
        self.network, self.example = network, example
        generator = torch.Generator().manual_seed(1)
        self._batches = example, torch.rand(example.shape, generator=generator).to(example)
        self.rejected: dict[Variant, str] = {}
        self._problems: dict[Variant, str | None] = {}

    def build(self, variant: Variant) -> Tuned:
        """The network as the variant runs it."""
        folds = self._folds if variant.folded else ()
        return tuned(self.network, variant, self.example, folds, strict=True)

    def holds(self, variant: Variant) -> bool:
        """Whether the variant's logits and stages are float32's, on both batches.

        A compiled one is judged by the same variant without `torch.compile`.
        """
        eager = replace(variant, compiled=False)
        if eager not in self._problems:
            self._problems[eager] = self._problem(eager)
        return self._note(variant, self._problems[eager])

    def works(self, network: Tuned) -> bool:
        """Whether a built variant, such as a compiled one, gives float32's logits."""
        limit = tolerance(network.variant, self.example)
        try:
            given = list(tensors_of(network(self.example)))
            problem = difference(given, self._wanted[0][: len(given)], limit)
        except Exception as error:  # whatever the compiler makes of it
            problem = _describe(error)
        return self._note(network.variant, problem)

    def _note(self, variant: Variant, problem: str | None) -> bool:
        if problem is not None:
            self.rejected[variant] = problem
        return problem is None

    def _problem(self, variant: Variant) -> str | None:
        limit = tolerance(variant, self.example)
        try:
            network = self.build(variant)
            given = [answers(network, images) for images in self._batches]
        except Exception as error:  # whatever a network makes of another precision
            return _describe(error)
        found = (difference(*pair, limit) for pair in zip(given, self._wanted, strict=True))
        return next((problem for problem in found if problem), None)

    @cached_property
    def _folds(self) -> tuple[Fold, ...]:
        return find_folds(self.network, self.example)

    @cached_property
    def _wanted(self) -> list[list[Tensor]]:
        plain = self.build(Variant())
        return [answers(plain, images) for images in self._batches]


def tolerance(variant: Variant, example: Tensor) -> float:
    """How far results may be from float32's, relative to the largest value.

    A GPU may round products in float32 to TF32, which has three bits more than bfloat16.
    """
    if variant.precision == "bf16":
        return 5e-2
    return 1e-4 if example.device.type == "cpu" else 5e-3


def difference(given: Sequence[Tensor], wanted: Sequence[Tensor], limit: float) -> str | None:
    """What sets two lists of answers apart, each with logits ``[B, C]`` first; None if nothing.

    Args:
        given: the answers to judge.
        wanted: those of float32.
        limit: for the relative error of each.

    Example:
        >>> right = [torch.tensor([[1.0, 2.0], [4.0, 3.0]])]
        >>> difference([right[0] + 0.001], right, limit=0.01)
        >>> difference([right[0] + 0.1], right, limit=0.01)
        'results differ by 2.5e-02 (tolerance 1e-02)'
    """
    errors = [relative_error(a, b) for a, b in zip(given, wanted, strict=True)]
    if not all(error <= limit for error in errors):  # also where it is not a number
        return f"results differ by {max(errors):.1e} (tolerance {limit:.0e})"
    if (agree := _agreement(given[0], wanted[0])) < AGREEMENT:
        return f"only {100 * agree:.0f} % of the images keep their top class"
    return None


def _agreement(given: Tensor, wanted: Tensor) -> float:
    """Share of the images whose top class is the same, or nearly as high."""
    chosen = wanted.gather(-1, given.argmax(-1, keepdim=True)).squeeze(-1)
    near = chosen >= wanted.amax(-1) - TIE * wanted.abs().amax()
    return near.float().mean().item()


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
