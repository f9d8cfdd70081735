"""A mentor's opinion says the same in other bins."""

import itertools

import pytest
import torch

from classroomkd.tasks.pose.models import (
    Grid,
    HeatmapCodec,
    SimCCCodec,
    heatmap_codec,
    simcc_codec,
    to_codec,
)
from classroomkd.tasks.pose.models.transfer import interpolation, shares
from tests.tasks.pose.models.codecs import CODECS, points_in

CPU = torch.device("cpu")
KINDS = ("heatmap", "udp", "simcc", "rtmpose")
SIZES = [
    ((256, 192), (256, 192)),
    ((256, 192), (96, 72)),
    ((96, 72), (256, 192)),
    ((256, 192), (64, 96)),
    ((64, 64), (72, 56)),
]


def at(size, shares):
    return shares * torch.tensor([size[1], size[0]]) - 0.5


def places(logits, codec):
    """The mean place of what is not background, in pixels of the codec's input."""
    if isinstance(codec, HeatmapCodec):
        share = logits[0].softmax(-1).unflatten(-1, (codec.y.bins, codec.x.bins))
        share = share * (share > 0.02 * share.amax((-2, -1), keepdim=True))
        rows = share.sum(-2), share.sum(-1)
    else:
        rows = [block.softmax(-1) for block in logits]
        rows = [row * (row > 0.02 * row.amax(-1, keepdim=True)) for row in rows]
    grids = codec.x, codec.y
    return torch.stack(
        [(r * g.places()).sum(-1) / r.sum(-1) for r, g in zip(rows, grids, strict=True)], -1
    )


def shape(codec):
    if isinstance(codec, HeatmapCodec):
        return [(1, 100, codec.x.bins * codec.y.bins)]
    return [(1, 100, codec.x.bins), (1, 100, codec.y.bins)]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize(("mentor", "student"), list(itertools.product(KINDS, KINDS)))
def test_places_survive_any_change_of_head_and_grid(mentor, student, sizes):
    inside = torch.rand(1, 100, 2, generator=torch.Generator().manual_seed(1)) * 0.7 + 0.15
    mentor_codec, student_codec = CODECS[mentor](sizes[0]), CODECS[student](sizes[1])
    outputs = mentor_codec.encode(at(sizes[0], inside))
    logits = to_codec(outputs, mentor_codec, sizes[0], student_codec, sizes[1])
    assert [tuple(block.shape) for block in logits] == shape(student_codec)
    off = (places(logits, student_codec) - at(sizes[1], inside)).abs()
    coarse = max(student_codec.x.step, student_codec.y.step)
    assert off.mean() < 0.02 * coarse + 0.02
    assert off.max() < 0.05 * coarse + 0.1


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize(("mentor", "student"), list(itertools.product(KINDS, KINDS)))
def test_mass_survives_any_change_of_head_and_grid(mentor, student, sizes):
    """Two peaks of unequal mass keep their masses, background and all."""
    mentor_codec, student_codec = CODECS[mentor](sizes[0]), CODECS[student](sizes[1])
    peaks = torch.tensor([[[0.25, 0.25]], [[0.75, 0.25]]])
    first, second = (mentor_codec.encode(at(sizes[0], peak.unsqueeze(0))) for peak in peaks)
    outputs = tuple(torch.maximum(a, 0.93 * b) for a, b in zip(first, second, strict=True))
    before = left_half(mentor_codec.logits(outputs), mentor_codec, sizes[0])
    after = left_half(
        to_codec(outputs, mentor_codec, sizes[0], student_codec, sizes[1]), student_codec, sizes[1]
    )
    assert 0.55 < before < 0.75
    assert after == pytest.approx(before, abs=0.02)


def left_half(logits, codec, size):
    if isinstance(codec, HeatmapCodec):
        row = logits[0].softmax(-1).unflatten(-1, (codec.y.bins, codec.x.bins)).sum(-2)
    else:
        row = logits[0].softmax(-1)
    torch.testing.assert_close(row.sum(-1), torch.ones(1, 1))
    left = (size[1] / 2 - 0.5 - codec.x.places()) / codec.x.step + 0.5  # share of each bin
    return (row * left.clamp(0, 1)).sum().item()


@pytest.mark.parametrize(
    ("mentor", "student"), [("udp", "heatmap"), ("heatmap", "udp"), ("rtmpose", "simcc")]
)
def test_another_grid_alone_gives_nearly_the_students_target(mentor, student):
    size = (256, 192)
    points = at(
        size, torch.rand(1, 100, 2, generator=torch.Generator().manual_seed(2)) * 0.9 + 0.05
    )
    student_codec = CODECS[student](size)
    mentor_codec = CODECS[mentor](size)
    if isinstance(student_codec, SimCCCodec):
        mentor_codec = SimCCCodec(mentor_codec.x, mentor_codec.y, student_codec.sigma)
    logits = to_codec(mentor_codec.encode(points), mentor_codec, size, student_codec, size)
    for target, block in zip(student_codec.target(points), logits, strict=True):
        divergence = (target * (target.log() - block.log_softmax(-1))).sum(-1)
        assert divergence.max() < 0.005


def test_another_resolution_gives_nearly_the_students_target_where_widths_agree():
    mentor, student = heatmap_codec((256, 192), sigma=4.0), heatmap_codec((128, 96), sigma=2.0)
    shares_ = torch.rand(1, 100, 2, generator=torch.Generator().manual_seed(3)) * 0.9 + 0.05
    logits = to_codec(
        mentor.encode(at((256, 192), shares_)), mentor, (256, 192), student, (128, 96)
    )
    target = student.target(at((128, 96), shares_))[0]
    divergence = (target * (target.log() - logits[0])).sum(-1)
    assert divergence.max() < 0.1


def test_heads_and_widths_that_agree_give_nearly_the_students_target():
    """SimCC's product is a heatmap but for its background."""
    size = (64, 48)
    rows = SimCCCodec(Grid.over(48, 12), Grid.over(64, 16), sigma=(2.0, 2.0), beta=30.0)
    heat = HeatmapCodec(Grid.over(48, 12), Grid.over(64, 16), sigma=2.0, beta=30.0)
    points = at(size, torch.rand(1, 50, 2, generator=torch.Generator().manual_seed(4)) * 0.8 + 0.1)
    (there,) = to_codec(rows.encode(points), rows, size, heat, size)
    back = to_codec(heat.encode(points), heat, size, rows, size)
    (target,) = heat.target(points)
    assert (target - there.softmax(-1)).abs().max() < 0.05
    for block, target in zip(back, rows.target(points), strict=True):
        assert (target - block.softmax(-1)).abs().max() < 0.05


@pytest.mark.parametrize("kind", ["heatmap", "udp", "simcc", "logits"])
def test_the_same_bins_are_passed_as_they_are(kind):
    mentor = CODECS[kind]((256, 192))
    outputs = mentor.encode(points_in((256, 192), 5))
    same = to_codec(outputs, mentor, (256, 192), mentor, (256, 192))
    for block, logits in zip(same, mentor.logits(outputs), strict=True):
        assert block.equal(logits)


def test_the_same_bins_of_an_input_of_another_size_are_passed_as_they_are():
    mentor, student = heatmap_codec((256, 192), stride=8), heatmap_codec((128, 96), stride=4)
    outputs = mentor.encode(points_in((256, 192), 5))
    (logits,) = to_codec(outputs, mentor, (256, 192), student, (128, 96))
    assert logits.equal(mentor.logits(outputs)[0])


def test_x_and_y_are_not_confused():
    points = torch.tensor([[[150.0, 40.0]]])  # of 256 x 192
    mentor = heatmap_codec((256, 192))
    x, y = to_codec(mentor.encode(points), mentor, (256, 192), simcc_codec((64, 96)), (64, 96))
    assert (x.shape[-1], y.shape[-1]) == (192, 128)
    assert x.argmax() / 2 == pytest.approx(75, abs=1)
    assert y.argmax() / 2 == pytest.approx(10, abs=1)


def test_marginals_and_products_match_their_definition():
    rows = SimCCCodec(Grid.over(20, 5), Grid.over(16, 4), sigma=(1.0, 1.0))
    heat = HeatmapCodec(Grid.over(20, 5), Grid.over(16, 4))
    generator = torch.Generator().manual_seed(5)
    outputs = (torch.rand(2, 3, 4, 5, generator=generator),)
    share = heat.logits(outputs)[0].softmax(-1).view(2, 3, 4, 5)
    x, y = to_codec(outputs, heat, (16, 20), rows, (16, 20))
    torch.testing.assert_close(x.softmax(-1), share.sum(-2))
    torch.testing.assert_close(y.softmax(-1), share.sum(-1))
    outputs = torch.rand(2, 3, 5, generator=generator), torch.rand(2, 3, 4, generator=generator)
    (joint,) = to_codec(outputs, rows, (16, 20), heat, (16, 20))
    x, y = (block.softmax(-1) for block in rows.logits(outputs))
    expected = y.unsqueeze(-1) * x.unsqueeze(-2)
    torch.testing.assert_close(joint.softmax(-1).view(2, 3, 4, 5), expected)


@pytest.mark.parametrize(("old", "new"), list(itertools.product([3, 7, 16, 48], [3, 5, 16, 64])))
def test_weights_sum_to_one(old, new):
    old_grid, new_grid = Grid.over(100, old).within(100), Grid.over(60, new).within(60)
    weights = interpolation(old_grid, new_grid, CPU)
    torch.testing.assert_close(weights.sum(1), torch.ones(len(weights)))
    columns = shares(new_grid, len(weights), CPU)
    torch.testing.assert_close(columns.sum(0), torch.ones(len(weights)))


def test_cubic_curves_are_exact_for_parabolas():
    old, new = Grid.over(60, 20).within(60), Grid.over(60, 33).within(60)
    values = old.places() ** 2 - old.places()
    inside = interpolation(old, new, CPU)[3:-3] @ values
    torch.testing.assert_close(inside, (new.places() ** 2 - new.places())[3:-3])


def test_gradients_reach_the_mentor_and_weights_made_in_inference_mode_serve_training():
    mentor, student = heatmap_codec((44, 52)), heatmap_codec((36, 28))
    heat = torch.rand(1, 2, 11, 13)
    with torch.inference_mode():
        to_codec((heat,), mentor, (44, 52), student, (36, 28))
    (logits,) = to_codec((heat.requires_grad_(),), mentor, (44, 52), student, (36, 28))
    logits.square().sum().backward()
    assert heat.grad is not None
    assert heat.grad.abs().sum() > 0


def test_extreme_logits_stay_finite():
    mentor, student = CODECS["logits"]((64, 64)), simcc_codec((96, 96))
    logits = torch.full((1, 1, 56, 56), -200.0)
    logits[0, 0, 10, 20] = 200.0
    for target in (student, heatmap_codec((96, 96))):
        for block in to_codec((logits,), mentor, (64, 64), target, (96, 96)):
            assert block.isfinite().all()
            torch.testing.assert_close(block.softmax(-1).sum(-1), torch.ones(1, 1))


def test_precision_does_not_suffer_under_autocast():
    mentor, student = CODECS["udp"]((64, 64)), heatmap_codec((64, 64))
    outputs = mentor.encode(points_in((64, 64), 20))
    plain = to_codec(outputs, mentor, (64, 64), student, (64, 64))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = to_codec(outputs, mentor, (64, 64), student, (64, 64))
    assert cast[0].dtype == torch.float32
    torch.testing.assert_close(cast[0], plain[0])
