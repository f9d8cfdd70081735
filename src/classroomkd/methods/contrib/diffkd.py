"""Knowledge diffusion: the student's map is a noisy version of the teacher's, and is denoised.

Shapes: ``B`` samples, ``D`` channels, ``c`` channels of the latent map, ``H`` and ``W`` pixels.
"""

from itertools import accumulate
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

    .. math:: L = CE + v \tau^2 KL(\sigma(z_t/\tau) \,\|\, \sigma(z_s/\tau)) + w \Big[
              mse(p(\hat x), e(F_t)) + mse(\epsilon_\theta(x_i, i), \epsilon)
              + mse(d(e(F_t)), F_t) \Big]

    on the maps of the last stage. ``e`` and ``d`` (1x1 convolutions) are an autoencoder of the
    teacher's map, trained by the third term; its latent map, without gradient, is the target of the
    first. ``epsilon_theta`` predicts the noise ``epsilon`` in ``x_i``, the latent map made noisy as
    of a random time ``i`` of `TIMES`. The student's map, brought to ``c`` channels by a 1x1
    convolution, is mixed with noise in a proportion that a small network chooses, and denoised to
    ``x hat`` by DDIM steps (`denoise`) with gradient; ``p`` is a 1x1 convolution.

    It is random: noise and times are drawn for every batch from torch's generator of the device.
    Cost: ``epsilon_theta`` runs ``steps + 1`` times in a step. With 5 steps all parts take about
    ``23 c^2`` multiplications a pixel: 96 million a sample for ``c = 256`` at 8x8 pixels, half of
    what a resnet8x4 takes by itself.

    Args:
        weight: ``w``.
        kd_weight: ``v``.
        temperature: ``tau``.
        steps: of DDIM.
        channels: ``c``; the teacher's own number if that is less.
        pairs: (the student's, the teacher's) by hand, summed over; None for the last stages.

    Reference: Huang et al., Knowledge Diffusion for Distillation, NeurIPS 2023; networks, times and
    steps of its public code, and 1024 channels and temperature 1 of the paper's experiments.

    Deviations: **unsure** are the weights of the terms: the public code has no training loop, so
    all are 1. The paper diffuses the logits, too; here they are compared by plain KL. Maps of two
    sizes are pooled to the smaller.
    """

    title = "DiffKD"
    year = 2023
    kind = "diffusion"
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

    def adapter(self, student: Tensor, mentor: Tensor) -> nn.Module:
        """The autoencoder and the diffusion model of a pair."""
        latent = min(self.channels, mentor.shape[1])
        return Diffusion(student.shape[1], mentor.shape[1], latent, self.steps)

    def distance(self, student: Tensor, mentor: Tensor, adapter: nn.Module | None = None) -> Tensor:
        """The three squared errors: ``[B]``."""
        assert adapter is not None
        return adapter(*same_size(student, mentor))

    def term(
        self, student: Outputs, mentor: Outputs, target: Tensor, index: Tensor | None = None
    ) -> Tensor:
        """The errors and the KL of the logits, weighted: ``[B]``."""
        tau = self.temperature
        errors = super().term(student, mentor, target, index)
        kl = kl_divergence(exact(student.logits), exact(mentor.logits.detach()), tau, tau)
        return errors + self.kd_weight * tau**2 * kl


class Diffusion(nn.Module):
    """What is trained for a pair of maps.

    Args:
        in_channels: of the student.
        out_channels: of the teacher.
        latent: channels of the latent map.
        steps: of DDIM.
    """

    signal: Tensor

    def __init__(self, in_channels: int, out_channels: int, latent: int, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.encoder = nn.Sequential(nn.Conv2d(out_channels, latent, 1), nn.BatchNorm2d(latent))
        self.decoder = nn.Conv2d(latent, out_channels, 1)
        self.align = nn.Conv2d(in_channels, latent, 1)
        self.predictor = NoisePredictor(latent)
        self.mixer = Mixer(latent)
        self.projection = nn.Conv2d(latent, latent, 1)
        self.register_buffer("signal", torch.tensor(signal_shares()), persistent=False)

    def forward(self, student: Tensor, mentor: Tensor) -> Tensor:
        """The three squared errors of maps of one size: ``[B]``."""
        code = self.encoder(mentor)
        latent = code.detach()
        refined = self.projection(self.refine(self.align(student)))
        return (
            (refined - latent).square().mean((1, 2, 3))
            + self.diffusion_error(latent)
            + (self.decoder(code) - mentor).square().mean((1, 2, 3))
        )

    def refine(self, student: Tensor) -> Tensor:
        """The student's map, mixed with noise and denoised: ``[B, c, H, W]``."""
        share = self.mixer(student)
        noisy = share * student + (1 - share) * noise_like(student)
        return denoise(noisy, self.predictor, self.steps)

    def diffusion_error(self, latent: Tensor) -> Tensor:
        """Squared error of the noise predicted in the teacher's latent map: ``[B]``."""
        time = torch.randint(0, TIMES, (len(latent),), device=latent.device)
        noise = noise_like(latent)
        signal = self.signal[time].view(-1, 1, 1, 1)
        noisy = signal.sqrt() * latent + (1 - signal).sqrt() * noise
        return (self.predictor(noisy, time) - noise).square().mean((1, 2, 3))


class Bottleneck(nn.Module):
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
    """Predicts the noise in a map ``[B, c, H, W]`` at times ``[B]``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(TIMES, channels)
        self.network = nn.Sequential(
            Bottleneck(channels, 4),
            Bottleneck(channels, 4),
            nn.Conv2d(channels, channels, 1),
            nn.BatchNorm2d(channels),
        )

    def forward(self, noisy: Tensor, time: Tensor) -> Tensor:
        """The noise: ``[B, c, H, W]``."""
        return self.network(noisy + self.embedding(time)[:, :, None, None])


class Mixer(nn.Module):
    """Chooses how much of a sample's map is kept beside the noise: ``[B, 1, 1, 1]`` in (0, 1)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block = Bottleneck(channels, 8)
        self.choose = nn.Linear(channels, 2)

    def forward(self, x: Tensor) -> Tensor:
        """The share of the map."""
        chosen = self.choose(self.block(x).mean((2, 3)))
        return torch.softmax(chosen, 1)[:, :1, None, None]


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
