"""Knowledge diffusion: what the student says is a noisy version of the teacher's, and denoised.

Shapes: ``B`` samples, ``D`` channels, ``c`` channels of the latent map, ``H`` and ``W`` pixels.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from math import sqrt
from operator import mul
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from classroomkd.core.divergence import kl_divergence
from classroomkd.methods.base import Outputs
from classroomkd.methods.options import Count, Temperature, Weight
from classroomkd.methods.pairs import FeatureMethod, Pairs, exact, same_size
from classroomkd.methods.registry import register_method

TIMES = 1000
Steps = Annotated[int, Field(ge=1, le=TIMES // 2)]


@register_method("diffkd")
class DiffKD(FeatureMethod):
    r"""A diffusion model of the teacher's map denoises the student's, which then should be equal.

    .. math:: L = CE + w \Big[ mse(\hat x, e(F_t)) + mse(\epsilon_\theta(x_i, i), \epsilon)
              + mse(d(e(F_t)), F_t) \Big]
              + v \Big[ \tau^2 KL(\sigma(z_t/\tau) \,\|\, \sigma(\hat z/\tau))
              + mse(\epsilon_\phi(y_i, i), \epsilon) \Big]

    on the maps that the networks pool, and on their logits. ``e`` and ``d`` (1x1 convolutions) are
    an autoencoder of the teacher's map, trained by the third term; its latent map, without
    gradient, is the target of the first. ``epsilon_theta`` predicts the noise ``epsilon`` in
    ``x_i``, the latent map made noisy as of a random time ``i`` of `TIMES`. The student's map,
    brought to ``c`` channels, is mixed with noise in a proportion that a small network chooses,
    denoised by DDIM steps (`denoise`) with gradient, and projected, to ``x hat``. The logits
    ``z_s`` become ``z hat`` by a denoiser of their own, without autoencoder; ``y_i`` are noisy
    logits of the teacher.

    It is random: noise and times are drawn for every batch from torch's generator of the device.
    It normalises logits over the batch, which therefore needs two samples.

    Cost: ``epsilon_theta`` runs ``steps + 1`` times in a step. With 5 steps all parts of a map take
    about ``23 c^2`` multiplications a pixel: 1.5 billion a sample for ``c = 1024`` at 8x8 pixels,
    nine times what a resnet8x4 takes by itself, and a sixteenth of that for ``c = 256``.

    Args:
        weight: ``w``.
        kd_weight: ``v``.
        temperature: ``tau``.
        steps: of DDIM.
        channels: ``c``, of the latent map, whatever the teacher's number.
        pairs: (the student's, the teacher's) maps by hand, summed over; None for those that are
            pooled (``head``), or the last stages in networks that pool no map.

    Reference: Huang et al., Knowledge Diffusion for Distillation, NeurIPS 2023. Networks, times and
    all defaults are those of its public code (hunto/image_classification_sota), which has one
    configuration, for ImageNet: weights of 1, 1024 channels (also for a ResNet-34, whose map has
    512), temperature 1.

    Deviations: maps of two sizes are pooled to the smaller; the public code wants equal ones.
    """

    title = "DiffKD"
    year = 2023
    kind = "diffusion"
    takes_units = False
    adapts = True
    last_alone = True

    def __init__(
        self,
        *,
        weight: Weight = 1.0,
        kd_weight: Weight = 1.0,
        temperature: Temperature = 1.0,
        steps: Steps = 5,
        channels: Count = 1024,
        pairs: Pairs | None = None,
    ) -> None:
        super().__init__(weight, pairs)
        self.kd_weight = kd_weight
        self.temperature = temperature
        self.steps = steps
        self.channels = channels
        self.logit_denoiser: Denoiser | None = None

    def names(self, student: Outputs, mentor: Outputs) -> list[tuple[str, str]]:
        """The maps that are pooled, unless they are given by hand."""
        names = super().names(student, mentor)
        if self.pairs is not None:
            return names
        here, there = names[-1]
        return [
            (
                "head" if "head" in student.features else here,
                "head" if "head" in mentor.features else there,
            )
        ]

    def setup(self, student: Outputs, mentors: Sequence[Outputs]) -> None:
        """Build the diffusion models of the maps and of the logits."""
        super().setup(student, mentors)
        classes = student.logits.shape[1]
        denoiser = Denoiser(classes, classes, self.steps, VectorMixer, VectorNoisePredictor)
        self.logit_denoiser = denoiser.to(student.logits.device)

    def adapter(self, student: Tensor, mentor: Tensor) -> nn.Module:
        """The autoencoder and the denoiser of a pair."""
        return MapDiffusion(student.shape[1], mentor.shape[1], self.channels, self.steps)

    def distance(self, student: Tensor, mentor: Tensor, adapter: nn.Module | None = None) -> Tensor:
        """The three squared errors: ``[B]``."""
        assert adapter is not None
        return adapter(*same_size(student, mentor))

    def term(
        self, student: Outputs, mentor: Outputs, target: Tensor, index: Tensor | None = None
    ) -> Tensor:
        """What maps and logits are apart, weighted: ``[B]``."""
        if len(target) < 2:
            raise ValueError("diffkd normalises logits over the batch: it needs two samples")
        if self.logit_denoiser is None:
            raise self.not_set_up("has no denoiser yet")
        maps = super().term(student, mentor, target, index)
        here, there = (exact(o.logits)[..., None, None] for o in (student, mentor))
        there = there.detach()
        refined = self.logit_denoiser(here)
        error = self.logit_denoiser.diffusion_error(there)
        tau = self.temperature
        kl = kl_divergence(refined.flatten(1), there.flatten(1), tau, tau)
        return maps + self.kd_weight * (tau**2 * kl + error)


class MapDiffusion(nn.Module):
    """What is trained for a pair of maps.

    Args:
        in_channels: of the student.
        out_channels: of the teacher.
        latent: channels of the latent map.
        steps: of DDIM.
    """

    def __init__(self, in_channels: int, out_channels: int, latent: int, steps: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(out_channels, latent, 1), nn.BatchNorm2d(latent))
        self.decoder = nn.Conv2d(latent, out_channels, 1)
        self.denoiser = Denoiser(in_channels, latent, steps, Mixer, NoisePredictor)

    def forward(self, student: Tensor, mentor: Tensor) -> Tensor:
        """The three squared errors of maps of one size: ``[B]``."""
        code = self.encoder(mentor)
        latent = code.detach()
        return (
            (self.denoiser(student) - latent).square().mean((1, 2, 3))
            + self.denoiser.diffusion_error(latent)
            + (self.decoder(code) - mentor).square().mean((1, 2, 3))
        )


class Denoiser(nn.Module):
    """A diffusion model of maps, and the student's way into it and out.

    Args:
        in_channels: of the student's maps.
        channels: of the maps that it models.
        steps: of DDIM.
        mixer: builds the network that chooses how much noise is added, from ``channels``.
        predictor: builds the network that predicts noise, from ``channels``.
    """

    signal: Tensor

    def __init__(
        self,
        in_channels: int,
        channels: int,
        steps: int,
        mixer: type[nn.Module],
        predictor: type[nn.Module],
    ) -> None:
        super().__init__()
        self.steps = steps
        self.align = nn.Conv2d(in_channels, channels, 1)
        self.predictor = predictor(channels)
        self.mixer = mixer(channels)
        self.projection = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels))
        self.register_buffer("signal", torch.tensor(signal_shares()), persistent=False)

    def forward(self, student: Tensor) -> Tensor:
        """The student's map, mixed with noise, denoised and projected: ``[B, c, H, W]``."""
        aligned = self.align(student)
        share = self.mixer(aligned)
        noisy = share * aligned + (1 - share) * noise_like(aligned)
        return self.projection(denoise(noisy, self.predictor, self.steps))

    def diffusion_error(self, clean: Tensor) -> Tensor:
        """Squared error of the noise predicted in maps ``[B, c, H, W]``: ``[B]``."""
        time = torch.randint(0, TIMES, (len(clean),), device=clean.device)
        noise = noise_like(clean)
        signal = self.signal[time].view(-1, 1, 1, 1)
        noisy = signal.sqrt() * clean + (1 - signal).sqrt() * noise
        return (self.predictor(noisy, time) - noise).square().mean((1, 2, 3))


def pointwise(*widths: int) -> list[nn.Module]:
    """1x1 convolutions through these widths, with batch normalisation and, between two, a ReLU."""
    layers: list[nn.Module] = []
    for here, there in pairwise(widths):
        layers += [nn.Conv2d(here, there, 1), nn.BatchNorm2d(there), nn.ReLU()]
    return layers[:-1]


class DenoisingBlock(nn.Module):
    """A residual block of narrow convolutions: ``[B, c, H, W]`` to the same."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        narrow = max(channels // reduction, 1)
        self.block = nn.Sequential(
            nn.Conv2d(channels, narrow, 1),
            nn.BatchNorm2d(narrow),
            nn.ReLU(),
            nn.Conv2d(narrow, narrow, 3, padding=1),
            nn.BatchNorm2d(narrow),
            nn.ReLU(),
            nn.Conv2d(narrow, channels, 1),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """The map, and what the block adds."""
        return x + self.block(x)


class NoisePredictor(nn.Module):
    """Predicts the noise in maps ``[B, c, H, W]`` at times ``[B]``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(TIMES, channels)
        self.network = self.layers(channels)

    def layers(self, channels: int) -> nn.Sequential:
        """From the noisy maps, moved by the time's embedding, to the noise."""
        return nn.Sequential(
            DenoisingBlock(channels, 4), DenoisingBlock(channels, 4), *pointwise(channels, channels)
        )

    def forward(self, noisy: Tensor, time: Tensor) -> Tensor:
        """The noise: ``[B, c, H, W]``."""
        return self.network(noisy + self.embedding(time)[:, :, None, None])


class VectorNoisePredictor(NoisePredictor):
    """The same for vectors, as maps of one pixel: two hidden layers four times as wide."""

    def layers(self, channels: int) -> nn.Sequential:
        """As the maps' one, without normalisation at its end."""
        wide = 4 * channels
        return nn.Sequential(
            *pointwise(channels, wide, channels), *pointwise(channels, wide, channels)[:-1]
        )


class Mixer(nn.Module):
    """Chooses how much of a sample's map is kept beside the noise: ``[B, 1, 1, 1]`` in (0, 1)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block = self.layers(channels)
        self.choose = nn.Linear(channels, 2)

    def layers(self, channels: int) -> nn.Module:
        """From maps to maps that are pooled for the choice."""
        return DenoisingBlock(channels, 8)

    def forward(self, x: Tensor) -> Tensor:
        """The share of the map."""
        chosen = self.choose(self.block(x).mean((2, 3)))
        return torch.softmax(chosen, 1)[:, :1, None, None]


class VectorMixer(Mixer):
    """The same for vectors, as maps of one pixel: a hidden layer twice as wide."""

    def layers(self, channels: int) -> nn.Module:
        """From vectors to vectors."""
        return nn.Sequential(*pointwise(channels, 2 * channels, channels))


def noise_like(x: Tensor) -> Tensor:
    """Normal noise, drawn in float32 whatever the precision."""
    return torch.randn(x.shape, device=x.device).to(x.dtype)


def signal_shares() -> list[float]:
    """The share ``a_i`` of the signal's variance at every time, falling from 1 to nearly 0.

    The product of ``1 - beta`` up to time ``i``; ``beta`` rises linearly from 1e-4 to 0.02.
    """
    rise = (0.02 - 1e-4) / (TIMES - 1)
    return list(accumulate((1 - (1e-4 + rise * i) for i in range(TIMES)), mul))


def denoise(noisy: Tensor, predictor: nn.Module, steps: int) -> Tensor:
    """Take the noise out of maps ``[B, c, H, W]`` by DDIM steps without new noise.

    The times are the lower half of ``2 steps`` equally spaced ones, from high to low: 400, 300,
    200, 100, 0 for 5 steps.
    """
    shares, stride = signal_shares(), TIMES // (2 * steps)
    for time in range((steps - 1) * stride, -1, -stride):
        times = torch.full((len(noisy),), time, device=noisy.device)
        after = shares[time - stride] if time else 1.0
        noisy = ddim_step(noisy, predictor(noisy, times), shares[time], after)
    return noisy


def ddim_step(noisy: Tensor, noise: Tensor, share: float, after: float) -> Tensor:
    r"""From one time to an earlier one, given the predicted noise.

    .. math:: x' = \sqrt{a'} \, \frac{x - \sqrt{1 - a} \epsilon}{\sqrt{a}} + \sqrt{1 - a'} \epsilon

    Args:
        noisy: ``x``.
        noise: ``epsilon``.
        share: ``a``, of the signal now.
        after: ``a'``, of the signal after.

    Reference: Song et al., Denoising Diffusion Implicit Models, 2021, equation 12 with sigma 0.
    """
    clean = (noisy - sqrt(1 - share) * noise) / sqrt(share)
    return sqrt(after) * clean + sqrt(1 - after) * noise
