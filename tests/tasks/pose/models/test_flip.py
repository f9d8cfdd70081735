"""The flip test is exact: it changes nothing for a network that treats both sides alike."""

import pytest
import torch

from classroomkd.tasks.pose.models import Grid, PoseNetwork, SimCCCodec, flip_test, heatmap_codec
from classroomkd.tasks.pose.models.flip import mirror
from tests.tasks.pose.models.codecs import CODECS

SIZE = (64, 96)
NAMES, PAIRS = ("left", "middle", "right"), ((0, 2),)


class Spots(PoseNetwork):
    """Encodes the three places that an image holds in its first row of pixels, from left to right.

    The image is nothing but the density of the places, so that a mirror image holds mirror places.
    """

    def predict(self, x):
        row = x[:, 0, 0] > 0.5
        assert (row.sum(-1) == 3).all()
        place = row.nonzero()[:, 1].view(-1, 3).float()
        points = torch.stack((place, torch.full_like(place, 30.3)), -1)
        return self.codec.encode(points)


def network(codec):
    return Spots(NAMES, PAIRS, SIZE, codec, (0, 0, 0), (1, 1, 1))


def images():
    pictures = torch.zeros(2, 3, *SIZE)
    pictures[0, :, 0, [5, 40, 71]] = 1
    pictures[1, :, 0, [20, 21, 90]] = 1
    return pictures


@pytest.mark.parametrize("kind", CODECS)
def test_a_symmetric_network_is_left_as_it_is(kind):
    net = network(CODECS[kind](SIZE))
    straight, flipped = net(images()), flip_test(net, images())
    for one, both in zip(straight, flipped, strict=True):
        inner = slice(0, -1 if kind == "rtmpose" else None)  # its last bin mirrors none
        torch.testing.assert_close(both[..., inner], one[..., inner], atol=1e-5, rtol=1e-5)
    points, _ = net.codec.decode(flipped)
    assert (points[0, :, 0] - torch.tensor([5.0, 40.0, 71.0])).abs().max() < 0.01
    assert (points[..., 1] - 30.3).abs().max() < 0.01


def test_reversed_bins_alone_would_be_off_by_one_for_rtmposes_rows():
    codec = CODECS["rtmpose"](SIZE)
    points = torch.tensor([[[30.0, 20.0]]])
    x, y = codec.encode(points)
    assert codec.decode((x.flip(-1), y))[0][0, 0, 0] == pytest.approx(95 - 30 + 0.5, abs=0.01)
    assert codec.decode(mirror((x, y), codec, 96, ()))[0][0, 0, 0] == pytest.approx(65, abs=0.01)


@pytest.mark.parametrize("kind", CODECS)
def test_twice_mirrored_is_as_it_was(kind):
    codec = CODECS[kind](SIZE)
    outputs = codec.encode(torch.tensor([[[30.0, 20.0], [41.2, 50.0], [60.6, 31.0]]]))
    once = mirror(outputs, codec, 96, PAIRS)
    assert codec.decode(once)[0][0, :, 0].tolist() == pytest.approx([34.4, 53.8, 65.0], abs=0.01)
    for back, block in zip(mirror(once, codec, 96, PAIRS), outputs, strict=True):
        torch.testing.assert_close(back, block, atol=1e-5, rtol=1e-5)


def test_bins_between_bins_are_shared():
    codec = SimCCCodec(Grid(96, 1.0, 0.125), Grid(64, 1.0, 0.0))
    rows = codec.encode(torch.tensor([[[30.0, 20.0]]]))
    found, _ = codec.decode(mirror(rows, codec, 96, ()))
    assert found[0, 0].tolist() == pytest.approx([65.0, 20.0], abs=0.02)


def test_pairs_are_swapped_and_others_are_not():
    codec = heatmap_codec((16, 16))
    heat = torch.rand(2, 3, 4, 4)
    (back,) = mirror((heat,), codec, 16, PAIRS)
    assert back[:, 0].equal(heat[:, 2].flip(-1))
    assert back[:, 1].equal(heat[:, 1].flip(-1))
    assert back[:, 2].equal(heat[:, 0].flip(-1))
