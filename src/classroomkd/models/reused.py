"""A student that ends in another network's classifier, as SimKD leaves it."""

from collections.abc import Mapping
from copy import copy
from typing import Any

from torch import Tensor, nn

from classroomkd.methods import Method
from classroomkd.methods.heads import Projector
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
        self.backbone = _without(backbone, "normalize", "classifier")
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


def _without(network: Network, *names: str) -> Network:
    """The same network and the same layers, less some of its children."""
    bare = copy(network)
    bare._modules = {n: child for n, child in network._modules.items() if n not in names}
    return bare


def graduate(student: Network, method: Method) -> Network:
    """The network to judge and to deploy: the student itself, but for methods with a `head`."""
    head = method.head()
    return student if head is None else ReusedClassifier(student, *head)


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
    return ReusedClassifier(backbone, projector, classifier)
