"""Whether a mentor gets the pixels that it was trained on.

Shapes: ``N`` images.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from classroomkd.mentors import Mentor
from classroomkd.models.external.pixels import IMAGENET_MEAN, IMAGENET_STD
from classroomkd.models.network import Normalize
from classroomkd.tasks.classification.checks.sample import ask, gain

PROBE = 192  # images, and a third of them where a mentor is slow
Triple = tuple[float, ...]
Scale = tuple[Triple, Triple]


def other_scales(own: Scale, data: Scale) -> dict[str, Scale]:
    """Ways to normalise pixels in [0, 1] that a mentor may have been trained with: mean and std.

    Args:
        own: what it has.
        data: of the training set.
    """
    mean, std = own
    scales = {
        "pixels from 0 to 255": (
            tuple(value / 255 for value in mean),
            tuple(value / 255 for value in std),
        ),
        "pixels from 0 to 255, not normalised": ((0.0,) * 3, (1 / 255,) * 3),
        "pixels from 0 to 1, not normalised": ((0.0,) * 3, (1.0,) * 3),
        "pixels from -1 to 1": ((0.5,) * 3, (0.5,) * 3),
        "the data's mean and std": data,
        "ImageNet's mean and std": (IMAGENET_MEAN, IMAGENET_STD),
    }
    close = torch.tensor(own)
    return {
        name: scale
        for name, scale in scales.items()
        if not torch.allclose(torch.tensor(scale), close, atol=0.01, rtol=0.05)
    }


def better_pixels(
    mentor: Mentor, images: Tensor, target: Tensor, said: Tensor, data: Scale
) -> tuple[str, float, Scale | None] | None:
    """The pixels with which a mentor does best, if it does better than with those that it gets.

    Args:
        mentor: frozen; it is as it was, afterwards.
        images: ``[N, 3, H, W]`` in [0, 1]; the first are used.
        target: ``[N]``, on the CPU.
        said: the classes that it names, ``[N]``, on the CPU.
        data: mean and std of the training set.

    Returns:
        What they are, how many points it gains, and their mean and std (None for colours in the
        order blue, green, red); or None if there are no better ones.
    """
    normalize = getattr(mentor.network, "normalize", None)
    if not isinstance(normalize, Normalize):
        return None
    count = min(PROBE, max(PROBE // 3, len(said) // 8), len(said))
    images, target, right = images[:count], target[:count], said[:count] == target[:count]
    own = (tuple(normalize.mean.flatten().tolist()), tuple(normalize.std.flatten().tolist()))
    tried: list[tuple[str, float, Scale | None]] = []
    for name, scale in other_scales(own, data).items():
        with _normalising(normalize, scale):
            answers = ask(mentor, images).argmax(-1)
        tried.append((name, gain(answers == target, right), scale))
    answers = ask(mentor, images.flip(1)).argmax(-1)
    tried.append(("colours in the order blue, green, red", gain(answers == target, right), None))
    best = max(tried, key=lambda way: way[1])
    return best if best[1] > 0 else None


@contextmanager
def _normalising(normalize: Normalize, scale: Scale) -> Iterator[None]:
    """Another mean and standard deviation for a while."""
    own = normalize.mean.clone(), normalize.std.clone()
    try:
        for buffer, values in zip((normalize.mean, normalize.std), scale, strict=True):
            buffer.copy_(torch.tensor(values).view(3, 1, 1))
        yield
    finally:
        normalize.mean.copy_(own[0])
        normalize.std.copy_(own[1])
