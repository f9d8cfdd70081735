import math

import pytest
import torch

from classroomkd.tasks.pose.metrics import pck
from classroomkd.tasks.pose.metrics.pck import judge_pck, pck_rules, segment
from tests.tasks.pose.scenes import make_persons


def rule(persons, name):
    return next(rule for rule in pck_rules(persons) if rule.name == name)


def test_against_loops():
    random = torch.Generator().manual_seed(0)
    truth = 100 * torch.rand(20, 5, 2, generator=random)
    points = truth + 6 * torch.randn(20, 5, 2, generator=random)
    visible = torch.randint(0, 3, (20, 5), generator=random)
    scale = 10 + 10 * torch.rand(20, generator=random)
    hits, seen = [0] * 5, [0] * 5
    for n in range(20):
        for u in range(5):
            if visible[n, u] > 0:
                distance = math.dist(points[n, u].tolist(), truth[n, u].tolist())
                seen[u] += 1
                hits[u] += distance <= 0.5 * scale[n].item()
    result = pck(points, truth, visible, scale, 0.5)
    assert result.labelled == tuple(seen)
    assert result.per_joint == pytest.approx([100 * h / s for h, s in zip(hits, seen, strict=True)])
    assert result.mean == pytest.approx(100 * sum(hits) / sum(seen))
    assert 0 < result.mean < 100


def test_persons_without_a_size_are_left_out_and_counted():
    truth = torch.zeros(5, 1, 2)
    scale = torch.tensor([10.0, torch.nan, 0.0, -1.0, torch.inf])
    visible = torch.tensor([[1], [1], [1], [0], [1]])
    result = pck(truth, truth, visible, scale, 0.5)
    assert (result.mean, result.labelled, result.left_out) == (100.0, (1,), 3)
    nobody = pck(truth, truth, torch.zeros(5, 1), scale, 0.5)
    assert math.isnan(nobody.mean)
    assert math.isnan(nobody.per_joint[0])


def test_not_a_number_is_a_miss():
    truth = torch.zeros(1, 1, 2)
    assert pck(truth * torch.nan, truth, torch.ones(1, 1), torch.ones(1), 0.5).mean == 0


def test_mpii_leaves_out_pelvis_and_thorax():
    persons = make_persons("mpii", 4, head=torch.tensor([20.0, 30.0, torch.nan, 10.0]))
    points = persons.points.clone()
    names = persons.joints.names
    points[:, [names.index("pelvis"), names.index("thorax")]] += 1000
    near = judge_pck(points, persons, rule(persons, "PCKh@0.5"))
    assert (near.mean, near.left_out) == (100.0, 1)
    assert near.labelled[names.index("pelvis")] == near.labelled[names.index("thorax")] == 0
    points[:, 0] += torch.tensor([[0.3 * 20, 0]] * 4)  # 6 px: within .5, not within .1
    assert judge_pck(points, persons, rule(persons, "PCKh@0.5")).per_joint[0] == pytest.approx(
        200 / 3  # the last head is 10 px
    )
    assert judge_pck(points, persons, rule(persons, "PCKh@0.1")).per_joint[0] == 0
    assert {r.name for r in pck_rules(persons)} == {"PCKh@0.5", "PCKh@0.1"}
    assert "head box" in rule(persons, "PCKh@0.1").definition


def test_lsp_torso_and_head_segment():
    persons = make_persons("lsp", 3)
    names = persons.joints.names
    persons.visible[0, names.index("left_shoulder")] = 0
    persons.visible[1, names.index("neck")] = 0
    torso, head = rule(persons, "PCK@0.2"), rule(persons, "PCKh@0.5")
    assert torso.size(persons).isnan().tolist() == [True, False, False]
    assert head.size(persons).isnan().tolist() == [False, True, False]
    shoulder, hip = (names.index(n) for n in ("left_shoulder", "right_hip"))
    length = math.dist(persons.points[2, shoulder].tolist(), persons.points[2, hip].tolist())
    assert torso.size(persons)[2].item() == pytest.approx(length)
    for way in (torso, head):
        result = judge_pck(persons.points, persons, way)
        assert (result.mean, result.left_out) == (100.0, 1)
    # two joints moved: by just more and by just less than allowed
    points = persons.points.clone()
    points[2, 0, 0] += 0.2 * length + 0.01
    points[2, 1, 1] -= 0.2 * length - 0.01
    missed = judge_pck(points, persons, torso)
    assert (missed.per_joint[0], missed.per_joint[1]) == (50.0, 100.0)


def test_rules_need_their_joints():
    persons = make_persons("coco", 2)
    assert [r.name for r in pck_rules(persons)] == ["PCK@0.2"]
    with pytest.raises(ValueError, match="not in tuple|not in list"):
        segment(persons, "neck", "head_top")
