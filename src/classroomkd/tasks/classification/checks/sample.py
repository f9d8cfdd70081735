"""The images that mentors are judged on, and what they say about them.

Shapes: ``N`` images, ``B`` of them at a time, ``C`` classes.
"""

from math import sqrt
from time import perf_counter

import torch
from scipy.stats import binomtest
from torch import Tensor, nn

from classroomkd.data import Batch, ImageSet
from classroomkd.data.photos import PhotoSet
from classroomkd.engine.classroom import Classroom
from classroomkd.mentors import Mentor

SAMPLES, PHOTOS = 2048, 320  # photographs are decoded one by one
AT_A_TIME = 64
FEWEST = 256  # that a mentor is asked about, however long it takes
SECONDS = 6.0  # after which a mentor is not asked any more


def judged_on(classroom: Classroom) -> tuple[ImageSet, str]:
    """The development split, or the training set without one, and what to call its images."""
    if classroom.dev is not None:
        return classroom.dev.dataset, "development"
    return classroom.train.dataset, "training"


def plain_sample(classroom: Classroom) -> Batch:
    """Some images without augmentation, drawn with a seed of their own, on the device."""
    image_set, _ = judged_on(classroom)
    count = PHOTOS if isinstance(image_set, PhotoSet) else SAMPLES
    order = torch.randperm(len(image_set), generator=torch.Generator().manual_seed(0))
    picked = image_set.subset(order[:count])
    images = picked.images.to(classroom.device).float().div(255)
    fields = picked.target.to(classroom.device), picked.index.to(classroom.device)
    return Batch(images, *fields)


def ask(mentor: Mentor | nn.Module, images: Tensor, seconds: float = SECONDS) -> Tensor:
    """A network's logits of as many images as it manages in a time: ``[n, C]`` float32, on the CPU.

    Args:
        mentor: frozen, or any network in eval mode.
        images: ``[N, 3, H, W]`` in [0, 1].
        seconds: after which it is not asked any more, once `FEWEST` are done.
    """
    end, said, done = perf_counter() + seconds, [], 0
    for part in images.split(AT_A_TIME):
        said.append(mentor(part).float().cpu())
        done += len(part)
        if done >= FEWEST and perf_counter() > end:
            break
    return torch.cat(said)


def interval(right: int, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share, in percent.

    >>> [round(bound, 1) for bound in interval(60, 100)]
    [50.2, 69.1]
    """
    low, high = binomtest(right, count).proportion_ci(method="wilson")
    return 100 * float(low), 100 * float(high)


def gain(better: Tensor, than: Tensor) -> float:
    """How many points more of the same images are right, or 0 if that may be chance.

    It counts where it is 3 points at least, and three standard deviations of what two equal judges
    differ by (McNemar).

    Args:
        better: ``[N]`` bool, right in one way.
        than: ``[N]`` bool, right in the other.

    >>> right = torch.arange(100) < 20
    >>> gain(~right, right), gain(right.roll(1), right)
    (60.0, 0.0)
    """
    won, lost = int((better & ~than).sum()), int((than & ~better).sum())
    points = 100 * (won - lost) / max(len(better), 1)
    return points if points >= 3 and won - lost > 3 * sqrt(won + lost) else 0.0
