"""Strong views against torchvision's functions, one image at a time; pure whatever the batch."""

import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional

from classroomkd.data import Draws, create_view, cutout, erase, jitter, make_view, randaugment
from classroomkd.data.colour import blend, contrast_mean, grey, shift_hue, smooth
from classroomkd.data.strong import OPERATIONS, apply
from tests.data.test_views import images_of

VIEWS = [
    randaugment(),
    randaugment(3, 25),
    jitter(),
    jitter(2.0, 1.5, 1.2, 0.5),
    erase(1.0),
    cutout(),
]
IMAGES = images_of(40, 12, 9)


def draws_of(count, epoch=0, seed=0):
    return Draws(seed, epoch, torch.arange(count))


def torchvisions(name, image, sign, magnitude):
    """The operation as torchvision's RandAugment does it."""
    share = magnitude / 30
    amount, (height, width) = sign * share, image.shape[-2:]
    angle = math.degrees(math.atan(0.3 * amount))
    shift = [int(150 / 331 * size * amount) for size in (width, height)]

    def affine(**options):
        usual = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
        return functional.affine(image, **(usual | options))

    return {
        "identity": lambda: image,
        "shear_x": lambda: affine(shear=[angle, 0.0], center=[0, 0]),
        "shear_y": lambda: affine(shear=[0.0, angle], center=[0, 0]),
        "translate_x": lambda: affine(translate=[shift[0], 0]),
        "translate_y": lambda: affine(translate=[0, shift[1]]),
        "rotate": lambda: functional.rotate(image, 30 * amount),
        "brightness": lambda: functional.adjust_brightness(image, 1 + 0.9 * amount),
        "colour": lambda: functional.adjust_saturation(image, 1 + 0.9 * amount),
        "contrast": lambda: functional.adjust_contrast(image, 1 + 0.9 * amount),
        "sharpness": lambda: functional.adjust_sharpness(image, 1 + 0.9 * amount),
        "posterize": lambda: functional.posterize(image, round(8 - magnitude / 7.5)),
        "solarize": lambda: functional.solarize(image, 255 * (1 - share)),
        "autocontrast": lambda: functional.autocontrast(image),
        "equalize": lambda: functional.equalize(image),
    }[name]()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(32, 32), (24, 33)])
@pytest.mark.parametrize("magnitude", [0, 9, 17])
def test_operations_are_torchvisions(magnitude, size, memory_format):
    """A batch of all operations in both directions; a level may be off by one after a blend."""
    count = len(OPERATIONS)
    chosen = torch.arange(count).repeat(2)
    sign = torch.tensor([1.0, -1.0]).repeat_interleave(count)
    images = images_of(2 * count, *size).contiguous(memory_format=memory_format)
    before = images.clone()
    out = apply(images, chosen, sign, magnitude)
    assert out.dtype == torch.uint8
    assert torch.equal(images, before)
    for row, image in enumerate(images):
        name = OPERATIONS[chosen[row]]
        expected = torchvisions(name, image, sign[row].item(), magnitude)
        gap = (out[row].int() - expected.int()).abs()
        if name in ("brightness", "colour", "contrast", "sharpness"):
            assert gap.max() <= 1, name
        elif "shear" in name or name == "rotate":  # a pixel half-way may come from either side
            assert (gap > 0).float().mean() < 0.02, name
        else:
            assert gap.max() == 0, name
        if magnitude and name not in ("identity", "autocontrast"):
            assert not torch.equal(out[row], image), name


def test_all_operations_are_drawn_equally_often_in_both_directions():
    """Told apart by what they do to one image."""
    image = images_of(1, 16, 16)
    kinds = {
        (name, sign): apply(image, torch.tensor([k]), torch.tensor([sign]), 9)
        for k, name in enumerate(OPERATIONS)
        for sign in (1.0, -1.0)
    }
    count = 2800
    out = randaugment(1, 9)(image.expand(count, -1, -1, -1), draws_of(count))
    for (name, _), kind in kinds.items():
        same = sum(torch.equal(kind, other) for other in kinds.values())
        hits = (out == kind).all(3).all(2).all(1).sum().item()
        assert hits == pytest.approx(100 * same, abs=5 * 10 * math.sqrt(same)), name


def test_randaugment_applies_its_operations_in_turn():
    draws = draws_of(40)
    chosen = draws.integers("randaugment", 0, len(OPERATIONS), n=3)
    sign = torch.where(draws.uniform("randaugment sign", n=3) < 0.5, -1.0, 1.0)
    expected = IMAGES
    for k in range(3):
        expected = apply(expected, chosen[:, k], sign[:, k], 9)
    assert torch.equal(randaugment(3)(IMAGES, draws), expected)


@pytest.mark.parametrize("view", VIEWS)
@given(rows=st.lists(st.integers(0, 39), min_size=1, max_size=12))
@settings(max_examples=8, deadline=None)
def test_pure_whatever_the_batch(view, rows):
    options = {"seed": 1, "epoch": 2, "augment": [view]}
    whole = make_view(IMAGES, torch.arange(40), **options)
    some = make_view(IMAGES[rows], torch.tensor(rows), **options)
    torch.testing.assert_close(some, whole[rows], atol=1.01 / 255, rtol=0)
    assert (some != whole[rows]).float().mean() < 1e-3


@pytest.mark.parametrize("view", VIEWS)
def test_what_views_keep(view):
    before = IMAGES.clone()
    out = view(IMAGES, draws_of(40))
    assert (out.dtype, out.shape) == (torch.uint8, IMAGES.shape)
    assert torch.equal(IMAGES, before)
    assert not torch.equal(out, IMAGES)
    last = view(IMAGES.contiguous(memory_format=torch.channels_last), draws_of(40))
    assert (last.int() - out.int()).abs().max() <= 1
    other = view(IMAGES, draws_of(40, epoch=1))
    assert not torch.equal(out, other)
    assert torch.equal(pickle.loads(pickle.dumps(view))(IMAGES, draws_of(40)), out)


@pytest.mark.parametrize("view", VIEWS)
def test_float_images_go_the_same_way(view):
    out = view(IMAGES.float() / 255, draws_of(40))
    assert out.dtype == torch.float32
    assert out.min() >= 0
    assert out.max() <= 1
    expected = view(IMAGES, draws_of(40)).float() / 255
    torch.testing.assert_close(out, expected, atol=0.51 / 255, rtol=0)


@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0, 1.8])
@pytest.mark.parametrize(
    ("theirs", "others"),
    [
        (functional.adjust_brightness, torch.zeros_like),
        (functional.adjust_contrast, lambda x: contrast_mean(grey(x))),
        (functional.adjust_saturation, grey),
        (functional.adjust_sharpness, smooth),
    ],
)
def test_blends_are_torchvisions(theirs, others, factor):
    pixels = IMAGES.float() / 255
    ours = blend(pixels, others(pixels), torch.full((40,), factor), 1)
    torch.testing.assert_close(ours, theirs(pixels, factor), atol=1e-6, rtol=0)


@pytest.mark.parametrize("turn", [-0.5, -0.1, 0.0, 0.25, 0.5])
def test_hue_is_torchvisions(turn):
    pixels = torch.cat([IMAGES.float() / 255, torch.ones(1, 3, 12, 9), torch.zeros(1, 3, 12, 9)])
    ours = shift_hue(pixels, torch.full((42,), turn))
    torch.testing.assert_close(ours, functional.adjust_hue(pixels, turn), atol=1e-5, rtol=0)


def test_jitter_is_torchvisions():
    drawn = draws_of(40).uniform("jitter", n=4)
    ours = jitter(0.4, 1.5, 0.2, 0.1)(IMAGES.float() / 255, draws_of(40))
    for row in range(40):
        b, c, s, h = drawn[row].tolist()
        image = functional.adjust_brightness(IMAGES[row].float() / 255, 0.6 + 0.8 * b)
        image = functional.adjust_contrast(image, 2.5 * c)
        image = functional.adjust_saturation(image, 0.8 + 0.4 * s)
        image = functional.adjust_hue(image, 0.2 * h - 0.1)
        torch.testing.assert_close(ours[row], image, atol=1e-5, rtol=0)


def test_jitter_of_nothing_leaves_images_as_they_are():
    assert torch.equal(jitter(0, 0, 0, 0)(IMAGES, draws_of(40)), IMAGES)


def rectangles(count, size=(20, 30), **options):
    """What is erased of white images: ``[B, H, W]``, and the height and width of each."""
    white = torch.full((count, 3, *size), 255, dtype=torch.uint8)
    gone = erase(**options)(white, draws_of(count)) == 0
    assert (gone.all(1) == gone.any(1)).all()  # all channels
    gone = gone[:, 0]
    heights, widths = gone.any(2).sum(1), gone.any(1).sum(1)
    assert torch.equal(gone.sum((1, 2)), heights * widths)  # one full rectangle
    return gone, heights, widths


def test_erased_rectangles():
    gone, heights, widths = rectangles(4000, p=1.0, scale=(0.1, 0.2), ratio=(0.5, 2.0))
    area = (heights * widths).double() / 600
    assert 0.08 < area.min() < 0.11
    assert 0.19 < area.max() < 0.22
    assert area.mean() == pytest.approx(0.15, abs=0.005)
    ratio = (heights / widths).log()
    assert ratio.abs().max() < math.log(2) + 0.25
    assert ratio.mean().abs() < 0.05
    # Everywhere, and as often on the left as on the right, above as below.
    share = gone.double().mean(0)
    assert share.min() > 0
    assert (share - share.flip(0)).abs().max() < 0.05
    assert (share - share.flip(1)).abs().max() < 0.05


def test_erased_as_often_as_asked():
    for p in (0.0, 0.3, 1.0):
        _, heights, _ = rectangles(2000, p=p)
        assert (heights > 0).double().mean().item() == pytest.approx(p, abs=0.05)


def test_a_rectangle_that_never_fits_erases_nothing():
    gone, _, _ = rectangles(50, p=1.0, scale=(0.9, 0.9), ratio=(3.0, 3.0))
    assert not gone.any()


def test_one_of_ten_rectangles_fits():
    """Half of all shapes are too tall for the image; another is drawn for them."""
    _, heights, _ = rectangles(1000, size=(16, 16), p=1.0, scale=(0.5, 0.5), ratio=(1.0, 4.0))
    assert (heights > 0).double().mean() > 0.99


def test_cutout_covers_a_square():
    white = torch.full((3000, 3, 40, 40), 255, dtype=torch.uint8)
    covered = cutout(0.5)(white, draws_of(3000))
    mask = (covered == torch.tensor([125, 123, 114]).view(3, 1, 1)).all(1)
    assert torch.equal(covered, torch.where(mask[:, None], covered, white))
    heights, widths = mask.any(2).sum(1), mask.any(1).sum(1)
    assert torch.equal(mask.sum((1, 2)), heights * widths)
    draws = draws_of(3000)
    side = 20 * draws.uniform("cutout side")[:, 0]
    middle = 40 * draws.uniform("cutout place", n=2)
    whole = ((middle > side[:, None] / 2) & (middle < 40 - side[:, None] / 2)).all(1)
    assert whole.double().mean() > 0.5
    for lengths in (heights, widths):
        assert ((lengths - side)[whole].abs() < 2).all()
        assert (lengths < side + 2).all()
    rows = torch.arange(40) + 0.5
    found = (mask.any(2) * rows).sum(1) / heights.clamp_min(1)
    assert ((found - middle[:, 0])[whole & (side > 0)].abs() < 1).all()
    share = mask.double().mean(0)
    assert share.min() > 0
    assert (share - share.flip(0)).abs().max() < 0.05
    assert (share - share.flip(1)).abs().max() < 0.05


def test_cutout_of_float_images():
    images = IMAGES.float() / 255
    ours = cutout(1.0, fill=[255, 0, 51])(images, draws_of(40))
    levels = cutout(1.0, fill=[255, 0, 51])(IMAGES, draws_of(40))
    torch.testing.assert_close(ours, levels.float() / 255)
    assert torch.equal(cutout(0.0)(IMAGES, draws_of(40)), IMAGES)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cutout", {"most": 1.5}, "most must be a number from 0 to 1, not 1.5"),
        ("cutout", {"fill": [1, 2]}, "fill must be three numbers"),
        ("cutout", {"fill": [1, 2, 300]}, "fill must be a whole number from 0 to 255, not 300"),
        ("randaugment", {"num_ops": 0}, "num_ops must be a whole number from 1 to 100, not 0"),
        ("randaugment", {"magnitude": 31}, "magnitude must be a whole number from 0 to 30, not 31"),
        ("randaugment", {"magnitude": 1.5}, "magnitude must be a whole number"),
        ("randaugment", {"num_ops": True}, "num_ops must be a whole number"),
        ("jitter", {"hue": 0.6}, "hue must be a number from 0 to 0.5, not 0.6"),
        ("jitter", {"contrast": -1}, "contrast must be a number from 0"),
        ("jitter", {"brightness": "much"}, "brightness must be a number .* not 'much'"),
        ("erase", {"p": 2}, "p must be a number from 0 to 1, not 2"),
        ("erase", {"scale": 0.5}, "scale must be two numbers, the least and the most, not 0.5"),
        ("erase", {"scale": [0.5, 0.2]}, "scale must be the least before the most"),
        ("erase", {"ratio": [0, 1]}, "ratio must be a number from 0.001 to 1000, not 0"),
    ],
)
def test_mistakes(name, options, message):
    with pytest.raises(ValueError, match=message):
        create_view(name, **options)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("view", VIEWS)
def test_gpu_shows_the_same_and_never_waits(view):
    expected = view(IMAGES, draws_of(40))
    images, draws = IMAGES.cuda(), Draws(0, 0, torch.arange(40).cuda())
    view(images, draws)
    torch.cuda.set_sync_debug_mode("error")
    try:
        out = view(images, draws)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert ((out.cpu().int() - expected.int()).abs() > 1).float().mean() < 0.01


@pytest.mark.parametrize("size", [32, 224])
def test_jitter_depends_neither_on_the_batch_nor_on_the_threads(size):
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (12, 3, size, size), dtype=torch.uint8, generator=random)
    index, views = torch.arange(12), [jitter()]
    together = make_view(images, index, seed=0, epoch=3, augment=views)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            for rows in index.split(1):
                alone = make_view(images[rows], rows, seed=0, epoch=3, augment=views)
                assert torch.equal(alone[0], together[rows[0]])
    finally:
        torch.set_num_threads(threads)


def test_the_mean_for_the_contrast_is_exact():
    values = torch.rand(2, 1, 97, 101) * 255
    assert torch.equal(contrast_mean(values), values.double().mean((2, 3), keepdim=True).float())
    shuffled = values.flatten(2)[..., torch.randperm(97 * 101)].view_as(values)
    assert torch.equal(contrast_mean(shuffled), contrast_mean(values))
