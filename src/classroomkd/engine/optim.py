"""Optimizer and schedule of a recipe."""

from collections.abc import Iterable

from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    SequentialLR,
)

from classroomkd.config.training import OneCycle, Step, Train


def build_optimizer(parameters: Iterable[nn.Parameter], train: Train) -> Optimizer:
    """SGD or AdamW with the recipe's options, over all parameters alike."""
    options = train.optimizer.model_dump(exclude={"name"})
    return (SGD if train.optimizer.name == "sgd" else AdamW)(list(parameters), **options)


def build_schedule(optimizer: Optimizer, train: Train, steps_per_epoch: int) -> LRScheduler:
    """The learning rate of each step; call its ``step()`` after each optimizer step."""
    schedule, total = train.schedule, train.epochs * steps_per_epoch
    if isinstance(schedule, OneCycle):
        return OneCycleLR(
            optimizer,
            max_lr=train.optimizer.lr,
            total_steps=max(total, 2),
            pct_start=schedule.rise,
            cycle_momentum=False,
        )
    warmup = round(schedule.warmup_epochs * steps_per_epoch)
    if isinstance(schedule, Step):
        milestones = [round(m * steps_per_epoch) - warmup for m in schedule.milestones]
        main: LRScheduler = MultiStepLR(optimizer, milestones, schedule.gamma)
    else:
        main = CosineAnnealingLR(optimizer, T_max=max(total - warmup, 1))
    if not warmup:
        return main
    rise = LinearLR(optimizer, start_factor=1 / (warmup + 1), total_iters=warmup)
    return SequentialLR(optimizer, [rise, main], milestones=[warmup])
