"""Training a student with Lightning's Trainer; the only file that imports Lightning."""

import logging
import warnings
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, TQDMProgressBar
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from classroomkd.core import Lesson
from classroomkd.engine.classroom import Classroom
from classroomkd.engine.devices import SINGLE_PROCESS, DistContext
from classroomkd.engine.devices.sharding import (
    average_whole,
    clip_norm,
    let_go,
    shard,
    whole_weights,
)
from classroomkd.engine.optim import build_optimizer, build_schedule
from classroomkd.engine.step import training_step
from classroomkd.errors import ClassroomError
from classroomkd.models import Network, deployable

EpochEnd = Callable[[int, Network, float], None]


class LessonModule(L.LightningModule):
    """The student and the method as Lightning sees them, and mentors that train along.

    Frozen mentors stay outside its module tree.
    """

    def __init__(self, classroom: Classroom, on_lesson: Callable[[Lesson], None]) -> None:
        super().__init__()
        self.student = classroom.student
        self.method = classroom.method
        self.peers = nn.ModuleList(m.network for m in classroom.mentors if m.learns)
        self.latest: Tensor | None = None
        # Closures: a copy of this module, such as a running average of it, shares what they hold.
        self._on_lesson, self._classroom = on_lesson, lambda: classroom

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """One lesson."""
        lesson = training_step(self._classroom(), batch)
        self._on_lesson(lesson)
        self.latest = lesson.loss.detach()
        return lesson.loss

    def whole_student(self) -> Network | None:
        """The student as others can use it, at least in the first process; all must call this."""
        return self.student

    def on_train_epoch_start(self) -> None:
        """Begin the epoch as any other loop would, so that resuming is exact."""
        classroom = self._classroom()
        classroom.begin_epoch(self.current_epoch)
        schedule = cast(LRScheduler, self.lr_schedulers())
        rate = classroom.recipe.train.optimizer.lr if self._waits else schedule.get_last_lr()[0]
        schedule.optimizer.param_groups[0]["lr"] = rate

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Go on in the schedule, which begins after the epochs that the method adds before it."""
        if not self._waits:
            scheduler.step()

    @property
    def _waits(self) -> bool:
        """Whether the schedule has not begun."""
        return self.current_epoch < self.method.extra_epochs

    def on_train_epoch_end(self) -> None:
        """Let the bank keep what mentors have said."""
        self._classroom().end_epoch()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save tensors in the plain order of memory, as a divided student reads them, too."""
        checkpoint |= _laid_out(dict(checkpoint), torch.contiguous_format)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Give the optimizer's state the weights' order of memory: steps are faster so."""
        if self._classroom().recipe.train.channels_last:
            states = checkpoint["optimizer_states"]
            checkpoint["optimizer_states"] = _laid_out(states, torch.channels_last)

    def configure_optimizers(self) -> Any:
        """The recipe's optimizer over student and method, its schedule stepped after each batch."""
        classroom = self._classroom()
        optimizer = build_optimizer(self.parameters(), classroom.recipe.train)
        schedule = build_schedule(optimizer, classroom.recipe.train, len(classroom.train))
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class ShardedLessonModule(LessonModule):
    """The same, with the student divided over the processes of a team.

    The first process keeps a whole copy in the host's memory, to be judged and saved.
    """

    def __init__(
        self, classroom: Classroom, on_lesson: Callable[[Lesson], None], team: DistContext
    ) -> None:
        super().__init__(classroom, on_lesson)
        copy = deepcopy(self.student).cpu() if team.first else None
        self._copy, self._team = lambda: copy, team
        self.strict_loading = False  # the optimizer has no state of weights that nobody uses

    def configure_model(self) -> None:
        """Divide the student, once."""
        if not isinstance(self.student, FSDPModule):
            assert self.device_mesh is not None
            shard(self.student, self.device_mesh["data_parallel"])

    def whole_student(self) -> Network | None:
        """The copy, with the weights of now; None in the other processes."""
        weights, copy = whole_weights(self.student), self._copy()
        if copy is None:
            return None
        copy.load_state_dict(weights)
        return copy.to(self.device)

    def on_after_backward(self) -> None:
        """Average what `DistributedDataParallel` would have averaged."""
        average_whole(self.parameters(), self._team.size)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by the norm over all processes' parts."""
        if gradient_clip_val:
            clip_norm(self.parameters(), gradient_clip_val)

    def teardown(self, stage: str) -> None:
        """Let the group of processes end."""
        assert self.device_mesh is not None
        let_go(self.device_mesh)


class _Bar(TQDMProgressBar):
    """A bar with the loss, read from the device only when the bar is drawn."""

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        latest = getattr(pl_module, "latest", None)
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        return {} if latest is None else {"loss": f"{latest.item():.3f}", "lr": f"{rate:.2g}"}


class _EpochEnd(Callback):
    """Shows the student to judge (the average, if there is one), then saves all atomically.

    Every process shows its own; of a divided student, only the first has it whole.
    """

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
        student = module.whole_student()
        if student is not None:
            self.on_epoch(trainer.current_epoch, deployable(student, module.method), rate)
        if self.checkpoint is not None:
            part = self.checkpoint.with_suffix(".part")
            trainer.save_checkpoint(part)  # the first process writes, the others wait for it
            if trainer.is_global_zero:
                part.replace(self.checkpoint)


def fit(
    classroom: Classroom,
    *,
    on_lesson: Callable[[Lesson], None],
    on_epoch: EpochEnd,
    checkpoint: Path | None = None,
    resume: bool = False,
    progress: bool = True,
    team: DistContext = SINGLE_PROCESS,
) -> None:
    """Train the classroom's student for the epochs of its recipe, and those that its method adds.

    Args:
        classroom: whose student is trained in place.
        on_lesson: called with each lesson.
        on_epoch: called after each epoch, in each process that has the student whole: its number,
            the student to judge, the learning rate.
        checkpoint: file for the state after each epoch, or None to keep none.
        resume: continue from ``checkpoint``.
        progress: whether to show a bar.
        team: the processes that train the student together, each of which calls this.
    """
    train = classroom.recipe.train
    sharded = team.size > 1 and train.student_placement == "shard"
    module = (
        ShardedLessonModule(classroom, on_lesson, team)
        if sharded
        else LessonModule(classroom, on_lesson)
    )
    average = EMAWeightAveraging(decay=train.ema) if train.ema is not None else None
    callbacks: list[Callback] = [_Bar(refresh_rate=10, leave=False)] if progress else []
    callbacks += [average] if average else []
    callbacks.append(_EpochEnd(on_epoch, checkpoint, average))
    trainer = _quiet_trainer(
        **_places(classroom.device, team, sharded),
        max_epochs=classroom.epochs,
        gradient_clip_val=train.clip,
        callbacks=callbacks,
        enable_progress_bar=progress,
    )
    classroom.student.train()
    start = _fitting(checkpoint, module) if resume and checkpoint is not None else None
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


def _laid_out(tree: Any, order: torch.memory_format) -> Any:
    """The same tree with its maps (tensors of four dimensions) in an order of memory."""
    return apply_to_collection(
        tree, Tensor, lambda t: t.contiguous(memory_format=order) if t.ndim == 4 else t
    )


def _places(device: torch.device, team: DistContext, sharded: bool) -> dict[str, Any]:
    """Where the Trainer runs: in this process alone, or in those that are there already."""
    cuda = device.type == "cuda"
    accelerator = "gpu" if cuda else "cpu"
    if team.size == 1:
        return {"accelerator": accelerator, "devices": [device.index or 0] if cuda else 1}
    return {
        "accelerator": accelerator,
        "devices": team.local_size,
        "num_nodes": team.size // team.local_size,
        "strategy": _strategy(team, sharded),
        "plugins": [TorchElasticEnvironment()],
    }


def _strategy(team: DistContext, sharded: bool) -> Strategy:
    if sharded:
        return ModelParallelStrategy(team.size, 1, save_distributed_checkpoint=False)
    # Methods may leave out a part of the student; buffers follow the whole batch by themselves.
    return DDPStrategy(find_unused_parameters=True, broadcast_buffers=False)


def _fitting(checkpoint: Path, module: LessonModule) -> Path:
    """The checkpoint, if it can be read and has the module's weights."""
    try:
        saved = torch.load(checkpoint, weights_only=True, map_location="cpu")["state_dict"].keys()
    except Exception as error:  # truncated, or not a checkpoint: torch raises many things
        raise ClassroomError(
            f"{checkpoint} is damaged and cannot be resumed from: start again with --overwrite"
        ) from error
    if others := saved ^ module.state_dict().keys():
        raise ClassroomError(
            f"{checkpoint} and the networks of now differ in their weights, such as {min(others)}:"
            " go on with the code that the run began with, or start again with --overwrite"
        )
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
