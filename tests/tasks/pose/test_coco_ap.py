import contextlib
import copy
import io
import json
import math

import numpy as np
import pytest
import torch

from classroomkd.errors import ClassroomError
from classroomkd.tasks.pose.metrics import evaluate_coco, evaluate_file, write_results
from classroomkd.tasks.pose.metrics.coco_ap import (
    NUMBERS,
    coco_results,
    coco_truth,
    file_truth,
    person_score,
)
from tests.tasks.pose.scenes import make_persons, real_persons


def theirs(annotations, predictions, sigmas=None):
    """pycocotools, called as its documentation does."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        evaluation = COCOeval(truth, truth.loadRes(str(predictions)), "keypoints")
        if sigmas is not None:
            evaluation.params.kpt_oks_sigmas = np.array(sigmas)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [value if value >= 0 else math.nan for value in evaluation.stats]


def noisy(truth, seed=0, size=8.0):
    """Predictions near the truth, some missing, some twice, some of nobody; scores are random."""
    random = np.random.default_rng(seed)
    results = []
    for annotation in truth["annotations"]:
        for _ in range(random.choice([0, 1, 1, 1, 2])):
            triples = np.reshape(annotation["keypoints"], (-1, 3)).astype(float)
            triples[:, :2] += random.normal(0, random.uniform(0, size), (len(triples), 2))
            if random.uniform() < 0.1:
                triples[:, :2] += 100
            results.append(
                {
                    "image_id": annotation["image_id"],
                    "category_id": annotation["category_id"],
                    "keypoints": triples.flatten().tolist(),
                    "score": float(random.uniform()),
                }
            )
    return results


def check_same(tmp_path, truth, results, sigmas=None):
    annotations = tmp_path / "annotations.json"
    annotations.write_text(json.dumps(truth))
    predictions = write_results(results, tmp_path / "results" / "predictions.json")
    ours = evaluate_file(annotations, predictions, sigmas)
    assert list(ours.numbers) == list(NUMBERS)
    expected = theirs(annotations, predictions, sigmas)
    assert list(ours.numbers.values()) == pytest.approx(expected, abs=1e-6, nan_ok=True)
    return ours


@pytest.mark.parametrize("seed", [0, 1])
def test_coco_mini_as_pycocotools(tmp_path, seed):
    persons = real_persons("coco", "coco-mini")
    truth = json.loads(persons.annotations.read_text())
    ours = check_same(tmp_path, truth, noisy(truth, seed))
    assert 0.05 < ours.numbers["AP"] < 0.95
    assert ours.persons == 68


def test_own_joints_and_sigmas_as_pycocotools(tmp_path):
    persons = make_persons("lsp", 12)
    ours = check_same(
        tmp_path, coco_truth(persons), noisy(coco_truth(persons)), persons.joints.sigmas
    )
    assert 0.05 < ours.numbers["AP"] < 0.95
    with pytest.raises(ClassroomError, match="a sigma for each of 14 joints: none"):
        evaluate_file(tmp_path / "annotations.json", tmp_path / "results" / "predictions.json")


def test_crowds_unlabelled_persons_and_boxes_as_pycocotools(tmp_path):
    truth = coco_truth(make_persons("coco", 12))
    results = noisy(truth)
    for annotation in truth["annotations"][::3]:
        annotation["iscrowd"] = 1
    for annotation in truth["annotations"][1::3]:
        annotation.update(keypoints=[0] * 51, num_keypoints=0)
    check_same(tmp_path, truth, results)
    check_same(tmp_path, truth, [{**r, "bbox": [0, 0, 50, 50]} for r in results])


def two_persons():
    persons = make_persons("coco", 2, area=torch.tensor([1e4, 1e4]))
    return persons, coco_truth(persons)


def test_by_hand():
    """One of two persons found exactly, the other with an OKS of .72: good to thresholds to .7.

    Up to there, precision is 1 at all recalls; beyond, at 51 of 101.
    """
    persons, truth = two_persons()
    results = coco_results(persons.points, torch.ones(2, 17), persons)
    sigma = np.array(persons.joints.sigmas)
    off = np.sqrt(-math.log(0.72) * 2 * 1e4 * (2 * sigma) ** 2)
    keypoints = np.reshape(results[1]["keypoints"], (17, 3))
    keypoints[:, 0] += off
    results[1].update(keypoints=keypoints.flatten().tolist(), score=0.5)
    numbers = evaluate_coco(truth, results, boxes="made").numbers
    assert numbers["AP"] == pytest.approx((5 + 5 * 51 / 101) / 10, abs=1e-9)
    assert numbers["AR"] == pytest.approx(0.75)
    assert numbers["AP50"] == pytest.approx(1)
    assert numbers["AP75"] == pytest.approx(51 / 101)
    assert numbers["APl"] == numbers["AP"]
    assert math.isnan(numbers["APm"])


def test_nothing_predicted_is_nothing_found():
    numbers = evaluate_coco(two_persons()[1], [], boxes="made").numbers
    assert numbers["AP"] == numbers["AR"] == 0


def test_annotation_0_is_found_too():
    """pycocotools takes the id 0 for nobody."""
    persons, truth = two_persons()
    for annotation in truth["annotations"]:
        annotation["id"] -= 1
    results = coco_results(persons.points, torch.ones(2, 17), persons)
    assert evaluate_coco(truth, results, boxes="made").numbers["AP"] == pytest.approx(1)


def test_categories_without_keypoints_do_not_count():
    persons, truth = two_persons()
    truth["categories"].append({"id": 2, "name": "ball"})
    truth["annotations"].append(
        {"id": 9, "image_id": 900, "category_id": 2, "bbox": [0, 0, 9, 9], "area": 81, "iscrowd": 0}
    )
    results = coco_results(persons.points, torch.ones(2, 17), persons)
    assert evaluate_coco(truth, results, boxes="made").numbers["AP"] == pytest.approx(1)


def test_names_of_joints_may_be_missing():
    persons, truth = two_persons()
    del truth["categories"][0]["keypoints"]
    results = coco_results(persons.points, torch.ones(2, 17), persons)
    assert evaluate_coco(truth, results, boxes="made").numbers["AP"] == pytest.approx(1)


def test_categories_with_other_joints_must_be_chosen_from():
    persons, truth = two_persons()
    truth["categories"].append({"id": 2, "name": "chair", "keypoints": ["seat"]})
    results = coco_results(persons.points, torch.ones(2, 17), persons)
    with pytest.raises(ClassroomError, match="choose a category"):
        evaluate_coco(truth, results, boxes="made")
    for category in ("person", 1):
        scores = evaluate_coco(truth, results, boxes="made", category=category)
        assert scores.numbers["AP"] == pytest.approx(1)
    with pytest.raises(ClassroomError, match="no category 'cat'.*person, chair"):
        evaluate_coco(truth, results, boxes="made", category="cat")


def test_what_is_given_stays_as_it_is():
    persons, truth = two_persons()
    results = noisy(truth)
    before = copy.deepcopy((truth, results))
    evaluate_coco(truth, results, boxes="made")
    assert (truth, results) == before


def test_silent(capfd):
    persons, truth = two_persons()
    evaluate_coco(truth, noisy(truth), boxes="made")
    assert capfd.readouterr() == ("", "")


def _change(**changes):
    return lambda entry: entry.update(changes)


TRUTH_MISTAKES = {
    "no area": (lambda a: a.pop("area"), "annotation 1 has no 'area'"),
    "area 0": (_change(area=0), "area of 0: nothing could ever match"),
    "area nan": (_change(area=math.nan), "area of nan"),
    "coordinates": (lambda a: a["keypoints"].__setitem__(0, math.nan), "coordinates"),
    "joints": (lambda a: a["keypoints"].pop(), "50 keypoint numbers, not 3 x 17"),
    "num_keypoints": (_change(num_keypoints=0), "17 labelled joints, but says 0"),
    "image": (_change(image_id=1), "1 image ids of the annotations .*: 1; are they of another"),
    "image as text": (_change(image_id="900"), "'900' is a number in one and a text in the other"),
    "ids": (_change(id=2), "1 annotation ids are there twice: 2"),
    "no image": (lambda a: a.pop("image_id"), "annotation 1 has no 'image_id'"),
    "no category": (lambda a: a.pop("category_id"), "annotation 1 has no 'category_id'"),
}


@pytest.mark.parametrize(("change", "message"), TRUTH_MISTAKES.values(), ids=TRUTH_MISTAKES)
def test_annotations_that_would_be_misjudged(change, message):
    persons, truth = two_persons()
    results = coco_results(persons.points, torch.ones(2, 17), persons)
    change(truth["annotations"][0])
    with pytest.raises(ClassroomError, match=message):
        evaluate_coco(truth, results, boxes="made")


RESULT_MISTAKES = {
    "joints": (lambda r: r["keypoints"].append(1.0), "prediction 0 has 52 keypoint numbers"),
    "nan": (lambda r: r["keypoints"].__setitem__(3, math.nan), "not finite, which match anybody"),
    "score": (_change(score=math.inf), "not finite"),
    "no score": (lambda r: r.pop("score"), "prediction 0 has no 'score'"),
    "category": (_change(category_id=4), "of category 4; those judged are: 1"),
    "image": (_change(image_id=5), "1 image ids of the predictions .*: 5; are they of another"),
    "image as text": (_change(image_id="900"), "'900' is a number in one and a text"),
}


@pytest.mark.parametrize(("change", "message"), RESULT_MISTAKES.values(), ids=RESULT_MISTAKES)
def test_predictions_that_would_be_misjudged(change, message):
    persons, truth = two_persons()
    results = coco_results(persons.points, torch.ones(2, 17), persons)
    change(results[0])
    with pytest.raises(ClassroomError, match=message):
        evaluate_coco(truth, results, boxes="made")


def test_files_that_are_none(tmp_path):
    persons, truth = two_persons()
    (tmp_path / "annotations.json").write_text(json.dumps(truth))
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ClassroomError, match="predictions .*absent.json cannot be read"):
        evaluate_file(tmp_path / "annotations.json", tmp_path / "absent.json")
    with pytest.raises(ClassroomError, match="annotations .*broken.json are no JSON"):
        evaluate_file(tmp_path / "broken.json", tmp_path / "absent.json")
    with pytest.raises(ClassroomError, match="no list at the top"):
        evaluate_file(tmp_path / "annotations.json", tmp_path / "annotations.json")
    for wrong in ([], {"images": []}):
        with pytest.raises(ClassroomError, match="not in COCO's format"):
            evaluate_coco(wrong, [], boxes="made")
    for annotation in truth["annotations"]:
        annotation.update(keypoints=[0] * 51, num_keypoints=0)
    with pytest.raises(ClassroomError, match="no person with a labelled joint"):
        evaluate_coco(truth, [], boxes="made")


def test_sigmas_are_checked():
    persons, truth = two_persons()
    with pytest.raises(ClassroomError, match="17 joints: 2 are given"):
        evaluate_coco(truth, [], [0.1, 0.1], boxes="made")
    with pytest.raises(ClassroomError, match="above 0"):
        evaluate_coco(truth, [], [0.0] * 17, boxes="made")


def test_score_is_the_box_times_sure_joints():
    confidence = torch.tensor([[0.9, 0.5, 0.2, 0.0], [0.1, 0.1, 0.1, 0.1]])
    assert person_score(confidence, torch.tensor([0.5, 0.9])).tolist() == pytest.approx([0.35, 0])


def test_nms_drops_a_box_that_found_the_same_person():
    persons = make_persons("coco", 2, score=torch.tensor([0.5, 0.9]))
    same = persons.points[:1].expand(2, -1, -1)
    assert len(coco_results(same, torch.ones(2, 17), persons)) == 2
    (kept,) = coco_results(same, torch.ones(2, 17), persons, nms=0.9)
    assert kept["score"] == pytest.approx(0.9)
    assert kept["image_id"] == 900


def test_joints_in_another_order_in_the_file(tmp_path):
    """The set's order is kept: the file is read by names; joints it lacks are unlabelled."""
    persons, truth = two_persons()
    expected = [np.reshape(a["keypoints"], (17, 3)) for a in truth["annotations"]]
    order = [*range(16, 0, -1)]  # without the nose
    names = truth["categories"][0]["keypoints"]
    truth["categories"][0]["keypoints"] = [names[u].replace("_", " ").title() for u in order]
    for annotation, triples in zip(truth["annotations"], expected, strict=True):
        annotation["keypoints"] = triples[order].flatten().tolist()
        annotation["num_keypoints"] = 16
    (tmp_path / "turned.json").write_text(json.dumps(truth))
    read = file_truth(tmp_path / "turned.json", persons)
    for annotation, triples in zip(read["annotations"], expected, strict=True):
        triples[0] = 0
        assert annotation["keypoints"] == triples.flatten().tolist()
    results = coco_results(persons.points, torch.ones(2, 17), persons)
    scores = evaluate_coco(read, results, persons.joints.sigmas, boxes="made")
    assert scores.numbers["AP"] == pytest.approx(1)
