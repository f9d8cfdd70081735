"""A student that ends in another network's classifier, as SimKD leaves it."""

from collections.abc import Mapping
from copy import copy
from typing import Any

from torch import Tensor, nn

from classroomkd.methods import Method
from classroomkd.methods.heads import Projector
from classroomkd.models.external import ExternalNetwork
from classroomkd.models.network import Network


class ReusedClassifier(Network):
    """A backbone, a projector of the map that it pools, and a frozen classifier of that.

    It shares its layers with what it is made of. The backbone's own classifier is left out.

    Args:
        backbone: the student; its name and normalisation are kept.
        projector: from its channels to those that the classifier takes.
        classifier: of another network.

    Example:
        >>> import torch
        >>> from classroomkd.models import build_model
        >>> backbone, projector = build_model("resnet8", 10), Projector(64, 128, bottleneck=32)
        >>> network = ReusedClassifier(backbone, projector, torch.nn.Linear(128, 10))
        >>> network.forward_stages(torch.rand(2, 3, 32, 32))["pooled"].shape
        torch.Size([2, 128])
    """

    def __init__(self, backbone: Network, projector: Projector, classifier: nn.Linear) -> None:
        super().__init__(classifier.out_features)
        self.name = backbone.name
        self.normalize = backbone.normalize
        self.backbone = _without_ends(backbone)
        self.projector = projector
        self.classifier = classifier.requires_grad_(False)
        self.training = backbone.training  # a flag that evaluation brings back for every layer

    def stem(self, x: Tensor) -> Tensor:
        """The backbone's."""
        return self.backbone.stem(x)

    def stages(self) -> tuple[nn.Module, ...]:
        """The backbone's."""
        return self.backbone.stages()

    def preactivation(self, number: int, stage: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        """The backbone's."""
        return self.backbone.preactivation(number, stage, x)

    def head(self, x: Tensor) -> Tensor:
        """The projection of the map that the backbone would pool."""
        return self.projector(self.backbone.head(x))


class ReusedExternal(ReusedClassifier):
    """The same on a backbone of another library, which runs as a whole.

    Example:
        >>> import torch
        >>> from classroomkd.models import build_model
        >>> backbone = build_model("torchvision/resnet18", 10)
        >>> projector = Projector(512, 128, bottleneck=32)
        >>> network = ReusedExternal(backbone, projector, torch.nn.Linear(128, 10))
        >>> features = network.forward_stages(torch.rand(2, 3, 128, 128))
        >>> features["stage4"].shape[1], features["head"].shape[1]
        (512, 128)
    """

    backbone: ExternalNetwork

    @property
    def stage_names(self) -> tuple[str, ...]:
        """Names of the features in order."""
        return self.backbone.stage_names

    def forward_stages(self, images: Tensor, **options: bool) -> dict[str, Tensor]:
        """The backbone's stages, then ``head``, ``pooled`` and ``logits`` as they are here."""
        features = self.backbone.features(self.normalize(images), **options)
        head = self.projector(features.pop("head"))
        del features["logits"]
        pooled = head.mean((2, 3))
        return {**features, "head": head, "pooled": pooled, "logits": self.classifier(pooled)}


def reuse(backbone: Network, projector: Projector, classifier: nn.Linear) -> ReusedClassifier:
    """A backbone with another network's classifier; see `ReusedClassifier` for the arguments."""
    kind = ReusedExternal if isinstance(backbone, ExternalNetwork) else ReusedClassifier
    return kind(backbone, projector, classifier)


def _without_ends(network: Network) -> Network:
    """The same network and the same layers, less its normalisation and its classifier."""
    if isinstance(network, ExternalNetwork):
        network = network.without_classifier()
    bare = copy(network)
    left = network._modules.items()
    bare._modules = {n: child for n, child in left if n not in ("normalize", "classifier")}
    return bare


def deployable(student: Network, method: Method) -> Network:
    """The network to judge and to deploy: the student itself, but for methods with a `head`."""
    head = method.head()
    return student if head is None else reuse(student, *head)


def describe_head(network: Network) -> dict[str, Any] | None:
    """What `attach_head` needs to build a network's head again; None for a head of its own."""
    if not isinstance(network, ReusedClassifier):
        return None
    projector, classifier = network.projector, network.classifier
    return {
        "kind": "reused",
        "width": projector.width,
        "bottleneck": projector.bottleneck,
        "bias": classifier.bias is not None,
    }


def attach_head(backbone: Network, head: Mapping[str, Any]) -> ReusedClassifier:
    """Put a head, as `describe_head` tells of it, on a fresh backbone; its weights are fresh, too.

    Raises:
        ValueError: for a kind that is not known.
    """
    if head["kind"] != "reused":
        raise ValueError(f"unknown kind of head '{head['kind']}' (known: reused)")
    width = head["width"]
    projector = Projector(backbone.classifier.in_features, width, head["bottleneck"])
    classifier = nn.Linear(width, backbone.num_classes, bias=head["bias"])
    return reuse(backbone, projector, classifier)
