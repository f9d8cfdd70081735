"""The part of a recipe that says how the student is optimised."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from classroomkd.config.fields import Count, Positive, Section


class SGD(Section):
    """Stochastic gradient descent."""

    name: Literal["sgd"] = "sgd"
    lr: Positive = 0.05
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: float = Field(default=5e-4, ge=0)

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> Self:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0")
        return self


class AdamW(Section):
    """Adam with decoupled weight decay."""

    name: Literal["adamw"]
    lr: Positive = 1e-3
    weight_decay: float = Field(default=0.05, ge=0)


class Step(Section):
    """Divide the learning rate at milestones (epochs)."""

    name: Literal["step"]
    milestones: tuple[Positive, ...] = (150, 180, 210)
    gamma: Positive = 0.1
    warmup_epochs: float = Field(default=0, ge=0)


class Cosine(Section):
    """Half a cosine from the learning rate to 0."""

    name: Literal["cosine"]
    warmup_epochs: float = Field(default=0, ge=0)


class OneCycle(Section):
    """Rise to the learning rate, then fall to nearly 0; both along a cosine."""

    name: Literal["onecycle"] = "onecycle"
    rise: float = Field(default=0.3, gt=0, lt=1, description="share of the steps in which it rises")


class Skip(Section):
    """Ask mentors that hardly teach only now and then (not in the paper)."""

    below: float = Field(default=0.05, gt=0, le=1, description="share of samples that they teach")
    every: int = Field(default=16, ge=2, description="steps from one probe step to the next")


def _epochs_or_count(raw: Any) -> Any:
    """A count of 1 or more, or a list of epochs that go up."""
    if raw is None:
        return None
    numbers = raw if isinstance(raw, list | tuple) else [raw]
    whole = all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in numbers)
    if not (whole and numbers and list(numbers) == sorted(set(numbers))):
        raise ValueError(
            "must be epochs that go up, such as [2, 4, 8], or a count of equally spaced ones, got"
            f" {raw!r}"
        )
    return raw


class Train(Section):
    """Optimisation."""

    epochs: int = Field(default=12, gt=0)
    batch_size: int = Field(default=128, gt=0)
    optimizer: Annotated[SGD | AdamW, Field(discriminator="name")] = SGD()
    schedule: Annotated[Step | Cosine | OneCycle, Field(discriminator="name")] = OneCycle()
    precision: Literal["fp32", "bf16"] = "bf16"
    channels_last: bool = True
    snapshots: Annotated[tuple[int, ...] | int | None, BeforeValidator(_epochs_or_count)] = Field(
        default=None,
        description="epochs at whose end the student is kept, from 1, or how many equally spaced"
        " ones up to the last; to be mentors: {run: ..., epoch: 2}",
    )
    ema: float | None = Field(
        default=None, gt=0, lt=1, description="decay of averaged weights, per step"
    )
    clip: Positive | None = Field(default=None, description="largest norm of the gradient")
    tune: bool = Field(
        default=True,
        description="fold and compile frozen mentors where the run is long enough",
    )
    skip: Skip | None = Field(default=None, description="mentors that hardly teach; {} for usual")
    test: bool = Field(
        default=True,
        description="judge on the test set, once, at the end; a search of options leaves it alone",
    )
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:1")
    devices: Count = Field(
        default=1,
        description="processes, with a device and an equal part of each batch to each of them",
    )
    sync_batchnorm: bool = Field(
        default=True, description="batch statistics of the whole batch, not of a device's part"
    )
    student_placement: Literal["replicate", "shard"] = Field(
        default="replicate",
        description="the student on each device, or its weights, gradients and optimizer state"
        " divided over them (FSDP), for one too large for a device",
    )
    mentor_placement: Literal["replicate", "shard", "offload"] = Field(
        default="replicate",
        description="frozen mentors on each device, each on one of them, or in the host's memory"
        " but for their turn",
    )

    @property
    def snapshot_epochs(self) -> tuple[int, ...]:
        """The epochs at whose end the student is kept, from 1.

        >>> Train(epochs=8, snapshots=3).snapshot_epochs
        (3, 5, 8)
        """
        kept = self.snapshots
        if isinstance(kept, int):
            return tuple(round(self.epochs * place / kept) for place in range(1, kept + 1))
        return kept or ()

    @field_validator("optimizer", "schedule", mode="before")
    @classmethod
    def _usual(cls, raw: Any, info: ValidationInfo) -> Any:
        """Options without a name are those of the usual optimizer or schedule."""
        usual = cls.model_fields[str(info.field_name)].default
        return {"name": usual.name, **raw} if isinstance(raw, dict) else raw

    @field_validator("device")
    @classmethod
    def _device(cls, device: str) -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?", device):
            raise ValueError(f"unknown device '{device}' (known: auto, cpu, cuda, cuda:N)")
        return device

    @model_validator(mode="after")
    def _snapshots_of_epochs(self) -> Self:
        kept = self.snapshots
        if kept and (kept if isinstance(kept, int) else kept[-1]) > self.epochs:
            raise ValueError(f"snapshots {kept} is more than there are epochs: {self.epochs}")
        return self

    @model_validator(mode="after")
    def _equal_parts(self) -> Self:
        if self.batch_size % self.devices:
            share = max(self.batch_size // self.devices, 1)
            raise ValueError(
                f"batch_size {self.batch_size} is the whole batch, of which {self.devices} devices"
                f" take equal parts: make it {share * self.devices}"
            )
        if self.student_placement == "shard" and self.ema is not None:
            raise ValueError(
                "student_placement: shard leaves no process with all weights to average: leave out"
                " ema, or student_placement"
            )
        if self.devices > 1 and ":" in self.device:
            raise ValueError(
                f"device {self.device} is one, devices are {self.devices}: leave the"
                " number out, as in device: cuda"
            )
        return self
