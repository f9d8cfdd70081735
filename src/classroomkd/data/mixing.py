"""Mixed samples (mixup and cutmix), and targets that are probabilities.

What a sample is mixed with, how much and where follow from (seed, epoch, index) and from the
training set, not from the batch: its partner is any other sample of the set, in that sample's own
view. A mixed image is hence as pure as a view, and a bank may hold what mentors say about it.

Shapes: ``B`` samples, ``N`` of the training set, ``C`` classes.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from classroomkd.data import options as check
from classroomkd.data.draws import Draws


class Mixture(NamedTuple):
    """What samples are mixed with: all that mixed images and their targets follow from.

    Attributes:
        partner: ``[B]`` int64, the other samples' places in the set.
        box: ``[4, B]`` int64, top, left, bottom and right, in pixels, of what the partner covers.
        blend: ``[B]`` float32, how much the sample counts outside of the box, from 0 to 1.
        share: ``[B]`` float32, how much its class counts in the target.
    """

    partner: Tensor
    box: Tensor
    blend: Tensor
    share: Tensor


@dataclass(frozen=True)
class Mixing:
    r"""Mixup, cutmix, or either of them by chance, drawn for each sample.

    With :math:`\lambda \sim Beta(\alpha, \alpha)`, mixup shows ``lambda`` of the sample and
    ``1 - lambda`` of its partner everywhere. Cutmix covers a box of ``sqrt(1 - lambda)`` of height
    and width about a random pixel with the partner; what lies outside of the image is cut off, and
    ``lambda`` becomes what remains of the sample's area. The target is mixed by ``lambda``.

    Args:
        mixup: ``alpha`` of mixup; 0 for no mixup.
        cutmix: ``alpha`` of cutmix; 0 for no cutmix.
        switch: probability of cutmix where both are on.
        p: probability that a sample is mixed at all.

    Raises:
        ValueError: If an option is out of range.

    >>> mixing = Mixing(cutmix=1.0)
    >>> draws = Draws(seed=0, epoch=3, index=torch.arange(2))
    >>> mixture = mixing.draw(draws, torch.arange(2), count=50, height=32, width=32)
    >>> bool((mixture.partner != torch.arange(2)).all())
    True
    >>> own, other = torch.zeros(2, 3, 32, 32), torch.ones(2, 3, 32, 32)
    >>> torch.equal(mix(own, other, mixture).mean((1, 2, 3)), 1 - mixture.share)
    True

    Reference: Zhang et al., mixup: Beyond Empirical Risk Minimization, 2018; Yun et al., CutMix:
    Regularization Strategy to Train Strong Classifiers with Localizable Features, 2019. Both draw
    one ``lambda`` for a batch and the partners within it.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    switch: float = 0.5
    p: float = 1.0

    def __post_init__(self) -> None:
        check.number("mixup", self.mixup, 0, 1e6)
        check.number("cutmix", self.cutmix, 0, 1e6)
        check.number("switch", self.switch, 0, 1)
        check.number("p", self.p, 0, 1)

    @property
    def on(self) -> bool:
        """Whether any sample is mixed."""
        return self.p > 0 and (self.mixup > 0 or self.cutmix > 0)

    def draw(self, draws: Draws, rows: Tensor, count: int, height: int, width: int) -> Mixture:
        """What samples are mixed with.

        Args:
            draws: of the samples, on the host.
            rows: ``[B]`` int64, their places in the set, on the host.
            count: ``N``, of the samples in the set.
            height: of the images, in pixels.
            width: the same.
        """
        share = torch.ones(len(rows), dtype=torch.float64)
        chance = draws.uniform("mix share")[:, 0].double()
        cut, blended = self._kinds(draws)
        for kind, alpha in ((cut, self.cutmix), (blended, self.mixup)):
            share[kind] = beta_quantile(chance[kind], alpha)
        box = top, left, bottom, right = _boxes(draws, share, height, width) * cut
        covered = ((bottom - top) * (right - left)).double() / (height * width)
        share = torch.where(cut, 1 - covered, share)
        step = draws.integers("mix partner", 1, max(count, 2))[:, 0]  # all others alike
        return Mixture(
            partner=(rows + step) % count,
            box=box,
            blend=torch.where(cut, 1, share).float(),
            share=share.float(),
        )

    def _kinds(self, draws: Draws) -> tuple[Tensor, Tensor]:
        """Which samples are cut, and which are blended: bool ``[B]`` each."""
        mixed = draws.uniform("mix")[:, 0] < self.p
        switch = self.switch if self.mixup and self.cutmix else float(self.cutmix > 0)
        cut = draws.uniform("mix kind")[:, 0] < switch
        return mixed & cut, mixed & ~cut & (self.mixup > 0)


def beta_quantile(chance: Tensor, alpha: float) -> Tensor:
    """The quantile function of ``Beta(alpha, alpha)``: from uniform numbers, samples of it.

    Both are ``[B]`` float64 in [0, 1], on the host.

    >>> beta_quantile(torch.tensor([0.25, 0.5]).double(), 1.0).tolist()
    [0.25, 0.5]
    """
    if not len(chance):
        return chance
    from scipy.special import betaincinv

    return torch.from_numpy(betaincinv(alpha, alpha, chance.numpy()))


def mix(images: Tensor, partners: Tensor, mixture: Mixture) -> Tensor:
    """Samples mixed with their partners: ``[B, 3, H, W]`` float, as both of them are."""
    y, x = (torch.arange(size, device=images.device) for size in images.shape[-2:])
    top, left, bottom, right = mixture.box[:, :, None]
    high, wide = (y >= top) & (y < bottom), (x >= left) & (x < right)
    covered = high[:, :, None] & wide[:, None, :]
    weight = torch.where(covered, 0, mixture.blend[:, None, None])
    return partners.lerp(images, weight[:, None].to(images.dtype))


def soft_targets(
    target: Tensor, classes: int, mixture: Mixture | None = None, smoothing: float = 0.0
) -> Tensor:
    """Targets as probabilities, mixed as the samples are, then smoothed: ``[B, C]`` float32.

    Args:
        target: ``[1, B]`` int64, the samples' classes; ``[2, B]`` with those of their partners.
        classes: ``C``.
        mixture: what the samples are mixed with; None if they are not.
        smoothing: the part that all classes have alike.

    >>> soft_targets(torch.tensor([[1, 3]]), classes=4, smoothing=0.2)
    tensor([[0.0500, 0.8500, 0.0500, 0.0500],
            [0.0500, 0.0500, 0.0500, 0.8500]])

    Reference: Szegedy et al., Rethinking the Inception Architecture for Computer Vision, 2016.
    """
    # By hand, since F.one_hot looks at the labels, for which the host would wait.
    certain = torch.zeros(*target.shape, classes, device=target.device)
    certain.scatter_(-1, target[..., None], 1)
    likely = certain[0]
    if mixture is not None:
        share = mixture.share[:, None]
        likely = share * certain[0] + (1 - share) * certain[1]
    return (1 - smoothing) * likely + smoothing / classes


def _boxes(draws: Draws, share: Tensor, height: int, width: int) -> Tensor:
    """Boxes of ``1 - share [B]`` of the image about a random pixel: ``[4, B]`` int64, clipped."""
    middle = draws.uniform("mix box", n=2).double()
    side = (1 - share).sqrt()
    edges = []
    for size, centre in ((height, middle[:, 0]), (width, middle[:, 1])):
        half = (size * side).long() // 2
        centre = (size * centre).long()
        edges.append(((centre - half).clamp_min(0), (centre + half).clamp_max(size)))
    (top, bottom), (left, right) = edges
    return torch.stack([top, left, bottom, right])
