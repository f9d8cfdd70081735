"""Mixup, cutmix, smoothed labels and copies: exact, and functions of (seed, epoch, index) alone."""

from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from classroomkd.data import (
    Draws,
    ImageSet,
    Mixing,
    ViewLoader,
    crop,
    flip,
    load_image_set,
    resized_crop,
)
from classroomkd.data.mixing import Mixture, mix, soft_targets
from classroomkd.engine.bank import build_bank
from classroomkd.engine.build import build_classroom
from classroomkd.engine.run import train
from classroomkd.engine.step import training_step
from classroomkd.errors import ClassroomError

AUGMENT = [crop(2), flip()]
PINNED_PARTNERS = [47172, 41180, 21471]
PINNED_BOXES = [[27, 27, 32, 32], [0, 0, 0, 0], [0, 0, 15, 10]]
PINNED_SHARES = [0.9755859375, 0.06377246230840683, 0.853515625]
BOTH = Mixing(mixup=0.8, cutmix=1.0)
N = 10_000


def drawn(mixing, count=N, height=32, width=32, seed=0, epoch=0):
    """What the samples 0 to N - 1 of a set of as many are mixed with."""
    rows = torch.arange(count)
    return mixing.draw(Draws(seed, epoch, rows), rows, count, height, width)


def by_index(loader):
    return {
        int(index): (image, target)
        for batch in loader
        for image, target, index in zip(*batch, strict=True)
    }


def assert_same(a, b):
    assert a.keys() == b.keys()
    for index in a:
        assert all(torch.equal(x, y) for x, y in zip(a[index], b[index], strict=True))


def slowly_mixed(own, partner, mixture, sample):
    """One sample's pixels ``[3, H, W]``, one at a time, in Python's numbers."""
    top, left, bottom, right = mixture.box[:, sample].tolist()
    blend = mixture.blend[sample].item()
    mixed = torch.empty_like(own)
    for y in range(own.shape[1]):
        for x in range(own.shape[2]):
            here = 0.0 if top <= y < bottom and left <= x < right else blend
            for c in range(3):
                mixed[c, y, x] = here * own[c, y, x].item() + (1 - here) * partner[c, y, x].item()
    return mixed


@pytest.mark.parametrize("mixing", [Mixing(mixup=0.8), Mixing(cutmix=1.0), BOTH])
def test_pixels_and_targets_are_those_of_a_slow_reference(toy, mixing):
    """A sample in its view, its partner in the partner's own view of the same epoch."""
    options = {"seed": 5, "augment": AUGMENT}
    plain, mixed = (ViewLoader(toy, 16, mixing=m, **options) for m in (None, mixing))
    plain.set_epoch(3)
    mixed.set_epoch(3)
    views, seen = by_index(plain), by_index(mixed)
    mixture = mixing.draw(Draws(5, 3, toy.index), toy.index, 101, 12, 10)
    changed = 0
    for sample in range(0, 101, 7):
        (own, label), (other, second) = views[sample], views[int(mixture.partner[sample])]
        image, target = seen[sample]
        torch.testing.assert_close(image, slowly_mixed(own, other, mixture, sample))
        wanted = [0.0] * 4
        wanted[int(label)] += mixture.share[sample].item()
        wanted[int(second)] += 1 - mixture.share[sample].item()
        torch.testing.assert_close(target, torch.tensor(wanted))
        changed += not torch.equal(image, own)
    assert changed > 7


@pytest.mark.parametrize("alpha", [0.2, 0.8, 1.0, 4.0])
def test_shares_of_mixup_follow_the_beta_distribution(alpha):
    mixture = drawn(Mixing(mixup=alpha))
    assert stats.kstest(mixture.share.numpy(), stats.beta(alpha, alpha).cdf).pvalue > 0.001
    assert torch.equal(mixture.share, mixture.blend)
    assert not mixture.box.any()


def test_sides_of_cutmix_follow_the_beta_distribution():
    """The box of an image without borders, which are so far off that nothing is cut off."""
    chance = Draws(0, 0, torch.arange(N)).uniform("mix share")[:, 0].double()
    side = 10**6
    mixture = drawn(Mixing(cutmix=0.5), height=side, width=side)
    top, left, bottom, right = mixture.box
    inside = (top > 0) & (left > 0) & (bottom < side) & (right < side)
    assert inside.sum() > 1000
    wanted = 1 - torch.from_numpy(stats.beta(0.5, 0.5).ppf(chance.numpy()))
    area = ((bottom - top) / side * ((right - left) / side)).double()
    torch.testing.assert_close(area[inside], wanted[inside], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (12, 10), (7, 33), (1, 1)])
def test_the_share_of_cutmix_is_the_area_that_remains(height, width):
    mixture = drawn(Mixing(cutmix=1.0), height=height, width=width)
    top, left, bottom, right = mixture.box
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (bottom <= height).all()
    assert (right <= width).all()
    assert (top <= bottom).all()
    assert (left <= right).all()
    area = (bottom - top) * (right - left)
    torch.testing.assert_close(mixture.share, 1 - area.float() / (height * width))
    assert (mixture.blend == 1).all()
    own, other = torch.zeros(50, 3, height, width), torch.ones(50, 3, height, width)
    few = Mixture(*(t[..., :50] for t in mixture))
    covered = mix(own, other, few)
    assert torch.equal(covered.sum((1, 2, 3)), 3 * area[:50].float())


def test_boxes_lie_anywhere():
    top, left, bottom, right = drawn(Mixing(cutmix=1.0)).box
    y, x = torch.arange(32)[:, None], torch.arange(32)[:, None]
    rows = ((top <= y) & (y < bottom)).float().mean(1)
    columns = ((left <= x) & (x < right)).float().mean(1)
    assert rows.min() > 0.15
    assert columns.min() > 0.15
    torch.testing.assert_close(rows, rows.flip(0), atol=0.05, rtol=0)


def test_which_kind_and_how_often():
    def kinds(mixing):
        mixture = drawn(mixing)
        cut = (mixture.box != 0).any(0).float().mean().item()
        return cut, (mixture.blend < 1).float().mean().item()

    whole = drawn(Mixing(cutmix=1.0))
    some = (whole.box != 0).any(0).float().mean().item()  # of the rest, the box has no area
    assert kinds(BOTH) == (pytest.approx(0.5 * some, abs=0.02), pytest.approx(0.5, abs=0.02))
    rarely = Mixing(mixup=0.8, cutmix=1.0, switch=0.1, p=0.5)
    assert kinds(rarely) == (pytest.approx(0.05 * some, abs=0.02), pytest.approx(0.45, abs=0.02))
    assert kinds(Mixing(mixup=0.8, switch=1.0)) == (0, pytest.approx(1, abs=0.01))
    assert kinds(Mixing(cutmix=0.8, switch=0.0))[1] == 0
    for nobody in (Mixing(), Mixing(mixup=1, p=0), Mixing(switch=1.0)):
        assert kinds(nobody) == (0, 0)
        assert (drawn(nobody).share == 1).all()
        assert not nobody.on
    assert BOTH.on


def test_partners_are_all_others_alike():
    rows = torch.arange(N)
    mixture = BOTH.draw(Draws(0, 0, rows), rows % 10, 10, 32, 32)
    assert (mixture.partner != rows % 10).all()
    counts = torch.bincount((mixture.partner - rows) % 10, minlength=10)
    assert stats.chisquare(counts[1:]).pvalue > 0.001
    assert drawn(BOTH, count=1).partner.tolist() == [0]
    assert drawn(BOTH, count=2).partner.tolist() == [1, 0]


def test_numbers_never_change():
    """Stored mentor outputs are keyed by how samples are mixed."""
    draws = Draws(7, 3, torch.tensor([0, 49_999, 5]))
    mixture = BOTH.draw(draws, torch.arange(3), 50_000, 32, 32)
    assert mixture.partner.tolist() == PINNED_PARTNERS
    assert mixture.box.T.tolist() == PINNED_BOXES
    torch.testing.assert_close(mixture.share, torch.tensor(PINNED_SHARES))


@pytest.mark.parametrize("alpha", [1e-6, 1e-2, 1e6])
def test_any_alpha_gives_shares(alpha):
    for mixture in (drawn(Mixing(mixup=alpha)), drawn(Mixing(cutmix=alpha))):
        assert mixture.share.isfinite().all()
        assert mixture.share.min() >= 0
        assert mixture.share.max() <= 1


@pytest.mark.parametrize(
    "options", [{"mixup": -1}, {"cutmix": float("nan")}, {"switch": 2}, {"p": -0.1}, {"p": "x"}]
)
def test_impossible_options(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be a number from"):
        Mixing(**options)


@pytest.mark.parametrize("options", [{}, {"second": AUGMENT}, {"copies": 3}, {"smoothing": 0.1}])
def test_mixed_views_depend_neither_on_batch_size_nor_on_what_ran_before(toy, options):
    def epoch(batch_size, before=(), **changes):
        loader = ViewLoader(
            toy, batch_size, augment=AUGMENT, mixing=BOTH, **(options | changes), shuffle=True
        )
        for number in before:
            loader.set_epoch(number)
            list(loader)
        loader.set_epoch(4)
        batches = list(loader)
        if "second" not in options:
            return [torch.cat(part) for part in zip(*batches, strict=True)]
        halves = ([t.chunk(2)[k] for t in batch] for k in (0, 1) for batch in batches)
        return [torch.cat(part) for part in zip(*halves, strict=True)]

    expected = epoch(101)
    for batch_size, before in ((7, ()), (16, (1, 4)), (64, ())):
        found = epoch(batch_size, before)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert not torch.equal(epoch(101, seed=1)[0], expected[0])


def test_order_does_not_change_what_samples_are_mixed_with(toy):
    expected = by_index(ViewLoader(toy, 101, augment=AUGMENT, mixing=BOTH))
    assert_same(by_index(ViewLoader(toy, 9, augment=AUGMENT, mixing=BOTH, shuffle=True)), expected)
    seeded = ViewLoader(toy, 9, seed=3, view_seed=0, augment=AUGMENT, mixing=BOTH, shuffle=True)
    assert_same(by_index(seeded), expected)


def test_views_that_repeat_are_mixed_alike(toy):
    loader = ViewLoader(toy, 101, augment=AUGMENT, mixing=BOTH, repeat=2)
    seen = []
    for epoch in range(3):
        loader.set_epoch(epoch)
        seen.append(next(iter(loader)))
    assert torch.equal(seen[0].images, seen[2].images)
    assert not torch.equal(seen[0].images, seen[1].images)
    assert not torch.equal(seen[0].target, seen[1].target)


def test_both_views_of_a_sample_are_mixed_alike(toy):
    loader = ViewLoader(toy, 20, augment=AUGMENT, second=[], mixing=Mixing(cutmix=1.0))
    batch = next(iter(loader))
    assert batch.target.shape == (40, 4)
    assert torch.equal(batch.target[:20], batch.target[20:])
    mixture = Mixing(cutmix=1.0).draw(Draws(0, 0, toy.index), toy.index, 101, 12, 10)
    plain = toy.images.float() / 255
    few = Mixture(*(t[..., :20] for t in mixture))
    assert torch.equal(batch.images[20:], mix(plain[:20], plain[mixture.partner[:20]], few))


@pytest.mark.parametrize("channels_last", [True, False])
def test_mixed_batches(toy, channels_last):
    loader = ViewLoader(toy, 20, mixing=BOTH, smoothing=0.1, channels_last=channels_last)
    batches = list(loader)
    assert [len(batch.images) for batch in batches] == [20] * 5 + [1]
    wanted = torch.channels_last if channels_last else torch.contiguous_format
    for batch in batches:
        assert batch.images.is_contiguous(memory_format=wanted)
        assert batch.target.dtype == batch.images.dtype == torch.float32
        torch.testing.assert_close(batch.target.sum(1), torch.ones(len(batch.target)))
        assert batch.target.min() >= 0.1 / 4 - 1e-6
    assert torch.cat([batch.index for batch in batches]).tolist() == list(range(101))
    assert len(list(ViewLoader(toy, 20, mixing=BOTH, drop_last=True))) == 5
    assert list(ViewLoader(toy, 102, mixing=BOTH, drop_last=True)) == []


def test_a_set_of_one_is_its_own_partner(toy):
    alone = toy.subset(torch.tensor([4]))
    batch = next(iter(ViewLoader(alone, 1, mixing=BOTH)))
    torch.testing.assert_close(batch.images, alone.images.float() / 255)
    assert batch.target[0, int(alone.target)] == 1


def test_partners_come_from_the_set_that_is_shown(toy):
    """Not from the development split, whose images are not for training."""
    few = toy.subset(torch.tensor([90, 3, 50]))
    black = ImageSet(**{**vars(toy), "images": toy.images * 0})
    black.images[[90, 3, 50]] = 255
    loader = ViewLoader(black.subset(few.index), 2, mixing=BOTH)
    for epoch in range(5):
        loader.set_epoch(epoch)
        assert all((batch.images == 1).all() for batch in loader)


@pytest.mark.parametrize("smoothing", [0.1, 0.5])
def test_smoothed_labels_are_those_of_torch(toy, smoothing):
    batch = next(iter(ViewLoader(toy, 101, smoothing=smoothing)))
    logits = torch.randn(101, 4, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.cross_entropy(logits, toy.target, label_smoothing=smoothing)
    loss = -(batch.target * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(loss, expected)
    assert torch.equal(batch.label, toy.target)


def test_labels_of_mixed_targets():
    mixture = Mixture(
        torch.tensor([1, 0]), torch.zeros(4, 2), torch.tensor([0.7, 0.4]), torch.tensor([0.7, 0.4])
    )
    target = soft_targets(torch.tensor([[2, 0], [0, 2]]), 3, mixture)
    torch.testing.assert_close(target, torch.tensor([[0.3, 0, 0.7], [0.4, 0, 0.6]]))
    same = soft_targets(torch.tensor([[2, 0], [2, 0]]), 3, mixture)
    torch.testing.assert_close(same, torch.tensor([[0.0, 0, 1], [1, 0, 0]]))


def test_copies_of_samples(toy):
    loader = ViewLoader(toy, 12, augment=AUGMENT, copies=3, shuffle=True)
    assert len(loader) == len(ViewLoader(toy, 12))
    index = torch.cat([batch.index for batch in loader])
    assert torch.equal(index, loader.samples())
    assert len(index) == 101
    assert index.unique().numel() == 34
    assert torch.equal(index[:99].view(33, 3), index[:99:3, None].expand(33, 3))
    plain = ViewLoader(toy, 12, augment=AUGMENT, shuffle=True)
    assert torch.equal(index[::3], torch.cat([batch.index for batch in plain])[:34])
    views = torch.cat([batch.images for batch in loader])
    firsts = by_index(plain)
    for place in range(0, 99, 3):  # the first copy is the view that a sample always has
        assert torch.equal(views[place], firsts[int(index[place])][0])
    different = (views[0:99:3] != views[1:99:3]).flatten(1).any(1)
    assert different.float().mean() > 0.8
    loader.set_epoch(1)
    assert index.unique().tolist() != loader.samples().unique().tolist()


def test_copies_are_mixed_with_partners_of_their_own(toy):
    loader = ViewLoader(toy, 12, copies=3, mixing=Mixing(mixup=1.0), shuffle=True)
    images = torch.cat([batch.images for batch in loader])
    assert (images[0:99:3] != images[1:99:3]).flatten(1).any(1).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"copies": 0}, "copies must be 1 or more, not 0"),
        ({"smoothing": 1.0}, "smoothing must be from 0 to below 1, not 1.0"),
    ],
)
def test_impossible_loaders(toy, options, message):
    with pytest.raises(ValueError, match=message):
        ViewLoader(toy, 4, **options)


@pytest.fixture
def photos(tmp_path):
    random = np.random.default_rng(0)
    for number in range(24):
        path = tmp_path / "photos" / "abc"[number % 3] / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (*random.integers(40, 60, 2), 3)
        Image.fromarray(random.integers(0, 256, shape).astype(np.uint8)).save(path)

    def load(workers=0):
        folder = tmp_path / "photos"
        return load_image_set("folder", "train", path=folder, workers=workers, size=16, test=3)

    return load


def test_photographs_are_mixed_in_their_own_views(photos):
    options = {"seed": 5, "augment": [resized_crop(), flip()]}
    plain, mixed = (ViewLoader(photos(), 8, mixing=m, **options) for m in (None, BOTH))
    alone, together = by_index(plain), by_index(mixed)
    numbers = plain.image_set.index
    rows = torch.arange(len(numbers))
    mixture = BOTH.draw(Draws(5, 0, numbers), rows, len(numbers), 16, 16)
    for row in rows.tolist()[::4]:
        own, other = alone[int(numbers[row])][0], alone[int(numbers[mixture.partner[row]])][0]
        expected = slowly_mixed(own, other, mixture, row)
        torch.testing.assert_close(together[int(numbers[row])][0], expected)


def test_mixed_photographs_depend_neither_on_workers_nor_on_batches(photos):
    options = {"augment": [resized_crop(), flip()], "second": [resized_crop()], "mixing": BOTH}
    here = ViewLoader(photos(), 21, copies=2, shuffle=True, **options)
    there = ViewLoader(photos(2), 4, copies=2, shuffle=True, **options)
    for epoch in (0, 3):
        here.set_epoch(epoch)
        there.set_epoch(epoch)
        (whole,) = here
        parts = [[t.chunk(2)[k] for t in batch] for k in (0, 1) for batch in there]
        for one, others in zip(whole, zip(*parts, strict=True), strict=True):
            assert torch.equal(one, torch.cat(others))


MIXED = {"mix": {"mixup": 0.8, "cutmix": 1.0}, "smoothing": 0.1}


def test_a_run_with_mixed_samples_is_the_same_resumed(digits_recipe, tmp_path):
    def stop(line):
        if line.startswith("epoch 2/"):
            raise KeyboardInterrupt

    recipe = digits_recipe(data={**MIXED, "copies": 2}, mentors=[], method={"name": "none"})
    whole = train(recipe, tmp_path / "whole", progress=False)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "stopped", progress=False, say=stop)
    resumed = train(recipe, tmp_path / "stopped", progress=False, resume=True)
    assert resumed["last"] == whole["last"]


def lessons(recipe):
    classroom = build_classroom(recipe)
    classroom.begin_epoch(0)
    with torch.no_grad():
        return [training_step(classroom, batch) for batch in islice(classroom.train, 3)], classroom


def test_a_bank_serves_mixed_samples(digits_recipe, tmp_path):
    bank = {"path": str(tmp_path / "bank")}
    build_bank(digits_recipe(data=MIXED, bank=bank, train={"epochs": 1}), say=lambda _: None)
    stored, classroom = lessons(digits_recipe(data=MIXED, bank=bank))
    assert len(classroom.mentor_outputs.banked) == 2
    live, _ = lessons(digits_recipe(data=MIXED))
    for one, other in zip(stored, live, strict=True):
        assert one.loss.item() == pytest.approx(other.loss.item(), rel=1e-3)
        torch.testing.assert_close(one.mentor_score, other.mentor_score, rtol=1e-3, atol=1e-5)
    unsmoothed = {**MIXED, "smoothing": 0.0}  # images, and what is said about them, are the same
    assert len(lessons(digits_recipe(data=unsmoothed, bank=bank))[1].mentor_outputs.banked) == 2
    for other in ({}, {"mix": {"mixup": 0.8}}):
        with pytest.raises(ClassroomError, match=r"does not fit; mix"):
            build_classroom(digits_recipe(data=other, bank=bank))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_mixes_alike_and_never_waits(toy):
    options = {"augment": AUGMENT, "mixing": BOTH, "smoothing": 0.1, "copies": 2, "shuffle": True}
    expected = list(ViewLoader(toy, 16, **options))
    iterator = iter(ViewLoader(toy, 16, device="cuda", **options))
    batches = [next(iterator)]
    torch.cuda.set_sync_debug_mode("error")
    try:
        batches += iterator
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for batch, wanted in zip(batches, expected, strict=True):
        for tensor, there in zip(batch, wanted, strict=True):
            torch.testing.assert_close(tensor.cpu(), there, rtol=0, atol=1e-6)
