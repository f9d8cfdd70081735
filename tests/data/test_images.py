import dataclasses
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from classroomkd.data import ImageSet, development_split, load_image_set
from classroomkd.errors import ClassroomError


def test_subset_keeps_the_original_index(toy):
    rows = torch.tensor([50, 3, 77])
    part = toy.subset(rows)
    assert len(part) == 3
    assert torch.equal(part.images, toy.images[rows])
    assert torch.equal(part.target, toy.target[rows])
    assert part.index.tolist() == [50, 3, 77]
    assert part.subset(torch.tensor([2, 0])).index.tolist() == [77, 50]
    assert part.classes == toy.classes


def test_empty_subset(toy):
    part = toy.subset(torch.empty(0, dtype=torch.int64))
    assert len(part) == len(part.index) == 0


def test_to_device(toy):
    moved = toy.to("meta")
    assert {moved.images.device.type, moved.target.device.type, moved.index.device.type} == {"meta"}
    assert moved.name == "toy"


def test_frozen(toy):
    with pytest.raises(dataclasses.FrozenInstanceError):
        toy.name = "other"


def test_fingerprint_sees_every_content(toy):
    prints = {toy.fingerprint}
    changed = toy.images.clone()
    changed[100, 2, 11, 9] ^= 1
    for change in (
        {"images": changed},
        {"target": toy.target.roll(1)},
        {"classes": ("b", "a", "c", "d")},
        {"index": toy.index + 1},
    ):
        prints.add(dataclasses.replace(toy, **change).fingerprint)
    prints.add(toy.subset(torch.arange(100)).fingerprint)
    assert len(prints) == 6


def test_fingerprint_is_blind_to_memory_format(toy):
    images = toy.images.contiguous(memory_format=torch.channels_last)
    assert not images.is_contiguous()
    assert dataclasses.replace(toy, images=images).fingerprint == toy.fingerprint


def test_fingerprint_in_another_process():
    code = (
        "from classroomkd.data import load_image_set;"
        "print(load_image_set('digits', 'test').fingerprint)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    environment["PYTHONHASHSEED"] = "12345"
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert len(run.stdout.strip()) == 64
    assert run.stdout.strip() == load_image_set("digits", "test").fingerprint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"images": torch.zeros(101, 3, 8, 8)},
            r"must be uint8 \[N, 3, H, W\], not .*float",
        ),
        ({"images": torch.zeros(101, 8, 8, 3, dtype=torch.uint8)}, r"not .* \[101, 8, 8, 3\]"),
        ({"target": torch.zeros(100, dtype=torch.int64)}, r"target must be int64 \[101\]"),
        ({"index": torch.arange(101).int()}, r"index must be int64 \[101\], not torch.int32"),
    ],
)
def test_wrong_tensors(toy, change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(toy, **change)


@given(
    target=st.lists(st.integers(0, 6), min_size=2, max_size=200),
    share=st.floats(0.0, 1.0),
    seed=st.integers(0, 1000),
)
def test_development_split_is_stratified(target, share, seed):
    target = torch.tensor(target)
    size = min(max(round(share * len(target)), 1), len(target) - 1)
    train, dev = development_split(target, size, seed)
    assert len(dev) == size
    assert torch.equal(torch.cat([train, dev]).sort().values, torch.arange(len(target)))
    assert torch.equal(train, train.sort().values)
    assert torch.equal(dev, dev.sort().values)
    proportional = torch.bincount(target) * size / len(target)
    counts = torch.bincount(target[dev], minlength=len(proportional))
    assert ((counts - proportional).abs() < 1).all()
    again = development_split(target, size, seed)
    assert torch.equal(again[0], train)
    assert torch.equal(again[1], dev)


def test_development_split_of_a_share():
    target = torch.arange(10).repeat(50)
    _, dev = development_split(target, 0.1, seed=0)
    assert torch.bincount(target[dev]).tolist() == [5] * 10


def test_development_split_depends_on_the_seed_and_not_on_the_global_generator():
    target = torch.arange(10).repeat(100)
    torch.manual_seed(0)
    first = development_split(target, 200, seed=0)[1]
    torch.manual_seed(1)
    assert torch.equal(development_split(target, 200, seed=0)[1], first)
    other = development_split(target, 200, seed=1)[1]
    common = torch.isin(first, other).sum()
    assert 15 < common < 75  # 40 by chance


def test_ties_do_not_always_favour_the_first_classes():
    target = torch.arange(10).repeat(10)
    favoured = {
        tuple(torch.bincount(target[development_split(target, 5, seed)[1]], minlength=10).tolist())
        for seed in range(10)
    }
    assert len(favoured) > 5


@pytest.mark.parametrize("size", [0, -1, 100, 101, 0.0, 1.0, 1.5, -0.1, 0.001])
def test_impossible_development_split(size):
    with pytest.raises(ClassroomError, match=r"from 1 to 99, or a share above 0.0 and below 1.0"):
        development_split(torch.zeros(100, dtype=torch.int64), size, seed=0)


def test_index_defaults_to_positions(toy):
    assert torch.equal(toy.index, torch.arange(101))
    assert isinstance(toy, ImageSet)
