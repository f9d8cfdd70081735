"""Folding batch normalisation changes a network's speed and nothing else."""

from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from classroomkd.mentors.fold import (
    answers,
    apply_folds,
    find_folds,
    fold_batch_norm,
    relative_error,
)
from classroomkd.models import build_model, list_models

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def images(count=2, seed=0, size=32):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def lived_in(network, seed=0) -> Any:
    """In eval mode, with statistics and scales of its own, as after training."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if type(module) in NORMS:
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(module.bias, 0, 0.3, generator=generator)
    return network.eval()


def zoo(name, classes=10):
    torch.manual_seed(0)
    return lived_in(build_model(name, classes))


def norms(network):
    return [name for name, module in network.named_modules() if isinstance(module, NORMS)]


def snapshot(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def assert_alike(network, other, batch, tolerance=1e-4, least=1):
    given, wanted = answers(other, batch), answers(network, batch)
    assert len(given) == len(wanted) >= least
    for a, b in zip(given, wanted, strict=True):
        assert a.shape == b.shape
        assert relative_error(a, b) <= tolerance


def foldable(name, network):
    """How many of a zoo network's norms follow a convolution: all, but in pre-activation blocks."""
    return [n for n in norms(network) if not name.startswith("wrn") or n.endswith(".bn2")]


@pytest.mark.parametrize("name", list_models())
def test_the_zoo_folds(name):
    network = zoo(name)
    before = snapshot(network)
    folds = find_folds(network, images(1))
    assert sorted(fold.norm for fold in folds) == sorted(foldable(name, network))
    folded = apply_folds(network, folds)
    assert len(norms(folded)) == len(norms(network)) - len(folds)
    assert_alike(network, folded, images(1, seed=99), least=11)  # logits and stages, in three ways
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "efficientnet_b0"])
def test_torchvision_folds(name):
    torch.manual_seed(0)
    network = lived_in(getattr(torchvision.models, name)(num_classes=10))
    folded = fold_batch_norm(network, images())
    assert norms(network)
    assert not norms(folded)
    assert_alike(network, folded, images(seed=99, size=64))


class Block(nn.Module):
    """A convolution and its norm; subclasses say what else happens."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.bn = nn.BatchNorm2d(3)

    def forward(self, x):
        return self.bn(self.conv(x))


class UsedTwice(Block):
    def forward(self, x):
        out = self.conv(x)
        return self.bn(out) + out


class ChangedInPlace(Block):
    def forward(self, x):
        return self.bn(self.conv(x).relu_())


class Shown(Block):
    def forward(self, x):
        out = self.conv(x)
        return {"logits": self.bn(out), "map": out}


class ShownAsView(Block):
    def forward(self, x):
        out = self.conv(x)
        view = out.flatten(1)
        return {"logits": self.bn(out), "map": view}


class ConvCalledTwice(Block):
    def forward(self, x):
        return self.bn(self.conv(self.conv(x)))


class NormCalledTwice(Block):
    def forward(self, x):
        return self.bn(self.bn(self.conv(x)))


class NormReadElsewhere(Block):
    def forward(self, x):
        return self.bn(self.conv(x)) * self.bn.weight.sum()


class Staged(Block):
    """Folding would leave the logits alone, but not what `forward_stages` shows."""

    def forward_stages(self, x):
        out = self.conv(x)
        return {"stem": out, "logits": self.bn(out)}


@pytest.mark.parametrize(
    "block",
    [
        UsedTwice, ChangedInPlace, Shown, ShownAsView, ConvCalledTwice, NormCalledTwice,
        NormReadElsewhere, Staged,
    ],
)  # fmt: skip
def test_what_may_not_be_folded(block):
    network = lived_in(block())
    assert find_folds(network, images()) == ()
    assert_alike(network, fold_batch_norm(network, images()), images(seed=9), tolerance=0)


def test_a_norm_shared_by_two_convolutions_stays():
    norm = nn.BatchNorm2d(3)
    network = lived_in(nn.Sequential(nn.Conv2d(3, 3, 1), norm, nn.Conv2d(3, 3, 1), norm))
    assert find_folds(network, images()) == ()


def test_linear_layers_fold_where_their_channels_are_normalised():
    flat = nn.Sequential(nn.Linear(8, 5), nn.BatchNorm1d(5))
    tokens = nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5))  # normalises the tokens
    assert len(find_folds(lived_in(flat), torch.rand(4, 8))) == 1
    assert find_folds(lived_in(tokens), torch.rand(4, 5, 5)) == ()
    assert_alike(flat, fold_batch_norm(flat, torch.rand(4, 8)), torch.rand(6, 8))


class Standardised(nn.Conv2d):
    """A convolution that computes its weights at each call: folded ones would be undone."""

    def forward(self, x):
        return self._conv_forward(x, self.weight / self.weight.std(), self.bias)


def test_a_fold_that_fails_is_undone_and_the_others_are_kept():
    layers = []
    for kind in (nn.Conv2d, Standardised, nn.Conv2d, nn.Conv2d, Standardised):
        layers += [kind(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU()]
    network = lived_in(nn.Sequential(*layers))
    assert [fold.norm for fold in find_folds(network, images())] == ["1", "7", "10"]
    assert_alike(network, fold_batch_norm(network, images()), images(seed=9))


def test_a_network_in_training_mode_is_left_in_it():
    network = build_model("resnet8", 10).train()
    before = snapshot(network)
    assert not fold_batch_norm(network, images()).training
    assert all(module.training for module in network.modules())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())
