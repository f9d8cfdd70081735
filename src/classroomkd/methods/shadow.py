"""A teacher that adapts to its student by way of a shadow of its own: SHAKE.

Shapes: ``B`` samples, ``C`` classes, ``D`` channels, ``H`` and ``W`` pixels.
"""

import re
from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from classroomkd.core import Lesson, Signals
from classroomkd.core.divergence import cross_entropy, kl_divergence
from classroomkd.methods.base import Outputs, SingleMethod, feature_lesson, outputs_as_signals
from classroomkd.methods.heads import frozen_copy
from classroomkd.methods.options import Temperature, Weight
from classroomkd.methods.pairs import exact, same_size
from classroomkd.methods.registry import register_method


@register_method("shake")
class SHAKE(SingleMethod):
    r"""Shadow knowledge: a proxy head on the teacher's maps, and the student, teach each other.

    With ``n(z) = s (z - mean z) / std z`` of a sample's logits and ``p = n(z_p)``, ``t = n(z_t)``,
    ``q = n(z_s)``,

    .. math:: L = \lambda CE(q) + \alpha \tau^2 KL(\sigma(t/\tau) \,\|\, \sigma(q/\tau))
              + \beta \Big[ \tau^2 KL(\sigma(p/\tau) \,\|\, \sigma(q/\tau))
              + \tau^2 KL(\sigma(q/\tau) \,\|\, \sigma(p/\tau)) + CE(p)
              + \frac{1}{C} \| p - t \|^2 \Big]

    In the first divergence the proxy is a constant, in the second the student: each learns from the
    other, and the proxy from labels and teacher, too. The proxy's logits ``z_p`` are those of the
    teacher's classifier, frozen, for a map that is fused, by the `Proxy`, from three of the
    teacher's stages; it is trained along, and the teacher is not.

    The scores of a lesson are those of ``q`` and ``t``. The student is judged and exported by
    ``z_s``: its classes are those of ``q``, its probabilities are not.

    Args:
        temperature: ``tau``.
        alpha: of what the teacher itself teaches.
        beta: of what the proxy teaches and learns.
        task_weight: ``lambda``, of the cross-entropy.
        scale: ``s``.

    Reference: Li and Jin, Shadow Knowledge Distillation: Bridging Offline and Online Knowledge
    Transfer, NeurIPS 2022; formula, proxy and defaults are those of its public code.

    Deviations: the public code takes the teacher's first three stages, the third of which must be
    as wide as the classifier's input, and halve in size from one to the next. Here they are the
    first three that end in one as wide, else the last three, of any sizes.
    """

    title = "SHAKE"
    year = 2022
    kind = "feature"
    needs_features = True

    def __init__(
        self,
        *,
        temperature: Temperature = 4.0,
        alpha: Weight = 0.0,
        beta: Weight = 1.0,
        task_weight: Weight = 1.0,
        scale: Temperature = 3.1415,
    ) -> None:
        super().__init__()
        self.temperature, self.scale = temperature, scale
        self.alpha, self.beta, self.task_weight = alpha, beta, task_weight
        self.proxy: Proxy | None = None
        self.classifier: nn.Linear | None = None

    def setup(self, student: Outputs, mentors: Sequence[Outputs]) -> None:
        """Build the proxy, and copy the teacher's classifier."""
        device = student.logits.device
        classifier = frozen_copy(mentors[0].classifier, self.name)
        maps = fused_maps(mentors[0].features, classifier.in_features)
        self.proxy = Proxy([tuple(m.shape[1:]) for m in maps], classifier.in_features).to(device)
        self.classifier = classifier.to(device)

    def lesson(self, signals: Signals) -> Lesson:
        """The cross-entropy of the normalised logits, and the term."""
        student, mentor = signals.outputs
        term = self.term(student, mentor, signals.label)
        said = [Outputs(self.normalized(one.logits)) for one in (student, mentor)]
        normalized = outputs_as_signals(said, signals.label)
        return feature_lesson(normalized, term.unsqueeze(0), self.task_weight)

    def term(
        self, student: Outputs, mentor: Outputs, target: Tensor, index: Tensor | None = None
    ) -> Tensor:
        """What teacher and proxy teach, and what the proxy learns, weighted: ``[B]``."""
        if self.proxy is None or self.classifier is None:
            raise self.not_set_up("has no proxy yet")
        maps = fused_maps(mentor.features, self.classifier.in_features)
        fused = self.proxy([exact(m.detach()) for m in maps])
        here, there, proxy = (
            self.normalized(z)
            for z in (student.logits, mentor.logits.detach(), self.classifier(fused))
        )
        learnt = (
            self.kl(here, proxy.detach())
            + self.kl(proxy, here.detach())
            + cross_entropy(proxy, target)
            + (proxy - there).square().mean(1)
        )
        return self.alpha * self.kl(here, there) + self.beta * learnt

    def normalized(self, logits: Tensor) -> Tensor:
        """``n(z)``, ``[B, C]``; 1e-7 is added to the square of the classes' deviation."""
        return self.scale * F.layer_norm(exact(logits), logits.shape[1:], eps=1e-7)

    def kl(self, learner: Tensor, guide: Tensor) -> Tensor:
        """``tau**2 KL(guide || learner)``, ``[B]``."""
        tau = self.temperature
        return tau**2 * kl_divergence(learner, guide, tau, tau)


class Proxy(nn.Module):
    r"""Three maps, shallow to deep, fused and pooled to one feature.

    .. math:: P(f_1, f_2, f_3) = mean \; c_5(c_3(c_1(f_1) + c_2(f_2)) + c_4(f_3))

    ``c_2`` and ``c_4`` are 1x1 convolutions, the others 3x3, each with batch normalisation and
    ReLU; ``c_1`` and ``c_3`` stride to the size of the next map (both sides are average-pooled to
    the smaller where a stride does not lead there).

    Args:
        shapes: ``(D, H, W)`` of the three maps.
        width: of the feature.

    Example:
        >>> import torch
        >>> shapes = [(16, 32, 32), (32, 16, 16), (64, 8, 8)]
        >>> Proxy(shapes, width=64)([torch.rand(2, *shape) for shape in shapes]).shape
        torch.Size([2, 64])
    """

    def __init__(self, shapes: Sequence[tuple[int, ...]], width: int) -> None:
        super().__init__()
        (one, high, _), (two, middle, _), (three, low, _) = shapes
        self.shallow = convolution(one, two, kernel=3, stride=max(high // middle, 1))
        self.second = convolution(two, two, kernel=1)
        self.middle = convolution(two, three, kernel=3, stride=max(middle // low, 1))
        self.third = convolution(three, three, kernel=1)
        self.deep = convolution(three, width, kernel=3)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """From maps ``[B, D, H, W]`` to a feature ``[B, width]``."""
        first, second, third = maps
        fused = sum(same_size(self.shallow(first), self.second(second)))
        fused = sum(same_size(self.middle(fused), self.third(third)))
        return self.deep(fused).mean((2, 3))


def convolution(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """A convolution without bias, batch normalisation and ReLU."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU())


def fused_maps(features: Mapping[str, Tensor], width: int) -> list[Tensor]:
    """The three stages that end in the first of a width, else the last three: ``[B, D, H, W]``.

    Example:
        >>> import torch
        >>> widths = {"stem": 8, "stage1": 8, "stage2": 16, "stage3": 32, "stage4": 32}
        >>> maps = {name: torch.empty(1, width, 4, 4) for name, width in widths.items()}
        >>> [m.shape[1] for m in fused_maps(maps, 32)]
        [8, 16, 32]
        >>> [m.shape[1] for m in fused_maps(maps, 1280)]
        [16, 32, 32]

    Raises:
        ValueError: if there are fewer than three.
    """
    stages = [m for name, m in features.items() if re.fullmatch(r"stage\d+", name) and m.ndim == 4]
    if len(stages) < 3:
        raise ValueError(
            f"shake fuses three stages of its mentor, which shows {len(stages)} (its features:"
            f" {', '.join(features) or 'none'}); give Outputs(logits, features, classifier) with"
            " the features of network.forward_stages(images)"
        )
    ends = [place for place, m in enumerate(stages) if place >= 2 and m.shape[1] == width]
    end = ends[0] if ends else len(stages) - 1
    return stages[end - 2 : end + 1]
