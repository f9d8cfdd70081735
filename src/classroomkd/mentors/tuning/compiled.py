"""`torch.compile` for a frozen network: for one shape, without surprises."""

import warnings
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

Ask = Callable[..., Any]


class Compiled:
    """What a network answers to images, compiled by `torch.compile` with its weights as constants.

    Constant weights are laid out for the processor once, and activations and sums join the
    convolution before them. It is compiled at the first call, for images of that shape. Others,
    such as a smaller last batch, are answered by the network itself, so that nothing is compiled a
    second time.

    Args:
        ask: images ``[B, 3, H, W]`` to anything, in PyTorch.
        strict: whether to raise what the compiler raises, such as that there is no C++ compiler.
            Else the network runs as it is, with a warning that says why.
    """

    def __init__(self, ask: Ask, *, strict: bool = False) -> None:
        self.ask, self.strict = ask, strict
        self.shape: torch.Size | None = None
        self._run = ask

    def __call__(self, images: Tensor, **options: Any) -> Any:
        """The answer; called without gradients."""
        if self.shape is None:
            self.shape = images.shape
            return self._compile(images, **options)
        return (self._run if images.shape == self.shape else self.ask)(images, **options)

    def _compile(self, images: Tensor, **options: Any) -> Any:
        from torch._inductor import config  # which takes a while

        # Given to torch.compile as an option, freezing has no effect: by the time that it is read,
        # weights are inputs already.
        frozen = config.patch(freezing=True)
        try:
            run = frozen(torch.compile(_own_code(self.ask), dynamic=False))
            answer = run(images, **options)
        except Exception as error:  # whatever the compiler makes of it
            if self.strict:
                raise
            reason = str(error).strip().partition("\n")[0]
            warnings.warn(
                f"a mentor runs uncompiled, for torch.compile failed: {type(error).__name__}:"
                f" {reason}",
                stacklevel=2,
            )
            return self.ask(images, **options)
        self._run = run
        return answer


def _own_code(ask: Ask) -> Ask:
    """The same function with a code object of its own.

    What is compiled belongs to a code object, which keeps eight networks at the most and silently
    runs others uncompiled; networks of a family share their ``forward``.
    """

    def run(images: Tensor, **options: Any) -> Any:
        return ask(images, **options)

    return FunctionType(run.__code__.replace(), globals(), run.__name__, None, run.__closure__)
