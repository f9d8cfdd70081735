"""Ways to run a frozen network that give the same results, some faster than others."""

import itertools
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import partial, update_wrapper
from typing import Any, Literal

import torch
from torch import Tensor, nn

from classroomkd.mentors.tuning.compiled import Compiled
from classroomkd.mentors.tuning.fold import Fold, apply_folds, find_folds

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class Variant:
    """How a frozen network is run; by default as a textbook would.

    Attributes:
        precision: ``"fp32"``, or ``"bf16"``: autocast, with the weights kept in bfloat16.
        channels_last: the memory format of weights and images.
        compiled: by `torch.compile`.
        folded: batch normalisation folded into the layers before it.

    Example:
        >>> print(Variant(precision="bf16", channels_last=True, folded=True))
        bf16, channels_last, folded
    """

    precision: Precision = "fp32"
    channels_last: bool = False
    compiled: bool = False
    folded: bool = False

    def __str__(self) -> str:
        flags = (name for name, value in asdict(self).items() if value is True)
        return ", ".join((self.precision, *flags))

    @property
    def memory_format(self) -> torch.memory_format:
        """Of weights and images."""
        return torch.channels_last if self.channels_last else torch.contiguous_format


def list_variants(precision: Precision) -> list[Variant]:
    """The variants that keep a run's precision, or exceed it; none is compiled.

    Args:
        precision: ``"bf16"`` allows both.

    Example:
        >>> [str(variant) for variant in list_variants("fp32")]
        ['fp32, folded', 'fp32', 'fp32, channels_last, folded', 'fp32, channels_last']
    """
    allowed: list[Precision] = ["fp32"] if precision == "fp32" else ["bf16", "fp32"]
    return [
        Variant(kind, channels_last=last, folded=folded)
        for kind, last, folded in itertools.product(allowed, (False, True), (True, False))
    ]


def tuned(
    network: nn.Module,
    variant: Variant,
    example: Tensor,
    folds: Sequence[Fold] | None = None,
    *,
    strict: bool = False,
) -> "Tuned":
    """A frozen copy of a network that runs as a variant says.

    Args:
        network: stays as it is.
        variant: how to run it.
        example: images ``[B, 3, H, W]`` float32 on the network's device, to find out what folds.
        folds: what `find_folds` gave for this network, where it is known already.
        strict: whether to raise what the compiler raises. Else the network then runs uncompiled,
            with a warning that says why.

    Example:
        >>> from classroomkd.models import build_model
        >>> network, images = build_model("resnet8", 10).eval(), torch.rand(2, 3, 32, 32)
        >>> fast = tuned(network, Variant(channels_last=True, folded=True), images)
        >>> torch.allclose(fast(images), network(images), atol=1e-4)
        True
        >>> list(fast.forward_stages(images))
        ['stem', 'stage1', 'stage2', 'stage3', 'head', 'pooled', 'logits']
    """
    if variant.folded:
        copy = apply_folds(network, find_folds(network, example) if folds is None else folds)
    else:
        copy = deepcopy(network).eval()
    return Tuned(copy, variant, strict=strict)


class Tuned(nn.Module):
    """A frozen network that runs as its variant says, whatever autocast it is called in.

    It has ``forward_stages`` and a float32 ``classifier`` if the network has; what else is asked of
    it is the network's. Answers are without gradient. They are no inference tensors, for these may
    not meet a student's gradients: ``adapter(feature)`` would fail. Modes that change torch's
    functions do not reach into it. A compiled network is a `Compiled`, and should stay on its
    device from its first call on.

    Args:
        network: taken over, not copied.
        variant: how to run it.
        strict: see `tuned`.
    """

    def __init__(self, network: nn.Module, variant: Variant, *, strict: bool = False) -> None:
        super().__init__()
        self.variant, self.strict = variant, strict
        network.eval().requires_grad_(False)
        network.to(memory_format=variant.memory_format)  # type: ignore[call-overload]
        if hasattr(network, "classifier"):
            self.classifier = deepcopy(network.classifier)
        if variant.precision == "bf16":
            _keep_weights_in_bfloat16(network)
        self.network = network
        self._ways: dict[str, Callable[..., Any]] = {}
        self.eval()

    def forward(self, images: Tensor) -> Any:
        """What the network answers, such as logits ``[B, C]``, to images ``[B, 3, H, W]``."""
        return self._ask("__call__", images)

    @property
    def forward_stages(self) -> Callable[..., Any]:
        """As the network's own."""
        stages: Any = getattr(self.network, "forward_stages", None)
        if stages is None:
            raise AttributeError("forward_stages")
        return update_wrapper(partial(self._ask, "forward_stages"), stages)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name in ("network", "forward_stages"):
                raise
            return getattr(self.network, name)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_ways": {}}  # a copy must not ask this one's network

    @torch.no_grad()
    def _ask(self, way: str, images: Tensor, **options: Any) -> Any:
        if way not in self._ways:
            ask = getattr(self.network, way)
            compiled = self.variant.compiled
            self._ways[way] = Compiled(ask, strict=self.strict) if compiled else ask
        half = self.variant.precision == "bf16"
        # A mode would be compiled in, and anew for each mode that a call happens in.
        with (
            torch._C.DisableTorchFunction(),
            torch.autocast(images.device.type, torch.bfloat16, enabled=half),
        ):
            images = images.contiguous(memory_format=self.variant.memory_format)
            return self._ways[way](images, **options)


def _keep_weights_in_bfloat16(network: nn.Module) -> None:
    """Convert what autocast would convert at each call: weights of convolutions and linear layers.

    The rest, such as batch normalisation, stays in float32, and results are those of autocast.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear):
            module.to(torch.bfloat16)
