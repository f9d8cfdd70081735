import json
import math
from dataclasses import replace
from functools import cache

import pytest
import torch

from classroomkd.errors import ClassroomError
from classroomkd.tasks.pose.data import PoseLoader, PoseViews
from classroomkd.tasks.pose.metrics import Predictions, evaluate_pose, judge_pose, predictions
from classroomkd.tasks.pose.metrics.coco_ap import coco_truth
from tests.tasks.pose.scenes import CODECS, Oracle, make_persons, real_persons, write_images

SIZES = [(64, 64), (96, 72), (128, 96)]


@cache
def lspet():
    return real_persons("lspet", "lspet", 40)


@cache
def coco_mini():
    return real_persons("coco", "coco-mini")


@cache
def seen(persons, size, padding=1.25):
    return [*PoseLoader(persons(), 16, size=size, padding=padding)]


def judged(persons, codec, size, flip, padding=1.25, **options):
    batches = seen(persons, size, padding)
    network = Oracle(batches, persons().joints, CODECS[codec](size), size)
    return evaluate_pose(network, batches, persons(), flip=flip, **options)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("codec", CODECS)
def test_the_truth_has_a_pck_of_100(codec, size, flip):
    scores, details = judged(lspet, codec, size, flip)
    assert [scores[name] for name in ("PCK@0.2", "PCKh@0.5", "PCKh@0.1")] == [100, 100, 100]
    assert scores["OKS"] == pytest.approx(100, abs=1e-3)
    assert details["left_out"]["PCK@0.2"] > 0


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("codec", CODECS)
def test_the_truth_has_an_ap_of_1(codec, size, flip):
    """Three of COCO's persons have joints far out of their boxes: the crop must reach them."""
    scores, details = judged(coco_mini, codec, size, flip, padding=2.0)
    expected = dict.fromkeys(("AP", "AP50", "AP75", "APm", "APl", "AR", "OKS"), 100)
    assert scores == pytest.approx(expected, abs=1e-3)
    assert details["boxes"].startswith("annotated")
    assert details["boxes"] in details["definitions"]["AP"]


def test_joints_out_of_the_crop_cannot_be_found():
    persons, size = coco_mini(), (96, 72)
    scores, _ = judged(coco_mini, "heatmap", size, True)
    assert 98 < scores["AP"] < 99.9
    inside = torch.cat([batch.visible for batch in seen(coco_mini, size)]) > 0
    in_view = ((persons.visible > 0) == inside).all(1).nonzero()[:, 0]
    assert len(in_view) == 65
    # persons are judged by themselves, or together with those that no box is for
    persons = persons.subset(in_view)
    batches = [*PoseLoader(persons, 16, size=size)]
    network = Oracle(batches, persons.joints, CODECS["heatmap"](size), size)
    scores, _ = evaluate_pose(network, batches, persons)
    assert scores["AP"] == pytest.approx(100)
    scores, details = evaluate_pose(network, batches, persons, annotations=persons.annotations)
    assert scores["AR"] == pytest.approx(100 * 65 / 68)
    assert "all of person_keypoints_val2017.json, 68 of them" in details["definitions"]["AP"]


def test_a_network_with_an_input_of_its_own():
    persons, batches = lspet(), seen(lspet, (96, 72))
    for size in ((64, 64), (128, 96)):
        network = Oracle(batches, persons.joints, CODECS["heatmap"](size), size)
        found = predictions(network, batches).ordered(persons)
        assert (found.points - persons.points)[persons.visible > 0].abs().max() < 0.02


def test_errors_show():
    """A shift of 3 input pixels along both axes is what the scores see."""
    persons, size = lspet(), (96, 96)
    batches = seen(lspet, size)
    network = Oracle(batches, persons.joints, CODECS["simcc"](size), size, shift=3.0)
    scores, details = evaluate_pose(network, batches, persons, flip=False)
    assert scores["PCKh@0.1"] < 5
    assert 50 < scores["PCK@0.2"] < 100
    assert 50 < scores["OKS"] < 95
    assert details["per_joint"]["OKS"]["left_hip"] > details["per_joint"]["OKS"]["left_wrist"]


@pytest.fixture
def made(tmp_path):
    return write_images(make_persons("coco", 6), tmp_path)


def oracle(persons, **options):
    loader = PoseLoader(persons, 4, size=(64, 48), **options)
    return Oracle(loader, persons.joints, CODECS["heatmap"]((64, 48)), (64, 48)), loader


def test_order_of_the_loader_does_not_matter(made):
    network, loader = oracle(made)
    straight = predictions(network, loader).ordered(made)
    network, loader = oracle(made, shuffle=True)
    found = predictions(network, loader)
    assert found.index.tolist() != made.index.tolist()
    assert torch.equal(found.ordered(made).points, straight.points)
    assert torch.equal(found.ordered(made).index, made.index)


def test_modes_are_restored_also_after_an_error(made):
    network, loader = oracle(made)
    network.train()
    network.normalize.eval()
    before = {name: part.training for name, part in network.named_modules()}
    predictions(network, loader)
    assert {name: part.training for name, part in network.named_modules()} == before
    network.answers.clear()
    with pytest.raises(KeyError):
        predictions(network, loader)
    assert {name: part.training for name, part in network.named_modules()} == before


def test_per_joint_and_definitions(made):
    network, loader = oracle(made)
    scores, details = evaluate_pose(network, loader, made, metrics=["ap", "pck"])
    assert set(scores) == {"AP", "AP50", "AP75", "APm", "APl", "AR", "PCK@0.2", "OKS"}
    assert set(details["per_joint"]) == {"PCK@0.2", "OKS"}
    assert details["per_joint"]["PCK@0.2"] == dict.fromkeys(made.joints.names, 100.0)
    assert set(details["definitions"]) == set(details["left_out"]) == set(scores)
    json.dumps(details)
    with pytest.raises(ValueError, match="metrics are 'ap' and 'pck', not 'auc'"):
        evaluate_pose(network, loader, made, metrics=["auc"])


def perfect(persons):
    return Predictions(persons.points.clone(), torch.ones(persons.points.shape[:2]), persons.index)


def test_persons_that_were_found_badly_lower_their_joints():
    persons = make_persons("lsp", 4)
    found = perfect(persons)
    found.points[0, 5] += 500
    scores, details = judge_pose(found, persons)
    assert details["per_joint"]["PCK@0.2"]["left_ankle"] == 75
    assert scores["PCK@0.2"] == pytest.approx(100 * 55 / 56)
    assert scores["OKS"] == pytest.approx(100 * 55 / 56)


def test_an_invisible_joint_changes_nothing():
    for joints in ("coco", "lsp", "mpii"):
        persons = make_persons(joints, 4)
        persons.visible[1, 2] = 0
        before = judge_pose(perfect(persons), persons)
        found = perfect(make_persons(joints, 4))
        found.points[1, 2] += 300
        other = persons.points.clone()
        other[1, 2] -= 300
        after = judge_pose(found, replace(persons, points=other))
        for old, new in zip(before, after, strict=True):
            assert repr(old) == repr(new)


def test_detected_boxes_are_judged_against_their_file(tmp_path):
    """Two boxes of one person and none of another: NMS keeps the better, the other is missed."""
    annotated = make_persons("coco", 4, area=torch.full((4,), 1e4))
    (tmp_path / "truth.json").write_text(json.dumps(coco_truth(annotated)))
    rows = torch.tensor([0, 1, 2, 2])
    detected = replace(
        annotated.subset(rows),
        index=torch.arange(4),
        visible=torch.zeros(4, 17, dtype=torch.int64),
        score=torch.tensor([0.9, 0.8, 0.7, 0.6]),
        annotations=tmp_path / "truth.json",
        box_source="detected, boxes.json",
    )
    found = Predictions(annotated.points[rows], torch.ones(4, 17), detected.index)
    scores, details = judge_pose(found, detected)
    assert scores["AR"] == pytest.approx(75)
    assert scores["AP"] == pytest.approx(100 * 76 / 101)
    assert math.isnan(scores["OKS"])
    assert details["boxes"] == "detected, boxes.json"
    assert "3 predictions against all of truth.json" in details["definitions"]["AP"]
    kept, details = judge_pose(found, detected, nms=None)
    assert "4 predictions" in details["definitions"]["AP"]
    with pytest.raises(ClassroomError, match="no person with a labelled joint"):
        judge_pose(found, replace(detected, annotations=None))


def test_what_cannot_be_judged(made):
    network, loader = oracle(made)
    with pytest.raises(ClassroomError, match="finds nose.*made has right_ankle"):
        evaluate_pose(network, loader, make_persons("lsp", 6))
    with pytest.raises(ValueError, match="plain views"):
        evaluate_pose(network, PoseLoader(made, 4, size=(64, 48), augment=PoseViews()), made)
    with pytest.raises(ValueError, match="2 of 6 persons were not predicted, such as 54"):
        evaluate_pose(network, PoseLoader(made, 4, size=(64, 48), drop_last=True), made)
    with pytest.raises(ClassroomError, match="nobody to judge"):
        evaluate_pose(network, [], made)
    network.codec = _Broken()
    with pytest.raises(ClassroomError, match="not finite"):
        evaluate_pose(network, loader, made, flip=False)


class _Broken:
    def encode(self, points):
        return (points,)

    def decode(self, outputs):
        return outputs[0] * math.nan, outputs[0][..., 0]
