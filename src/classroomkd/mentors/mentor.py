"""A mentor: a network that teaches and is never trained by accident.

Shapes: ``B`` samples, ``C`` classes of the data.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Literal, Self

import torch
from torch import Tensor, nn

from classroomkd.errors import ClassroomError
from classroomkd.mentors.tuning import Tuned, Variant, tuned


class Mentor:
    """A frozen network with its name, its role, and its classes in the data's order.

    It is no `nn.Module`, so that neither the student's module tree, nor an optimizer, nor a
    checkpoint can come to contain it. The network is in eval mode and without gradients for good.

    Args:
        network: images ``[B, 3, H, W]`` in [0, 1] to logits; its normalisation is its own.
        name: in reports.
        role: ``"teacher"`` or ``"peer"``.
        class_map: ``[C]`` int64: for each class of the data, its place among the network's logits.
            None if the orders are the same.

    Attributes:
        learns: whether it trains along, as a `LearningMentor` does.
        here: whether its network is in this process.
    """

    learns = False
    here = True

    def __init__(
        self,
        network: nn.Module,
        name: str,
        role: Literal["teacher", "peer"] = "peer",
        class_map: Tensor | None = None,
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        self.name = name
        self.role = role
        self.class_map = class_map
        self._tuned: Tuned | None = None
        self._visits: torch.device | None = None

    @property
    def offloaded(self) -> bool:
        """Whether its network is in the host's memory, and on the device for its turn only."""
        return self._visits is not None

    @property
    def variant(self) -> Variant | None:
        """The way in which it runs, if it was told one."""
        return self._tuned and self._tuned.variant

    def run_as(self, variant: Variant, example: Tensor) -> None:
        """Run the network in another way from now on, with the same results; see `tuning`.

        Args:
            variant: the way.
            example: images as it will see them, on its device.
        """
        self._tuned = tuned(self.network, variant, example)

    def to(self, device: torch.device | str, memory_format: torch.memory_format) -> Self:
        """Move the network, which then runs as it is; returns itself."""
        self._tuned = self._visits = None
        self.network.to(device=device, memory_format=memory_format)  # type: ignore[call-overload]
        if self.class_map is not None:
            self.class_map = self.class_map.to(device)
        return self

    def offload(self, device: torch.device, memory_format: torch.memory_format) -> Self:
        """Keep the network in the host's memory, but for each of its turns; returns itself.

        It takes no memory of the device between turns, and each turn takes the time of a copy.
        """
        self.to("cpu", memory_format)
        if self.class_map is not None:
            self.class_map = self.class_map.to(device)
        for tensor in _tensors(self.network) if device.type == "cuda" else ():
            tensor.data = tensor.data.pin_memory()  # so that copies need not wait
        self._visits = device
        return self

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Logits ``[B, C]`` in the data's class order."""
        with self._at_work() as network:
            return self._ordered(network(images))

    @torch.no_grad()
    def forward_stages(self, images: Tensor, **options: bool) -> Mapping[str, Tensor]:
        """Stage features by name, and ``logits`` in the data's class order.

        Options are those of the network's ``forward_stages``.
        """
        with self._at_work() as network:
            features = dict(network.forward_stages(images, **options))  # type: ignore[operator]
        features["logits"] = self._ordered(features["logits"])
        return features

    @cached_property
    def classifier(self) -> nn.Linear | None:
        """A frozen copy of the network's last layer, in the data's class order, if it has one."""
        last = getattr(self.network, "classifier", None)
        if self.learns or not isinstance(last, nn.Linear):
            return None  # of one that learns, a copy would soon be out of date
        rows = torch.arange(last.out_features) if self.class_map is None else self.class_map.cpu()
        copy = nn.Linear(last.in_features, len(rows), bias=last.bias is not None)
        kept = {name: value[rows.to(value.device)] for name, value in last.state_dict().items()}
        copy.load_state_dict(kept)
        return copy.to(self._visits or last.weight.device).requires_grad_(False)

    def check_that_it_can_run(self, view: int) -> None:
        """Raise a ClassroomError for a mentor whose outputs alone are here."""

    @contextmanager
    def _at_work(self) -> Iterator[nn.Module]:
        """The network, on the device where it is asked."""
        network = self._frozen()
        at_home = [(tensor, tensor.data) for tensor in _tensors(network)] if self._visits else []
        try:
            for tensor, data in at_home:
                tensor.data = data.to(self._visits, non_blocking=True)
            yield network
        finally:
            for tensor, data in at_home:  # nothing is copied back: it is frozen
                tensor.data = data

    def _frozen(self) -> nn.Module:
        if self._tuned is not None:
            return self._tuned
        if self.network.training:  # somebody called train() on it
            self.network.eval()
        return self.network

    def _ordered(self, logits: Tensor) -> Tensor:
        return logits if self.class_map is None else logits.index_select(-1, self.class_map)


class AwayMentor(Mentor):
    """A mentor whose network is in another process, which asks it for all.

    Args:
        name: in reports.
        role: ``"teacher"`` or ``"peer"``.
    """

    here = False

    def __init__(self, name: str, role: Literal["teacher", "peer"]) -> None:
        super().__init__(nn.Identity(), name, role)

    def __call__(self, images: Tensor) -> Tensor:
        """Raise a RuntimeError: whoever asks must share the answers of all processes."""
        raise RuntimeError(f"{self.name} is in another process: ask through MentorOutputs")


class StoredMentor(Mentor):
    """A mentor that cannot run here: a bank has its outputs, and nobody its network.

    Args:
        name: in reports.
        role: ``"teacher"`` or ``"peer"``.
        store: its folder in the bank.
    """

    here = False

    def __init__(self, name: str, role: Literal["teacher", "peer"], store: Path) -> None:
        super().__init__(nn.Identity(), name, role)
        self.store = store

    def check_that_it_can_run(self, view: int) -> None:
        """Raise a ClassroomError: it cannot."""
        raise ClassroomError(
            f"{self.name} cannot run here, and {self.store} has not all of its outputs for view"
            f" {view}: build them with `classroomkd bank build` where its network is, or train for"
            " fewer epochs (train.epochs, or data.repeat for views that come again)"
        )

    def __call__(self, images: Tensor) -> Tensor:
        """Raise a ClassroomError: it cannot run."""
        raise ClassroomError(
            f"{self.name} cannot run here: its outputs alone are in {self.store}. Methods that read"
            " features need its network"
        )

    def forward_stages(self, images: Tensor, **options: bool) -> Mapping[str, Tensor]:
        """Raise a ClassroomError: it cannot run."""
        return {"logits": self(images)}


class LearningMentor(Mentor):
    """A mentor that trains along with the student: in training mode, with gradients.

    Its network is trained by the method's `peer_loss`, is part of checkpoints, and is not exported.
    """

    learns = True

    def __init__(
        self,
        network: nn.Module,
        name: str,
        role: Literal["teacher", "peer"] = "peer",
        class_map: Tensor | None = None,
    ) -> None:
        super().__init__(network, name, role, class_map)
        network.train().requires_grad_(True)

    def __call__(self, images: Tensor) -> Tensor:
        """Logits ``[B, C]`` in the data's class order, with gradient."""
        return self._ordered(self.network(images))

    def forward_stages(self, images: Tensor, **options: bool) -> Mapping[str, Tensor]:
        """Stage features by name, with gradient; see `Mentor.forward_stages`."""
        features = dict(self.network.forward_stages(images, **options))  # type: ignore[operator]
        features["logits"] = self._ordered(features["logits"])
        return features


def _tensors(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]
