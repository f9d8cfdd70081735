"""Optimizers and schedules: the learning rate of each step."""

import math

import pytest
import torch

from classroomkd.config.training import Train
from classroomkd.engine.optim import build_optimizer, build_schedule


def rates(train, steps_per_epoch):
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = build_optimizer([weight], train)
    schedule = build_schedule(optimizer, train, steps_per_epoch)
    seen = []
    for _ in range(train.epochs * steps_per_epoch):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


def train(schedule, epochs=4, lr=0.4):
    return Train.model_validate(
        {"epochs": epochs, "optimizer": {"name": "sgd", "lr": lr}, "schedule": schedule}
    )


def test_step_divides_at_its_milestones():
    seen = rates(train({"name": "step", "milestones": [1, 3], "gamma": 0.1}), 5)
    expected = [0.4] * 5 + [0.04] * 10 + [0.004] * 5
    assert seen == pytest.approx(expected)


def test_milestones_may_be_parts_of_epochs():
    seen = rates(train({"name": "step", "milestones": [1.5], "gamma": 0.1}), 4)
    assert seen == pytest.approx([0.4] * 6 + [0.04] * 10)


def test_step_with_warmup_keeps_its_milestones():
    seen = rates(train({"name": "step", "milestones": [2], "warmup_epochs": 1}), 5)
    assert seen[0] == pytest.approx(0.4 / 6)
    assert seen[:6] == sorted(seen[:6])
    assert seen[5:] == pytest.approx([0.4] * 5 + [0.04] * 10)


def test_cosine_is_half_a_cosine():
    seen = rates(train({"name": "cosine"}), 10)
    assert seen == pytest.approx([0.2 * (1 + math.cos(math.pi * k / 40)) for k in range(40)])


def test_onecycle_rises_then_falls():
    seen = rates(train({"name": "onecycle", "rise": 0.25}), 10)
    peak = seen.index(max(seen))
    assert seen[peak] == pytest.approx(0.4)
    assert peak == 9
    assert seen[:10] == sorted(seen[:10])
    assert seen[9:] == sorted(seen[9:], reverse=True)
    assert seen[-1] < 1e-4


def test_one_single_step_is_possible():
    for name in ("onecycle", "cosine"):
        assert len(rates(train({"name": name}, epochs=1), 1)) == 1


def test_optimizer_options_arrive():
    recipe = Train.model_validate(
        {"optimizer": {"name": "sgd", "lr": 0.3, "nesterov": True, "weight_decay": 0.01}}
    )
    optimizer = build_optimizer([torch.nn.Parameter(torch.zeros(1))], recipe)
    group = optimizer.param_groups[0]
    assert (group["lr"], group["nesterov"], group["weight_decay"]) == (0.3, True, 0.01)
    adamw = Train.model_validate({"optimizer": {"name": "adamw", "weight_decay": 0.2}})
    optimizer = build_optimizer([torch.nn.Parameter(torch.zeros(1))], adamw)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert optimizer.param_groups[0]["weight_decay"] == 0.2
