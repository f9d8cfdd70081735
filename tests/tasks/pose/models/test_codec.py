"""What a codec encodes it decodes, to a hundredth of a pixel, and never worse than sanely."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from classroomkd.tasks.pose.models import Grid, HeatmapCodec, SimCCCodec, heatmap_codec, simcc_codec
from classroomkd.tasks.pose.models.codec import codec_from_dict, codec_to_dict
from classroomkd.tasks.pose.models.peaks import map_peak, row_peak
from tests.tasks.pose.models.codecs import CODECS, SIZES, points_in


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("kind", CODECS)
def test_decodes_what_it_encoded(kind, size):
    codec, points = CODECS[kind](size), points_in(size)
    decoded, confidence = codec.decode(codec.encode(points))
    assert (decoded - points).abs().max() < 0.01
    assert confidence.shape == (1, 200)
    assert confidence.min() > 0.2
    assert confidence.max() <= 1


@pytest.mark.parametrize("kind", CODECS)
def test_target_is_a_probability_with_its_peak_at_the_point(kind):
    size = (96, 72)
    codec = CODECS[kind](size)
    points = points_in(size)
    for block, logits in zip(codec.target(points), codec.logits(codec.encode(points)), strict=True):
        torch.testing.assert_close(block.sum(-1), torch.ones(1, 200))
        torch.testing.assert_close(block, (logits - logits.logsumexp(-1, keepdim=True)).exp())
        assert block.ndim == 3


def test_shapes_of_outputs_and_logits():
    points = points_in((96, 72), 7)
    heat, rows = heatmap_codec((96, 72)), simcc_codec((96, 72))
    assert [tuple(b.shape) for b in heat.encode(points)] == [(1, 7, 24, 18)]
    assert [tuple(b.shape) for b in heat.logits(heat.encode(points))] == [(1, 7, 432)]
    assert [tuple(b.shape) for b in rows.encode(points)] == [(1, 7, 144), (1, 7, 192)]
    assert [tuple(b.shape) for b in rows.logits(rows.encode(points))] == [(1, 7, 144), (1, 7, 192)]


def test_heatmap_matches_the_formula():
    codec = heatmap_codec((16, 24), sigma=1.5)
    x, y = 9.3, 4.2
    (heat,) = codec.encode(torch.tensor([[[x, y]]]))
    for row in range(4):
        for column in range(6):
            d2 = ((4 * column + 1.5 - x) / 4) ** 2 + ((4 * row + 1.5 - y) / 4) ** 2
            expected = torch.tensor(-d2 / (2 * 1.5**2)).exp()
            torch.testing.assert_close(heat[0, 0, row, column], expected)


def test_simcc_has_a_width_for_each_axis():
    codec = SimCCCodec(Grid(40, 1.0, 0.0), Grid(40, 1.0, 0.0), sigma=(2.0, 4.0))
    x, y = codec.encode(torch.tensor([[[20.0, 20.0]]]))
    torch.testing.assert_close(x[0, 0, 22], torch.tensor(-0.5).exp())
    torch.testing.assert_close(y[0, 0, 24], torch.tensor(-0.5).exp())


def test_rtmposes_widths():
    assert simcc_codec((256, 192)).sigma == pytest.approx((4.9, 5.66), abs=0.01)


@pytest.mark.parametrize("kind", CODECS)
def test_points_outside_and_no_numbers_stay_at_the_border(kind):
    size = (64, 48)
    codec = CODECS[kind](size)
    far = torch.tensor([[[-500.0, 20.0], [20.0, 1e6], [float("nan"), 3.0], [float("inf"), 5.0]]])
    for block in codec.target(far):
        assert block.isfinite().all()
    points, confidence = codec.decode(codec.encode(far))
    assert points.isfinite().all()
    assert confidence.isfinite().all()
    assert points[0, 0, 0] < 0
    assert points[0, 1, 1] > 62
    assert points[0, 0, 1] == pytest.approx(20, abs=0.01)
    assert points[0, 1, 0] == pytest.approx(20, abs=0.01)
    step = max(codec.x.step, codec.y.step) + 1e-4
    assert (points > -0.5 - step).all()
    assert (points <= torch.tensor([47.5, 63.5]) + step).all()


@given(
    seed=st.integers(0, 10**6),
    scale=st.sampled_from([1e-6, 1.0, 1e4]),
    shift=st.sampled_from([-2.0, 0.0, 2.0]),
    kind=st.sampled_from(list(CODECS)),
)
@settings(max_examples=40, deadline=None)
def test_any_outputs_decode_to_within_a_bin_of_the_largest(seed, scale, shift, kind):
    codec = CODECS[kind]((32, 24))
    generator = torch.Generator().manual_seed(seed)
    shapes = [block.shape for block in codec.encode(torch.zeros(2, 3, 2))]
    outputs = tuple(scale * (torch.randn(s, generator=generator) + shift) for s in shapes)
    points, confidence = codec.decode(outputs)
    assert points.isfinite().all()
    assert ((confidence >= 0) & (confidence <= 1)).all()
    if isinstance(codec, HeatmapCodec):
        top = outputs[0].flatten(-2).argmax(-1)
        x, y = top % codec.x.bins, top // codec.x.bins
    else:
        x, y = (block.argmax(-1) for block in outputs)
    assert (codec.x.to_bins(points[..., 0]) - x).abs().max() <= 1 + 1e-4
    assert (codec.y.to_bins(points[..., 1]) - y).abs().max() <= 1 + 1e-4


@pytest.mark.parametrize("kind", CODECS)
@pytest.mark.parametrize("value", [0.0, -3.0, 0.7, float("nan"), float("inf"), float("-inf")])
def test_flat_maps_decode(kind, value):
    codec = CODECS[kind]((32, 24))
    outputs = tuple(torch.full_like(b, value) for b in codec.encode(torch.zeros(1, 2, 2)))
    points, confidence = codec.decode(outputs)
    assert points.isfinite().all()
    assert ((confidence >= 0) & (confidence <= 1)).all()


def test_half_precision_decodes_in_float32():
    codec, points = heatmap_codec((64, 48)), points_in((64, 48))
    decoded, confidence = codec.decode(tuple(b.bfloat16() for b in codec.encode(points)))
    assert decoded.dtype == confidence.dtype == torch.float32
    assert (decoded - points).abs().max() < 1.0


def test_decoding_is_detached():
    codec = heatmap_codec((32, 32))
    (heat,) = codec.encode(torch.rand(1, 2, 2))
    points, confidence = codec.decode((heat.requires_grad_(),))
    assert not points.requires_grad
    assert not confidence.requires_grad


def test_duplicates_do_not_disturb_each_other():
    codec = heatmap_codec((64, 64))
    points = torch.tensor([[[20.25, 30.75]]]).expand(1, 5, 2)
    decoded, _ = codec.decode(codec.encode(points))
    torch.testing.assert_close(decoded, points, atol=1e-3, rtol=0)


def test_without_a_summit_a_quarter_bin_towards_the_larger_neighbour():
    assert row_peak(torch.tensor([-3.0, -1.0, -2.0]))[0] == 1.25  # no logarithms
    place, peak = map_peak(torch.tensor([[-4.0, -2.0, -4.0], [-3.0, -1.0, -2.0], [-4.0] * 3]))
    assert place.tolist() == [1.25, 0.75]
    assert peak == -1
    saddle = torch.tensor([[0.99, 0.90, 0.01], [0.80, 1.00, 0.90], [0.01, 0.95, 0.99]])
    assert map_peak(saddle)[0].tolist() == [1.25, 1.25]
    border = torch.tensor([[0.5, 0.5, 0.6], [0.9, 0.5, 0.5], [0.5, 0.5, 0.5]])
    assert map_peak(border, log=True)[0].tolist() == [0.0, 1.0]  # x has no neighbour beyond it


def test_the_confidence_of_logits_is_the_mass_around_the_peak():
    codec = HeatmapCodec(Grid.over(20, 5), Grid.over(20, 5), beta=1.0, log=True)
    logits = torch.zeros(1, 1, 5, 5)
    _, confidence = codec.decode((logits,))
    assert confidence.item() == pytest.approx(4 / 25)  # a corner's own, and its three neighbours
    logits[0, 0, 2, 2] = 50.0
    assert codec.decode((logits,))[1].item() == pytest.approx(1)


@pytest.mark.parametrize("kind", CODECS)
def test_codecs_pass_through_json(kind):
    codec = CODECS[kind]((96, 72))
    assert codec_from_dict(json.loads(json.dumps(codec_to_dict(codec)))) == codec


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Grid(0, 1.0, 0.0),
        lambda: Grid(4, 0.0, 0.0),
        lambda: Grid.corner_to_corner(64, 1),
        lambda: heatmap_codec((8, 8)),
        lambda: heatmap_codec((64, 64), sigma=0.0),
        lambda: heatmap_codec((64, 64), beta=-1.0),
        lambda: simcc_codec((64, 64), sigma=(1.0, -1.0)),
        lambda: codec_from_dict({"kind": "offsets"}),
    ],
)
def test_codecs_that_cannot_be(wrong):
    with pytest.raises(ValueError, match=r"positive|bins|unknown kind"):
        wrong()


def test_resizing_an_input_resizes_its_grid():
    """The bins of 64 pixels, seen in 256, are those of 256 pixels (x -> (x + .5) * 4 - .5)."""
    small, large = Grid.over(64, 16), Grid.over(256, 16)
    torch.testing.assert_close((small.places() + 0.5) * 4 - 0.5, large.places())
