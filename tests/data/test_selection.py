"""Training on some classes, on a share of the samples, and with wrong labels."""

import pytest
import torch

from classroomkd.data import Draws, LabelNoise, load_image_set, training_selection
from classroomkd.data.selection import class_places, noisy_labels, stratified_rows
from classroomkd.errors import ClassroomError

N, C = 20_000, 10
INDEX = torch.arange(N) * 3 + 5  # numbers as a subset has them: neither from 0, nor in one piece
TARGET = Draws(9, 0, INDEX).integers("target", 0, C)[:, 0]


def test_symmetric_noise_replaces_its_share_by_each_other_class_alike():
    noisy = noisy_labels(TARGET, INDEX, C, rate=0.4, seed=0)
    wrong = noisy != TARGET
    assert wrong.float().mean().item() == pytest.approx(0.4, abs=4 * (0.24 / N) ** 0.5)
    shift = ((noisy - TARGET) % C)[wrong].bincount(minlength=C)
    assert shift[0] == 0
    expected = wrong.sum() / (C - 1)
    assert ((shift[1:] - expected) ** 2 / expected).sum() < 26.1  # chi squared, 8, p = 0.001


@pytest.mark.parametrize(("rate", "wrong"), [(0.0, 0), (1.0, N)])
def test_noise_of_all_and_of_none(rate, wrong):
    assert (noisy_labels(TARGET, INDEX, C, rate=rate, seed=0) != TARGET).sum() == wrong


def test_a_label_depends_on_seed_and_number_alone():
    noisy = noisy_labels(TARGET, INDEX, C, rate=0.4, seed=3)
    some = torch.randperm(N, generator=torch.Generator().manual_seed(0))[:777]
    apart = noisy_labels(TARGET[some], INDEX[some], C, rate=0.4, seed=3)
    assert torch.equal(apart, noisy[some])
    assert not torch.equal(noisy_labels(TARGET, INDEX, C, rate=0.4, seed=4), noisy)
    milder = noisy_labels(TARGET, INDEX, C, rate=0.2, seed=3)
    assert (noisy != TARGET)[milder != TARGET].all()


def test_a_share_is_of_each_class_alike():
    rows = stratified_rows(TARGET, INDEX, 0.1, seed=0)
    assert torch.equal(rows, rows.unique())
    exact = TARGET.bincount() * 0.1
    assert ((TARGET[rows].bincount() - exact).abs() <= 0.5).all()
    more = stratified_rows(TARGET, INDEX, 0.3, seed=0)
    assert torch.isin(rows, more).all()
    assert not torch.equal(stratified_rows(TARGET, INDEX, 0.1, seed=1), rows)
    assert len(stratified_rows(TARGET, INDEX, 1.0, seed=0)) == N


def test_a_share_does_not_depend_on_the_order():
    shuffled = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    rows = stratified_rows(TARGET, INDEX, 0.01, seed=0)
    other = stratified_rows(TARGET[shuffled], INDEX[shuffled], 0.01, seed=0)
    assert torch.equal(INDEX[shuffled[other]].sort().values, INDEX[rows])


def test_a_small_share_keeps_every_class():
    target = torch.tensor([0] * 100 + [2] * 3)
    rows = stratified_rows(target, torch.arange(103), 0.01, seed=0)
    assert target[rows].tolist() == [0, 2]


def test_classes_by_name_by_number_and_by_range():
    names = ["ant", "cow", "3", "emu", "fox"]
    for chosen, places in (
        (["cow", "ant"], [0, 1]),
        (["3"], [2]),  # its name
        ([3], [3]),
        (["1-3", 3, "fox"], [1, 2, 3, 4]),
        (["2-2"], [2]),
    ):
        assert class_places(chosen, names, "x") == places
    for chosen, match in (
        (["caw"], "x: unknown class 'caw': did you mean 'cow'"),
        ([5], "x: there is no class 5: the data's 5 classes go from 0 to 4"),
        (["3-9"], "x: there is no class 5"),
    ):
        with pytest.raises(ClassroomError, match=match):
            class_places(chosen, names, "x")


def test_a_selection_keeps_numbers_and_classes():
    digits = load_image_set("digits", "train")
    noise = LabelNoise(0.5, ["0-1"], seed=1)
    part = training_selection(digits, classes=["0-4"], fraction=0.5, noise=noise)
    assert part.classes == digits.classes
    true = digits.target[part.index]
    assert true.unique().tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(part.images, digits.images[part.index])
    wrong = part.target != true
    assert 0.3 < wrong[true < 2].float().mean() < 0.7
    assert not wrong[true >= 2].any()
    assert part.notes == (
        f"digits: trained on 5 of 10 classes: {(digits.target < 5).sum()} of 1347 samples",
        f"digits: trained on {len(part)} of {(digits.target < 5).sum()} samples",
        f"digits: {wrong.sum()} of {len(part)} training labels are wrong (data.noise)",
    )
    assert len({s.fingerprint for s in (digits, part, training_selection(part, noise=noise))}) == 3
    assert training_selection(digits) is digits


def test_classes_without_a_sample_are_refused():
    digits = load_image_set("digits", "train")
    zeros = digits.subset((digits.target == 0).nonzero()[:, 0])
    with pytest.raises(ClassroomError, match="no training image of digits is of these 2 classes"):
        training_selection(zeros, classes=[1, 2])
