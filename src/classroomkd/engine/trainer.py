"""Training a student with Lightning's Trainer; the only file that imports Lightning."""

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, TQDMProgressBar
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn

from classroomkd.core import Lesson
from classroomkd.data import Batch
from classroomkd.engine.devices import ALONE, Team
from classroomkd.engine.optim import build_optimizer, build_schedule
from classroomkd.engine.protocol import AnyClassroom
from classroomkd.errors import ClassroomError
from classroomkd.models import Network, graduate

EpochEnd = Callable[[int, Network, float], None]


class LessonModule(L.LightningModule):
    """The student and the method as Lightning sees them, and mentors that train along.

    Frozen mentors stay outside its module tree.
    """

    def __init__(self, classroom: AnyClassroom, on_lesson: Callable[[Lesson], None]) -> None:
        super().__init__()
        self.student = classroom.student
        self.method = classroom.method
        self.peers = nn.ModuleList(m.network for m in classroom.mentors if m.learns)
        self.latest: Tensor | None = None
        # Closures: a copy of this module, such as a running average of it, shares what they hold.
        self._on_lesson, self._classroom = on_lesson, lambda: classroom

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One lesson."""
        lesson = self._classroom().hold(batch)
        self._on_lesson(lesson)
        self.latest = lesson.loss.detach()
        return lesson.loss

    def on_train_epoch_start(self) -> None:
        """Begin the epoch as any other loop would, so that resuming is exact."""
        self._classroom().begin_epoch(self.current_epoch)

    def on_train_epoch_end(self) -> None:
        """Let the bank keep what mentors have said."""
        self._classroom().end_epoch()

    def configure_optimizers(self) -> Any:
        """The recipe's optimizer over student and method, its schedule stepped after each batch."""
        classroom = self._classroom()
        optimizer = build_optimizer(self.parameters(), classroom.recipe.train)
        schedule = build_schedule(optimizer, classroom.recipe.train, len(classroom.train))
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class _Bar(TQDMProgressBar):
    """A bar with the loss, read from the device only when the bar is drawn."""

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        latest = getattr(pl_module, "latest", None)
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        return {} if latest is None else {"loss": f"{latest.item():.3f}", "lr": f"{rate:.2g}"}


class _EpochEnd(Callback):
    """Shows the student to judge (the average, if there is one), then saves all atomically."""

    def __init__(
        self, on_epoch: EpochEnd, checkpoint: Path | None, average: EMAWeightAveraging | None
    ) -> None:
        self.on_epoch = on_epoch
        self.checkpoint = checkpoint
        self.average = average

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        averaged = self.average and self.average._average_model
        module = cast(LessonModule, averaged.module if averaged else pl_module)
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        self.on_epoch(trainer.current_epoch, graduate(module.student, module.method), rate)
        if self.checkpoint is not None:
            part = self.checkpoint.with_suffix(".part")
            trainer.save_checkpoint(part)  # the first process writes, the others wait for it
            if trainer.is_global_zero:
                part.replace(self.checkpoint)


def fit(
    classroom: AnyClassroom,
    *,
    on_lesson: Callable[[Lesson], None],
    on_epoch: EpochEnd,
    checkpoint: Path | None = None,
    resume: bool = False,
    progress: bool = True,
    team: Team = ALONE,
) -> None:
    """Train the classroom's student for the epochs of its recipe.

    Args:
        classroom: whose student is trained in place.
        on_lesson: called with each lesson.
        on_epoch: called after each epoch: its number, the student to judge, the learning rate.
        checkpoint: file for the state after each epoch, or None to keep none.
        resume: continue from ``checkpoint``.
        progress: whether to show a bar.
        team: the processes that train the student together, each of which calls this.
    """
    train = classroom.recipe.train
    module = LessonModule(classroom, on_lesson)
    average = EMAWeightAveraging(decay=train.ema) if train.ema is not None else None
    callbacks: list[Callback] = [_Bar(refresh_rate=10, leave=False)] if progress else []
    callbacks += [average] if average else []
    callbacks.append(_EpochEnd(on_epoch, checkpoint, average))
    trainer = _quiet_trainer(
        **_places(classroom.device, team),
        max_epochs=train.epochs,
        gradient_clip_val=train.clip,
        callbacks=callbacks,
        enable_progress_bar=progress,
    )
    classroom.student.train()
    start = _readable(checkpoint) if resume and checkpoint is not None else None
    with warnings.catch_warnings():
        # Lightning 2.6 uses a class that torch 2.15 deprecates.
        warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
        # What torch 2.15 has instead of it, earlier versions have not.
        warnings.filterwarnings("ignore", message=".*broadcast_buffers", category=FutureWarning)
        try:
            trainer.fit(module, classroom.train, ckpt_path=start, weights_only=True)
        except SystemExit:
            if trainer.interrupted:  # Lightning ends the process; who called us may not want to
                raise KeyboardInterrupt from None
            raise


def _places(device: torch.device, team: Team) -> dict[str, Any]:
    """Where the Trainer runs: in this process alone, or in those that are there already."""
    cuda = device.type == "cuda"
    accelerator = "gpu" if cuda else "cpu"
    if team.size == 1:
        return {"accelerator": accelerator, "devices": [device.index or 0] if cuda else 1}
    return {
        "accelerator": accelerator,
        "devices": team.local_size,
        "num_nodes": team.size // team.local_size,
        # Methods may leave out a part of the student; buffers follow the whole batch by themselves.
        "strategy": DDPStrategy(find_unused_parameters=True, broadcast_buffers=False),
        "plugins": [TorchElasticEnvironment()],
    }


def _readable(checkpoint: Path) -> Path:
    try:
        torch.load(checkpoint, weights_only=True, map_location="cpu")
    except Exception as error:  # truncated, or not a checkpoint: torch raises many things
        raise ClassroomError(
            f"{checkpoint} is damaged and cannot be resumed from: start again with --overwrite"
        ) from error
    return checkpoint


def _quiet_trainer(**options: Any) -> L.Trainer:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return L.Trainer(
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            **options,
        )
