"""A network of another library, as one of ours.

Shapes: ``B`` samples, ``C`` classes, ``D`` width of the classifier's input, ``H`` and ``W`` pixels.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from functools import cached_property
from typing import NamedTuple, Self, TypeVar

import torch
from torch import Tensor, nn

from classroomkd.errors import ClassroomError
from classroomkd.models.external.maps import (
    ToMap,
    choose_stages,
    find_classifier,
    find_taps,
    watch,
)
from classroomkd.models.external.pixels import FitPixels, Pixels
from classroomkd.models.network import Network

_M = TypeVar("_M", bound=nn.Module)


class Trace(NamedTuple):
    """What a network was seen to compute.

    Attributes:
        maps: ``[B, channels, height, width]``, in order of depth.
        last: the last one, which may be pooled; None without any.
        logits: ``[B, C]``.
    """

    maps: list[Tensor]
    last: Tensor | None
    logits: Tensor


class Layout(NamedTuple):
    """What `forward_stages` shows.

    Attributes:
        stages: name of each stage, and its place among the maps of a trace.
        head: whether the mean over the last map is what the classifier takes.
        pooled: whether a linear classifier takes vectors.
    """

    stages: dict[str, int]
    head: bool
    pooled: bool


class ExternalNetwork(Network):
    """A network of another library: pixels in [0, 1] in, logits and named features out.

    It resizes the images (see `FitPixels`) and normalises them as its weights want. Its weights
    keep the names of their library under ``model.``, and files without that prefix load, too.

    Args:
        model: normalised images to logits ``[B, C]``.
        num_classes: ``C``.
        pixels: what it was made for.
        classes: names of its classes where its source knows them, in the order of the logits; a
            name may be synonyms with commas between.
        top1: its accuracy on ImageNet in percent, where its source tells it of its weights.

    Attributes:
        classes: as given.
        top1: as given.

    Example:
        >>> from classroomkd.models import build_model
        >>> network = build_model("torchvision/resnet18", num_classes=10)
        >>> features = network.forward_stages(torch.rand(2, 3, 128, 128))
        >>> {name: tuple(feature.shape[1:]) for name, feature in features.items()}
        {'stem': (64, 64, 64), 'stage1': (64, 32, 32), 'stage2': (128, 16, 16),
         'stage3': (256, 8, 8), 'stage4': (512, 4, 4), 'head': (512, 4, 4), 'pooled': (512,),
         'logits': (10,)}
    """

    normalize: FitPixels

    def __init__(
        self,
        model: nn.Module,
        num_classes: int,
        pixels: Pixels,
        classes: tuple[str, ...] | None = None,
        top1: float | None = None,
    ) -> None:
        super().__init__(num_classes)
        self.normalize = FitPixels(pixels)
        self.model = model
        self.classes = classes
        self.top1 = top1

    @property
    def classifier(self) -> nn.Linear | None:  # type: ignore[override]
        """The linear layer that gives the logits; None in networks that end otherwise."""
        if self._last_layer is None:
            return None
        layer = self.model.get_submodule(self._last_layer)
        return layer if isinstance(layer, nn.Linear) else None

    @cached_property
    def _last_layer(self) -> str | None:
        """The classifier's name; a distilled ViT, which has two and gives their mean, has none."""
        name = find_classifier(self.model, self.num_classes)
        if name is None:
            return None
        given: list[Tensor] = []
        with (
            at_rest(self),
            watch({name: self.model.get_submodule(name)}, lambda *what: given.append(what[2])),
        ):
            logits = self.logits(self._example())
        return name if len(given) == 1 and _equal(given[0], logits) else None

    @property
    def stage_names(self) -> tuple[str, ...]:
        """Names of the features in order; ``head`` and ``pooled`` where there are such."""
        stages, head, pooled = self._layout
        return (*stages, *(["head"] if head else []), *(["pooled"] if pooled else []))

    def stem(self, x: Tensor) -> Tensor:
        """Raise a ClassroomError: it is not known how to run a part of such a network."""
        raise self._whole()

    def stages(self) -> tuple[nn.Module, ...]:
        """Raise a ClassroomError, as `stem` does."""
        raise self._whole()

    def _whole(self) -> ClassroomError:
        return ClassroomError(
            f"{self.name} cannot be cut into stages: take one of `classroomkd list models`"
        )

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits ``[B, C]`` of ``images [B, 3, H, W]`` in [0, 1]."""
        return self.logits(self.normalize(images))

    def forward_stages(self, images: Tensor, **options: bool) -> dict[str, Tensor]:
        """Compute the features on the way to the logits.

        Args:
            images: ``[B, 3, H, W]`` in [0, 1].
            **options: ``preactivations`` is not to be had.

        Returns:
            The maps ``stem`` and ``stage1``, ... (see `choose_stages`), ``head`` if the mean over
            that map is what the classifier takes, ``pooled`` ``[B, D]``, the classifier's input,
            and ``logits`` ``[B, C]``; what a network does not have is left out.

        Raises:
            ValueError: for ``preactivations``.
        """
        return self.features(self.normalize(images), **options)

    def features(self, x: Tensor, **options: bool) -> dict[str, Tensor]:
        """As `forward_stages`, from normalised images of its size."""
        if options.pop("preactivations", False):
            raise ValueError(
                f"{self.name} does not show its features before their last ReLU, which methods such"
                " as ab, ofd and reviewkd read: take a model of the zoo (`classroomkd list models`)"
                " or another method"
            )
        if options:
            raise TypeError(f"unknown options: {', '.join(options)}")
        found: dict[str, Tensor] = self._features(x)  # type: ignore
        return found

    def without_classifier(self) -> Self:
        """The same network and the same layers, with nothing where the classifier was.

        It shows the same stages and the same ``head``, but no ``pooled``.
        """
        layout, last = self._layout, self._last_layer  # found now, while the classifier is there
        assert layout is not None
        return self if last is None else _with(self, f"model.{last}", nn.Identity())

    def logits(self, x: Tensor) -> Tensor:
        """The logits of normalised images of its size."""
        return self.model(x)

    def trace(self, x: Tensor) -> Trace:
        """Run the model on normalised images of its size, and tell of its maps."""
        modules = {name: self.model.get_submodule(name) for name in self._taps}
        outputs: dict[str, Tensor] = {}
        with watch(modules, lambda name, _, output: outputs.update({name: output})):
            logits = self.logits(x)
        maps = [self._taps[name](outputs[name]) for name in self._taps]
        return Trace(maps, maps[-1] if maps else None, logits)

    @torch.compiler.disable  # hooks come and go
    def _features(self, x: Tensor) -> dict[str, Tensor]:
        layout = self._layout
        trace, pooled = self._watched(x)
        features = {name: trace.maps[place] for name, place in layout.stages.items()}
        if layout.head and trace.last is not None:
            features["head"] = trace.last
        if layout.pooled and pooled is not None:
            features["pooled"] = pooled
        return {**features, "logits": trace.logits}

    def _watched(self, x: Tensor) -> tuple[Trace, Tensor | None]:
        """A trace, and the vectors that the classifier was given."""
        taken: dict[str, Tensor] = {}
        layer = self.classifier
        modules: dict[str, nn.Module] = {} if layer is None else {"classifier": layer}
        with watch(modules, lambda name, inputs, _: taken.update({name: inputs[0]})):
            trace = self.trace(x)
        pooled = taken.get("classifier")
        return trace, pooled if pooled is not None and pooled.ndim == 2 else None

    @cached_property
    def _layout(self) -> Layout:
        with at_rest(self):
            x = self._example()
            trace, pooled = self._watched(x)
        if trace.last is None:
            return Layout({}, head=False, pooled=pooled is not None)
        stages = choose_stages([found.shape[2] for found in trace.maps], x.shape[2])
        head = pooled is not None and _equal(trace.last.mean((2, 3)), pooled)
        return Layout(stages, head, pooled is not None)

    @cached_property
    def _taps(self) -> dict[str, ToMap]:
        """The modules whose outputs are the maps, each with how to make it one."""
        with at_rest(self):
            return find_taps(self.model, self._example())

    def _example(self) -> Tensor:
        """Two images of noise, in the size that the network was made for."""
        height, width = self.normalize.size or (64, 64)
        noise = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))
        return self.normalize(noise.to(self.normalize.mean.device))


def _with(module: _M, name: str, part: nn.Module) -> _M:
    """A module with another part under a name; all else is shared with the one given."""
    first, _, rest = name.partition(".")
    changed = copy(module)
    inner = module._modules[first]
    assert inner is not None
    changed._modules = {**module._modules, first: _with(inner, rest, part) if rest else part}
    return changed


def _equal(one: Tensor, other: Tensor) -> bool:
    """Whether they are the same but for rounding, in half precision, too."""
    if one.shape != other.shape:
        return False
    difference = (one.float() - other.float()).abs().max()
    return bool(difference <= 1e-2 * other.float().abs().max())


@contextmanager
def at_rest(network: nn.Module) -> Iterator[None]:
    """Eval mode without gradients for a while; afterwards every layer is in the mode it was in."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
