import pytest
import torch

from classroomkd.data import Draws
from classroomkd.tasks.pose.data import PoseViews, fit_box, joint_set, make_frames, mirror_joints

COCO = joint_set("coco")
COUNT = 4000
NONE = {"flip": 0, "scale": (1, 1), "rotation": 0, "shift": 0, "half_body": 0}


def look(views, index=None, points=None, visible=None, size=(64, 48)):
    index = torch.arange(COUNT) if index is None else index
    box = torch.tensor([10.0, 20.0, 40.0, 60.0]).expand(len(index), 4)
    points = torch.zeros(len(index), 17, 2) if points is None else points.expand(len(index), 17, 2)
    if visible is None:
        visible = torch.full((len(index), 17), 2)
    draws = Draws(0, 0, index)
    return views.frames(draws, box, points, visible.expand(len(index), 17), COCO, size)


CENTRE, SCALE = (part[0] for part in fit_box(torch.tensor([[10.0, 20.0, 40.0, 60.0]]), (64, 48)))


def test_without_options_a_view_is_the_plain_one():
    frames, mirrored = look(PoseViews(**NONE))
    plain = make_frames(CENTRE.expand(COUNT, 2), SCALE.expand(COUNT), (64, 48))
    assert torch.equal(frames.matrix, plain.matrix)
    assert torch.equal(frames.centre, plain.centre)
    assert not mirrored.any()


def test_ranges():
    frames, mirrored = look(PoseViews(half_body=0))
    assert abs(mirrored.float().mean() - 0.5) < 0.05
    assert torch.equal(torch.linalg.det(frames.matrix) < 0, mirrored)
    share = frames.scale / SCALE
    assert 0.65 <= share.min() < 0.66
    assert 1.34 < share.max() < 1.35
    down = frames.matrix[:, :, 1] / frames.scale[:, None]
    angle = torch.rad2deg(torch.atan2(down[:, 0], down[:, 1]))
    assert 39 < angle.abs().max() <= 40
    assert abs((angle.abs() > 1e-6).float().mean() - 0.6) < 0.05
    away = (frames.centre - CENTRE) / frames.scale[:, None] / torch.tensor([48, 64])
    assert 0.099 < away.abs().max() <= 0.1
    assert away.mean(0).abs().max() < 0.005


def test_views_of_a_sample_do_not_depend_on_the_others():
    random = torch.Generator().manual_seed(0)
    points = torch.rand(17, 2, generator=random) * 60
    frames, mirrored = look(PoseViews(), points=points)
    chosen = torch.tensor([77, 5, 3999])
    alone, alone_mirrored = look(PoseViews(), chosen, points=points)
    assert torch.equal(alone.matrix, frames.matrix[chosen])
    assert torch.equal(alone.centre, frames.centre[chosen])
    assert torch.equal(alone_mirrored, mirrored[chosen])


def body():
    """Points of a person: the upper body around (20, 30), the lower around (20, 70)."""
    points = torch.zeros(17, 2)
    points[list(COCO.upper)] = torch.tensor([20.0, 30.0])
    points[list(COCO.lower)] = torch.tensor([20.0, 70.0])
    points[5:7] += torch.tensor([[-12.0, 0.0], [12.0, 0.0]])
    points[11:13] += torch.tensor([[-12.0, 0.0], [12.0, 0.0]])
    return points


def halves(visible, probability=1.0):
    views = PoseViews(**(NONE | {"half_body": probability}))
    centre = look(views, points=body(), visible=visible)[0].centre
    return [bool((centre == torch.tensor(c)).all(1).any()) for c in ([20.0, 30.0], [20.0, 70.0])], [
        float((centre[:, 1] == y).float().mean()) for y in (30, 70, float(CENTRE[1]))
    ]


def test_half_bodies():
    whole = torch.full((17,), 2)
    both, share = halves(whole)
    assert both == [True, True]
    assert share == pytest.approx([0.7, 0.3, 0], abs=0.05)
    assert halves(whole, 0.3)[1] == pytest.approx([0.21, 0.09, 0.7], abs=0.05)
    few_lower = whole.clone()
    few_lower[13:] = 0
    assert halves(few_lower)[1] == [1, 0, 0]
    few_upper = whole.clone()
    few_upper[[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]] = 0
    assert halves(few_upper)[1] == [0, 0, 1]  # 7 joints in all
    eight = torch.zeros(17, dtype=torch.int64)
    eight[:8] = 2
    assert halves(eight)[1] == [0, 0, 1]


def test_the_region_of_half_a_body():
    views = PoseViews(**(NONE | {"half_body": 1.0}))
    scale = look(views, points=body())[0].scale
    assert torch.allclose(scale, torch.tensor(24 / 48 * 1.5).double())
    same = look(views, points=torch.zeros(17, 2))[0].scale
    assert torch.allclose(same, SCALE / 4)
    wide = look(views, points=body() * 50)[0].scale
    assert torch.allclose(wide, SCALE)


def test_mirroring_exchanges_left_and_right():
    values = torch.arange(34.0).view(1, 17, 2).expand(2, 17, 2)
    mirrored = mirror_joints(values, COCO, torch.tensor([True, False]))
    assert torch.equal(mirrored[1], values[1])
    assert torch.equal(mirrored[0, 5], values[0, 6])
    assert torch.equal(mirrored[0, 0], values[0, 0])
    assert torch.equal(mirror_joints(mirrored, COCO, torch.tensor([True, False])), values)


@pytest.mark.parametrize(
    "option",
    [
        {"flip": 1.5}, {"scale": (2, 1)}, {"scale": (0, 1)}, {"scale": 1.0}, {"rotation": 200},
        {"shift": -0.1}, {"half_body": "yes"}, {"rotation_probability": 2},
    ],
)  # fmt: skip
def test_options_out_of_range(option):
    with pytest.raises(ValueError, match=next(iter(option))):
        PoseViews(**option)
