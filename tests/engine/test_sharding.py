"""A student divided over two processes learns what a whole one does, and each keeps half of it."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from classroomkd.config.training import Train
from classroomkd.engine.devices import join, start
from classroomkd.engine.devices.sharding import (
    average_whole,
    clip_norm,
    shard,
    whole_weights,
)
from classroomkd.engine.run import _train, train
from classroomkd.engine.runs import RunFolder
from classroomkd.errors import RecipeError
from classroomkd.models import build_model
from tests.engine.test_devices import PEERS, SLOWLY, assert_same_run, trained

pytestmark = pytest.mark.timeout(1200)


def test_an_average_of_a_divided_student_is_refused(digits_recipe):
    with pytest.raises(RecipeError, match=r"student_placement: shard .*leave out ema"):
        digits_recipe(train={"student_placement": "shard", "ema": 0.9})


def test_one_process_has_nothing_to_divide(digits_recipe, tmp_path):
    one, _ = trained(digits_recipe(train={"epochs": 1}), tmp_path / "one")
    other, _ = trained(
        digits_recipe(train={"epochs": 1, "student_placement": "shard"}), tmp_path / "other"
    )
    assert_same_run(one, other, tolerance=0)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, marks=pytest.mark.processes),
        {"method": {"name": "simkd"}, "train": {"clip": 0.5}},
        {"method": {"name": "dml"}, "mentors": PEERS, "train": {"clip": 0.5}},
        {"train": {"optimizer": {"name": "adamw", "lr": 2e-5}}},
    ],
    ids=["classroom", "simkd", "dml", "adamw"],
)
@pytest.mark.slow
def test_a_sharded_student_learns_what_a_whole_one_does(digits_recipe, tmp_path, changes):
    train_ = {**SLOWLY, **changes.pop("train", {})}
    one, _ = trained(digits_recipe(train=train_, **changes), tmp_path / "one")
    placed = {"devices": 2, "student_placement": "shard", **train_}
    two, _ = trained(digits_recipe(train=placed, **changes), tmp_path / "two")
    assert_same_run(one, two)


@pytest.mark.slow
def test_a_divided_run_is_resumed_in_any_way(digits_recipe, tmp_path):
    def recipe(**placing):
        return digits_recipe(train={"epochs": 3, **SLOWLY, **placing})

    divided = {"devices": 2, "student_placement": "shard"}
    whole, _ = trained(recipe(**divided), tmp_path / "whole")

    def cut(line):
        if line.startswith("epoch 2/"):
            raise KeyboardInterrupt

    for place, (before, after) in enumerate(((divided, divided), (divided, {}), ({}, divided))):
        folder = tmp_path / str(place)
        with pytest.raises(KeyboardInterrupt):
            train(recipe(**before), folder, progress=False, say=cut)
        resumed, said = trained(recipe(**after), folder, resume=True)
        assert said[-1].startswith("epoch 3/3")
        assert_same_run(whole, resumed)
        if before == after:
            one, other = (load_file(run.path / "student.safetensors") for run in (whole, resumed))
            assert all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.slow
def test_a_divided_student_with_weights_that_nobody_uses_is_resumed(digits_recipe, tmp_path):
    placed = {"devices": 2, "student_placement": "shard"}
    recipe = digits_recipe(method={"name": "simkd"}, train={**SLOWLY, **placed})

    def cut(line):
        if line.startswith("epoch 2/"):
            raise KeyboardInterrupt

    whole, _ = trained(recipe, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "cut", progress=False, say=cut)
    resumed, _ = trained(recipe, tmp_path / "cut", resume=True)
    one, other = (load_file(run.path / "student.safetensors") for run in (whole, resumed))
    assert all(torch.equal(one[k], other[k]) for k in one)


# What follows runs in processes of its own.


class Rows(nn.Module):
    """Blocks in rows, one of them in another, and a weight outside of them."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 8)
        inner = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
        self.rows = nn.ModuleList([inner, nn.Linear(8, 8, bias=False), nn.Linear(8, 3)])
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        x = self.first(x)
        for block in self.rows:
            x = block(x)
        return self.scale * x


def check_division(say):
    """Compare a divided network with its whole twin."""
    with join(Train()) as team:
        mesh = init_device_mesh("cpu", (team.size,))
        for make, size in ((Rows, 6), (lambda: build_model("resnet8", 10), 3 * 32 * 32)):
            torch.manual_seed(0)
            net, twin = make(), make()
            twin.load_state_dict(net.state_dict())
            extra, extra_twin = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
            shard(net, mesh, block=60)
            inner = [m for m in net.modules() if isinstance(m, FSDPModule)]
            assert len(inner) > 2
            adam, adam_twin = (
                torch.optim.AdamW([*n.parameters(), e], lr=0.01)
                for n, e in ((net, extra), (twin, extra_twin))
            )
            torch.manual_seed(1)
            x = torch.rand(4, size) if size == 6 else torch.rand(4, 3, 32, 32)
            for module in (net, twin):
                module.eval()
            for _ in range(2):
                (net(x.chunk(2)[team.rank]).cos().mean() * 7 + extra.pow(3).sum()).backward()
                (twin(x).cos().mean() * 7 + extra_twin.pow(3).sum()).backward()
                average_whole([extra], team.size)
                clip_norm([*net.parameters(), extra], 0.5)
                nn.utils.clip_grad_norm_([*twin.parameters(), extra_twin], 0.5)
                for optimizer in (adam, adam_twin):
                    optimizer.step()
                    optimizer.zero_grad()
            torch.testing.assert_close(extra, extra_twin)
            weights = whole_weights(net)
            assert bool(weights) == team.first
            for name, value in weights.items():
                torch.testing.assert_close(value, twin.state_dict()[name], rtol=1e-4, atol=1e-5)
            parts = [p for p in net.parameters() if isinstance(p, DTensor)]
            assert len(parts) == len(list(net.parameters()))
            held = sum(p.to_local().numel() for p in parts)
            states = [adam.state[p]["exp_avg"].to_local().numel() for p in parts]
            say((held, sum(states), sum(p.numel() for p in twin.parameters())))


@pytest.mark.slow
@pytest.mark.processes
def test_each_process_keeps_a_part_of_weights_and_of_the_optimizers_state():
    said = []
    start(2, check_division, (), said.append)
    assert len(said) == 4
    for whole in {numbers[2] for numbers in said}:
        halves = [numbers for numbers in said if numbers[2] == whole]
        assert sum(held for held, *_ in halves) == whole
        assert all(0.4 * whole < held == state < 0.6 * whole for held, state, _ in halves)


def train_and_look(recipe, folder, say):
    """Say which threads of the exchange outlive a training."""
    _train(recipe, RunFolder(folder), False, False, False, lambda *_: None)
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    say([name for name in names if "gloo" in name])


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted on Linux")
@pytest.mark.parametrize("placement", ["replicate", "shard"])
def test_no_thread_of_the_exchange_outlives_the_training(digits_recipe, tmp_path, placement):
    recipe = digits_recipe(train={"devices": 2, "epochs": 1, "student_placement": placement})
    said = []
    start(2, train_and_look, (recipe, tmp_path / "run"), said.append)
    assert said == [[], []]


class Awkward(Rows):
    """With a scalar, another type, weights in two places, one at rest and one that nobody uses."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(2.0))
        self.exact = nn.Parameter(torch.ones(3, dtype=torch.float64))
        self.again = nn.Linear(8, 8, bias=False)
        self.again.register_parameter("weight", self.rows[1].get_parameter("weight"))
        self.first.bias.requires_grad_(False)
        self.idle = nn.Linear(8, 8)

    def forward(self, x):
        return super().forward(self.again(self.first(x))[:, :6]) * self.gain * self.exact


def check_awkward(say):
    """Compare a divided network with its whole twin, and say which weights are not divided."""
    with join(Train()) as team:
        torch.manual_seed(0)
        net, twin = Awkward(), Awkward()
        twin.load_state_dict(net.state_dict())
        shard(net, init_device_mesh("cpu", (team.size,)), block=60)
        x = torch.rand(4, 6)
        for module, images in ((net, x.chunk(2)[team.rank]), (twin, x)):
            adam = torch.optim.AdamW(module.parameters(), lr=0.01)
            for _ in range(2):
                module(images).cos().mean().backward()
                if module is net:
                    average_whole(net.parameters(), team.size)
                    clip_norm(net.parameters(), 0.05)
                else:
                    nn.utils.clip_grad_norm_(twin.parameters(), 0.05)
                adam.step()
                adam.zero_grad()
        for name, value in whole_weights(net).items():
            torch.testing.assert_close(value, twin.state_dict()[name], rtol=1e-4, atol=1e-5)
        say({name for name, p in net.named_parameters() if not isinstance(p, DTensor)})


@pytest.mark.slow
def test_what_cannot_be_divided_stays_whole_and_learns_alike():
    said = []
    start(2, check_awkward, (), said.append)
    assert said == [{"gain", "exact"}] * 2
