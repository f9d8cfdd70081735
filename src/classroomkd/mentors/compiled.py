"""`torch.compile` for a frozen network: for one shape, without surprises."""

import warnings
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from classroomkd.mentors.fold import relative_error, tensors_of

Ask = Callable[..., Any]


class Compiled(nn.Module):
    """What a network answers to images, compiled by `torch.compile` with its weights as constants.

    Constant weights are laid out for the processor once, and activations and sums join the
    convolution before them. It is compiled at the first call, for images of that shape and for the
    precision of that moment. Other calls, such as that of a smaller last batch, are answered by the
    network itself, so that nothing is compiled a second time. Where the compiler fails, or its
    answer is another one, the network runs as it is, with a warning that says why.

    Args:
        network: frozen; images ``[B, 3, H, W]`` to anything. It is not copied.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.eval()
        self._runs: dict[str, tuple[tuple[Any, ...], Ask]] = {}

    def forward(self, images: Tensor) -> Any:
        """The network's answer, without gradient."""
        return self._answer("__call__", images)

    def forward_stages(self, images: Tensor, **options: Any) -> Any:
        """That of the network's ``forward_stages``."""
        return self._answer("forward_stages", images, **options)

    @torch.no_grad()
    def _answer(self, way: str, images: Tensor, **options: Any) -> Any:
        ask = getattr(self.network, way)
        half = torch.is_autocast_enabled(images.device.type)
        call = (images.shape, half, *options.items())
        if way not in self._runs:
            self._runs[way] = call, _compile(ask, images, options, 5e-2 if half else 1e-4)
        compiled_call, run = self._runs[way]
        return (run if call == compiled_call else ask)(images, **options)


def _compile(ask: Ask, images: Tensor, options: dict[str, Any], tolerance: float) -> Ask:
    """The compiled function, if it gives what the function gives."""
    from torch._inductor import config  # which takes a while

    if images.device.type != "cpu":
        tolerance = max(tolerance, 5e-3)  # a GPU may round products to TF32
    try:
        # Given to torch.compile as an option, freezing has no effect: by the time that it is read,
        # weights are inputs already.
        with config.patch(freezing=True):
            run = torch.compile(_own_code(ask), dynamic=False)
            given, wanted = (tensors_of(f(images, **options)) for f in (run, ask))
            error = max(map(relative_error, given, wanted))
        reason = "" if error <= tolerance else f"results differ by {error:.1e}"
    except Exception as problem:  # whatever the compiler makes of it
        line = str(problem).strip().partition("\n")[0]
        reason = f"torch.compile failed: {type(problem).__name__}: {line}"
    if reason:
        warnings.warn(f"a mentor runs uncompiled, for {reason}", stacklevel=4)
        return ask
    return run


def _own_code(ask: Ask) -> Ask:
    """The same function with a code object of its own.

    What is compiled belongs to a code object, which keeps eight networks at the most and silently
    runs others uncompiled; networks of a family share their ``forward``.
    """

    def run(images: Tensor, **options: Any) -> Any:
        return ask(images, **options)

    return FunctionType(run.__code__.replace(), globals(), run.__name__, None, run.__closure__)
