"""One training step in plain torch; the Trainer and any other loop call the same function.

Shapes: ``M`` mentors, ``B`` samples.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from classroomkd.core import Lesson
from classroomkd.data import Batch
from classroomkd.engine.build import Classroom
from classroomkd.mentors import Mentor
from classroomkd.methods import Method, Outputs


def hold_lesson(
    student: nn.Module,
    mentors: Sequence[Mentor],
    method: Method,
    batch: Batch,
    precision: str = "fp32",
) -> Lesson:
    """Show a batch to the student and to its mentors, and let the method make a lesson of it.

    Networks run in the given precision, the method in float32. Nothing is read back to the host.

    Args:
        student: images in [0, 1] to logits ``[B, C]``; gets gradients from ``lesson.loss``.
        mentors: may be empty.
        method: what is learnt from them.
        batch: images, target and index, on the networks' device.
        precision: ``"fp32"`` or ``"bf16"`` (autocast).
    """
    with autocast(batch.images.device, precision):
        taught = [outputs(mentor, batch.images, method.needs_features) for mentor in mentors]
        learnt = outputs(student, batch.images, method.needs_features)
    return method(learnt, taught, batch.target)


def begin_epoch(classroom: Classroom, epoch: int) -> None:
    """Order, views and every other chance of an epoch are functions of seed and epoch alone."""
    classroom.train.set_epoch(epoch)
    torch.manual_seed(classroom.recipe.seed * 1_000_003 + epoch)


def outputs(network: nn.Module | Mentor, images: Tensor, features: bool) -> Outputs:
    """What a network or mentor says about images, with its stage features if asked for."""
    if not features:
        return Outputs(network(images))
    stages = dict(network.forward_stages(images))  # type: ignore[operator]
    return Outputs(stages.pop("logits"), stages)


@contextmanager
def autocast(device: torch.device, precision: str) -> Iterator[None]:
    """The context in which networks run: bfloat16 autocast, or nothing."""
    if precision != "bf16":
        yield
    elif device.type != "cpu":
        with torch.autocast(device.type, dtype=torch.bfloat16):
            yield
    else:
        with torch.autocast("cpu", dtype=torch.bfloat16), _DepthwiseGradients():
            yield


class _DepthwiseGradients(TorchFunctionMode):
    """Computes in float32, on a CPU, the depthwise convolutions whose bfloat16 gradients are slow.

    They are 5 to 400 times as slow: those of strided ones for the input, and those on maps smaller
    than the kernel for the weight. They took 60 % of MobileNetV2's training step. The outputs are
    bfloat16 as usual, and what needs no gradient, such as a mentor, stays as it is.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        trained = torch.is_grad_enabled() and torch.is_autocast_enabled("cpu")
        if func is torch.conv2d and trained and not kwargs and _is_slow(*args):
            with torch.autocast("cpu", enabled=False):
                exact = [a.float() if isinstance(a, Tensor) else a for a in args]
                return func(*exact).to(torch.bfloat16)
        return func(*args, **(kwargs or {}))


def _is_slow(images: Tensor, weight: Tensor, bias: Any = None, stride: Any = 1, *_: Any) -> bool:
    """Whether these arguments of `torch.conv2d`, as `nn.Conv2d` gives them, are such a case."""
    depthwise = weight.shape[1] == 1 and images.shape[1] > 1
    small = any(side < size for side, size in zip(images.shape[2:], weight.shape[2:], strict=True))
    return depthwise and (small or stride not in (1, (1, 1)))
