import base64
import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

from classroomkd.tasks.pose.belief import belief
from classroomkd.tasks.pose.figures import heatmaps, skeletons, who_taught
from classroomkd.tasks.pose.models.codec import HeatmapCodec, heatmap_codec, simcc_codec
from classroomkd.tasks.pose.models.grid import Grid

EDGES = ((0, 1), (1, 2))


def parsed(svg):
    """The picture as an element, after what every picture of a page must hold to."""
    assert svg.startswith("<svg role=")
    assert "<script" not in svg
    outside = [u for u in re.findall(r'href="([^"]*)"', svg) if not u.startswith(("#", "data:"))]
    assert outside == []
    root = ElementTree.fromstring(svg)
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert all(name.startswith("mine-") for name in ids)
    assert len(ids) == len(set(ids))
    return root


def photographs(svg):
    found = re.findall(r'href="data:image/png;base64,([^"]*)"', svg)
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in found]


def people(count, size=(32, 24)):
    random = torch.Generator().manual_seed(0)
    images = torch.rand(count, 3, *size, generator=random)
    points = torch.rand(count, 3, 2, generator=random) * torch.tensor([size[1] - 1, size[0] - 1])
    return images, points


def test_skeletons_show_the_photographs_and_both_skeletons():
    images, truth = people(5)
    svg = skeletons(
        images, truth + 2, truth, torch.ones(5, 3), EDGES, "mine", titles=["a", "b < c"]
    )
    root = parsed(svg)
    shown = photographs(svg)
    assert len(shown) == 5
    assert "true and predicted skeletons of 5 persons" in root.get("aria-label")
    texts = "".join(root.itertext())
    assert all(word in texts for word in ("true", "predicted", "b < c"))
    whole = np.asarray(shown[0].convert("RGB"))
    expected = (images[0] * 255).round().byte().permute(1, 2, 0).numpy()
    assert np.array_equal(whole, expected) or np.array_equal(whole[::-1], expected)
    assert (
        skeletons(images, truth + 2, truth, torch.ones(5, 3), EDGES, "mine", titles=["a", "b < c"])
        == svg
    )


def lines(svg, colour):
    return len(re.findall(rf"fill: none; [^\"]*stroke: var\(--line-{colour}\)", svg))


def test_unlabelled_joints_are_not_drawn_of_the_truth():
    images, truth = people(1)
    drawn = [
        lines(skeletons(images, truth, truth, torch.tensor([flags]), EDGES, "mine"), 5)
        for flags in ([1, 1, 1], [1, 2, 0], [1, 0, 1], [0, 0, 0])
    ]
    assert [more - drawn[-1] for more in drawn] == [2, 1, 0, 0]
    broken = truth.clone()
    broken[0, 0] = torch.nan
    parsed(skeletons(images, broken, truth, torch.ones(1, 3), EDGES, "mine"))


def test_large_photographs_are_shrunk():
    images, truth = people(1, (800, 400))
    (shown,) = photographs(skeletons(images, truth, truth, torch.ones(1, 3), EDGES, "mine"))
    assert shown.size == (96, 192)


def test_nobody_is_an_error():
    images, truth = people(0)
    with pytest.raises(ValueError, match="nobody"):
        skeletons(images, truth, truth, torch.ones(0, 3), EDGES, "mine")


def test_who_taught_says_every_share():
    share = torch.tensor([[0.123, 1.0, torch.nan], [0.0, 0.5, 0.25]])
    mentors, joints = ["$big$ <b> & _x_", "老师"], ["left_knee", "nose", "neck"]
    root = parsed(who_taught(share, mentors, joints, "mine"))
    texts = [text.strip() for text in root.itertext() if text.strip()]
    for expected in ("12", "100", "–", "0", "50", "25", *mentors, "left knee"):
        assert expected in texts
    with pytest.raises(ValueError, match=r"shares must be \(2, 2\)"):
        who_taught(share, mentors, joints[:2], "mine")


@pytest.mark.parametrize("size", [(64, 48), (96, 96)])
def test_beliefs_of_all_heads_are_at_one_place(size):
    height, width = size
    point = torch.tensor([[[0.3 * width, 0.7 * height]], [[1.0, 1.0]]])
    corner = HeatmapCodec(Grid.corner_to_corner(width, 12), Grid.corner_to_corner(height, 16))
    for codec in (heatmap_codec(size), simcc_codec(size), corner):
        seen = belief("s", codec.encode(point), codec, size)
        left, right, bottom, top = seen.edges(width, height)
        _, rows, columns = seen.maps.shape
        row, column = np.unravel_index(seen.maps[0].argmax(), (rows, columns))
        x = left + (column + 0.5) * (right - left) / columns
        y = top + (row + 0.5) * (bottom - top) / rows
        assert x == pytest.approx(0.3 * width, abs=codec.x.step / 2 + 1e-3)
        assert y == pytest.approx(0.7 * height, abs=codec.y.step / 2 + 1e-3)
        assert seen.maps.max() == pytest.approx(1)
        assert seen.maps.min() >= 0


def test_heatmaps_show_a_row_a_network():
    image = people(1)[0][0]
    points = torch.tensor([[[5.0, 20.0], [12.0, 3.0], [1.0, 1.0]]])
    beliefs = [
        belief(name, codec.encode(points), codec, (32, 24))
        for name, codec in (
            ("student", heatmap_codec((32, 24))),
            ("big & $x$", simcc_codec((32, 24))),
        )
    ]
    names = ["nose", "left_hip", "neck"]
    svg = heatmaps(image, beliefs, [0, 1], names, "mine", truth=points[0])
    root = parsed(svg)
    assert len(photographs(svg)) == 2 * 2 * 2  # the crop and the map, of each network and joint
    texts = [text.strip() for text in root.itertext() if text.strip()]
    assert sorted(texts) == ["big & $x$", "left hip", "nose", "student"]
    without = heatmaps(image, beliefs, [0, 1], names, "mine")
    hidden = heatmaps(
        image, beliefs, [0, 1], names, "mine", truth=points[0], visible=torch.zeros(3)
    )
    assert svg != without == hidden
    for nothing in ({"beliefs": [], "joints": [0]}, {"beliefs": beliefs, "joints": []}):
        with pytest.raises(ValueError, match="at least one"):
            heatmaps(image, names=names, prefix="mine", **nothing)
