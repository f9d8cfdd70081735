"""A mentor: a network that teaches and is never trained by accident.

Shapes: ``B`` samples, ``C`` classes of the data.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import torch
from torch import Tensor, nn

from classroomkd.errors import ClassroomError
from classroomkd.mentors.compiled import Compiled
from classroomkd.mentors.fold import fold_batch_norm
from classroomkd.methods import Outputs
from classroomkd.methods.base import shown_stages


class Adapter(Protocol):
    """From what a mentor's network gives to the student's output space."""

    @property
    def mask(self) -> Tensor | None:
        """``[U]`` bool, the units that the mentor speaks about; None for all."""
        ...

    def __call__(self, given: Any) -> Outputs:
        """What is said about a batch, of what the network gave."""
        ...

    def to(self, device: torch.device | str) -> None:
        """Move what it works with."""

    def key(self) -> Mapping[str, str]:
        """What a bank is to know it by, beside the network."""
        ...


class ClassOrder:
    """The adapter of classification: logits in the data's class order.

    Args:
        class_map: ``[C]`` int64, as in `Mentor`.
    """

    mask = None

    def __init__(self, class_map: Tensor | None) -> None:
        self.class_map = class_map

    def __call__(self, given: Tensor) -> Outputs:
        """Logits ``[B, C]`` of the network's."""
        return Outputs(given if self.class_map is None else given.index_select(-1, self.class_map))

    def to(self, device: torch.device | str) -> None:
        """Move the map."""
        if self.class_map is not None:
            self.class_map = self.class_map.to(device)

    def key(self) -> Mapping[str, str]:
        """The order, if it is not the network's own."""
        if self.class_map is None:
            return {"classes": "as the data"}
        return {"classes": fingerprint({"class_map": self.class_map})}


class Mentor:
    """A frozen network with its name, its role, and its answers in the student's output space.

    It is no `nn.Module`, so that neither the student's module tree, nor an optimizer, nor a
    checkpoint can come to contain it. The network is in eval mode and without gradients for good.

    Args:
        network: images ``[B, 3, H, W]`` in [0, 1] to logits; its normalisation is its own.
        name: in reports.
        role: ``"teacher"`` or ``"peer"``.
        class_map: ``[C]`` int64: for each class of the data, its place among the network's logits.
            None if the orders are the same.
        adapter: for what is not a matter of class order; then ``class_map`` is left out.

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
        adapter: Adapter | None = None,
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        self.name = name
        self.role = role
        self.adapter: Adapter = adapter or ClassOrder(class_map)
        self._fast: nn.Module | None = None
        self._visits: torch.device | None = None

    @property
    def class_map(self) -> Tensor | None:
        """For each class of the data, its place among the network's logits; None if the same."""
        return getattr(self.adapter, "class_map", None)

    @property
    def offloaded(self) -> bool:
        """Whether its network is in the host's memory, and on the device for its turn only."""
        return self._visits is not None

    def speed_up(self, example: Tensor, *, compiled: bool = False) -> None:
        """Run a copy with its batch normalisation folded from now on, with the same results.

        Args:
            example: images as it will see them.
            compiled: whether by `torch.compile`, too, from its next call on.
        """
        folded = fold_batch_norm(self.network, example)
        self._fast = Compiled(folded) if compiled else folded

    def to(self, device: torch.device | str, memory_format: torch.memory_format) -> Self:
        """Move the network, which then runs as it is; returns itself."""
        self._fast = self._visits = None
        self.network.to(device=device, memory_format=memory_format)  # type: ignore[call-overload]
        self.adapter.to(device)
        return self

    def offload(self, device: torch.device, memory_format: torch.memory_format) -> Self:
        """Keep the network in the host's memory, but for each of its turns; returns itself.

        It takes no memory of the device between turns, and each turn takes the time of a copy.
        """
        self.to("cpu", memory_format)
        self.adapter.to(device)
        for tensor in _tensors(self.network) if device.type == "cuda" else ():
            tensor.data = tensor.data.pin_memory()  # so that copies need not wait
        self._visits = device
        return self

    def outputs(
        self, inputs: Any, *, features: bool = False, preactivations: bool = False
    ) -> Outputs:
        """What it says about a batch, in the student's output space; without gradient.

        Args:
            inputs: of the batch; images are ``[B, 3, H, W]`` in [0, 1].
            features: whether to tell its stage features, and its classifier.
            preactivations: whether to tell features before their last ReLU, too.
        """
        with torch.no_grad(), self._at_work() as network:
            return self._read(network, inputs, features, preactivations)

    def __call__(self, inputs: Any) -> Tensor:
        """Logits ``[B, C]`` in the data's class order."""
        return self.outputs(inputs).logits

    def forward_stages(self, inputs: Any, **options: bool) -> Mapping[str, Tensor]:
        """Stage features by name, and ``logits`` in the data's class order.

        Options are those of the network's ``forward_stages``.
        """
        said = self.outputs(inputs, features=True, **options)
        return {**said.features, "logits": said.logits}

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
        if self._fast is not None:
            return self._fast
        if self.network.training:  # somebody called train() on it
            self.network.eval()
        return self.network

    def _read(
        self, network: nn.Module, inputs: Any, features: bool, preactivations: bool
    ) -> Outputs:
        if not features:
            return replace(self.adapter(network(inputs)), mask=self.adapter.mask)
        stages = shown_stages(network, inputs, preactivations)
        said = self.adapter(stages.pop("logits"))
        return replace(said, features=stages, classifier=self.classifier, mask=self.adapter.mask)


class AwayMentor(Mentor):
    """A mentor whose network is in another process, which asks it for all.

    Args:
        name: in reports.
        role: ``"teacher"`` or ``"peer"``.
        adapter: where others must know of what it speaks; its answers come adapted.
    """

    here = False

    def __init__(
        self, name: str, role: Literal["teacher", "peer"], adapter: Adapter | None = None
    ) -> None:
        super().__init__(nn.Identity(), name, role, adapter=adapter)

    def outputs(
        self, inputs: Any, *, features: bool = False, preactivations: bool = False
    ) -> Outputs:
        """Raise a RuntimeError: whoever asks must share the answers of all processes."""
        raise RuntimeError(f"{self.name} is in another process: ask through MentorOutputs")


class StoredMentor(Mentor):
    """A mentor that cannot run here: a bank has its outputs, and nobody its network.

    Args:
        name: in reports.
        role: ``"teacher"`` or ``"peer"``.
        store: its folder in the bank.
        adapter: where others must know of what it speaks.
    """

    here = False

    def __init__(
        self,
        name: str,
        role: Literal["teacher", "peer"],
        store: Path,
        adapter: Adapter | None = None,
    ) -> None:
        super().__init__(nn.Identity(), name, role, adapter=adapter)
        self.store = store

    def check_that_it_can_run(self, view: int) -> None:
        """Raise a ClassroomError: it cannot."""
        raise ClassroomError(
            f"{self.name} cannot run here, and {self.store} has not all of its outputs for view"
            f" {view}: build them with `classroomkd bank build` where its network is, or train for"
            " fewer epochs (train.epochs, or data.repeat for views that come again)"
        )

    def outputs(
        self, inputs: Any, *, features: bool = False, preactivations: bool = False
    ) -> Outputs:
        """Raise a ClassroomError: it cannot run."""
        raise ClassroomError(
            f"{self.name} cannot run here: its outputs alone are in {self.store}. Methods that read"
            " features need its network"
        )


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
        adapter: Adapter | None = None,
    ) -> None:
        super().__init__(network, name, role, class_map, adapter)
        network.train().requires_grad_(True)

    def outputs(
        self, inputs: Any, *, features: bool = False, preactivations: bool = False
    ) -> Outputs:
        """What it says about a batch, with gradient; see `Mentor.outputs`."""
        return self._read(self.network, inputs, features, preactivations)


def _tensors(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]


def fingerprint(tensors: Mapping[str, Any]) -> str:
    """SHA-256 of names, types, shapes and contents; what is no tensor is left out."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        if isinstance(tensor, Tensor):
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
            plain = tensor.detach().cpu().contiguous().flatten()
            digest.update(plain.view(torch.uint8).numpy().data)
    return digest.hexdigest()
