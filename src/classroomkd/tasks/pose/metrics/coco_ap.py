"""COCO's average precision of poses, as pycocotools computes it.

Shapes: ``N`` persons, ``U`` joints. Points are in image pixels.
"""

import contextlib
import copy
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from classroomkd.errors import ClassroomError
from classroomkd.tasks.pose.data.joints import canonical
from classroomkd.tasks.pose.data.persons import PersonSet
from classroomkd.tasks.pose.metrics.coco_files import (
    Result,
    Truth,
    check_results,
    clean_truth,
    read_json,
)
from classroomkd.tasks.pose.metrics.oks import oks_nms

NUMBERS = ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl")
"""COCO's ten: over OKS thresholds .5 to .95, at .5, at .75, of medium and of large persons."""
SURE = 0.2
"""Joints below this confidence do not count in a person's score."""


@dataclass(frozen=True)
class CocoScores:
    """What COCO says of predictions.

    Attributes:
        numbers: `NUMBERS` by name, in [0, 1]; nan where the set has no person of that size.
        boxes: where the boxes come from that the persons were found in.
        persons: labelled persons that were to be found.
        predictions: how many were judged.
    """

    numbers: dict[str, float]
    boxes: str
    persons: int
    predictions: int


def evaluate_file(
    annotations: Path | str,
    predictions: Path | str,
    sigmas: Sequence[float] | None = None,
    *,
    boxes: str = "those of the predictions file",
    category: str | int | None = None,
) -> CocoScores:
    """Judge a file of predictions.

    Args:
        annotations: in COCO's keypoint format.
        predictions: in COCO's results format.
        sigmas: the joints' tolerances; COCO's own if left out.
        boxes: where the predictions' boxes come from.
        category: judge this one only, by name or id; needed where they differ in joints.

    Raises:
        ClassroomError: if a file cannot be read, or pycocotools would misjudge it.
    """
    truth = read_json(annotations, "annotations")
    results = read_json(predictions, "predictions")
    return evaluate_coco(truth, results, sigmas, boxes=boxes, category=category)


def evaluate_coco(
    truth: Truth,
    results: Sequence[Result],
    sigmas: Sequence[float] | None = None,
    *,
    boxes: str,
    category: str | int | None = None,
) -> CocoScores:
    """Judge predictions: as `evaluate_file`, of what such files hold, which is left as it is.

    >>> joints = [10, 10, 2, 20, 30, 2]
    >>> person = {"id": 1, "image_id": 7, "category_id": 1, "keypoints": joints, "area": 400.0}
    >>> truth = {
    ...     "images": [{"id": 7}],
    ...     "categories": [{"id": 1, "name": "crane", "keypoints": ["hook", "cab"]}],
    ...     "annotations": [person],
    ... }
    >>> found = {"image_id": 7, "category_id": 1, "keypoints": joints, "score": 0.9}
    >>> round(evaluate_coco(truth, [found], [0.1, 0.1], boxes="annotated").numbers["AP"], 6)
    1.0
    """
    clean = clean_truth(truth, category)
    check_results(results, clean)
    stats = _pycocotools(clean, results, _tolerances(clean, sigmas))
    return CocoScores(
        numbers={
            k: float(v) if v >= 0 else float("nan") for k, v in zip(NUMBERS, stats, strict=True)
        },
        boxes=boxes,
        persons=sum(p["num_keypoints"] > 0 and not p["iscrowd"] for p in clean["annotations"]),
        predictions=len(results),
    )


def person_score(confidence: Tensor, box_score: Tensor) -> Tensor:
    """``[N]``: the box's score times the mean confidence of the joints that are above `SURE`.

    Args:
        confidence: ``[N, U]`` in [0, 1].
        box_score: ``[N]``.

    >>> import torch
    >>> person_score(torch.tensor([[0.8, 0.6, 0.1], [0.1, 0.0, 0.2]]), torch.tensor([0.5, 1.0]))
    tensor([0.3500, 0.0000])
    """
    sure = confidence > SURE
    return box_score * (confidence * sure).sum(-1) / sure.sum(-1).clamp(min=1)


def coco_results(
    points: Tensor,
    confidence: Tensor,
    persons: PersonSet,
    *,
    nms: float | None = None,
) -> list[dict[str, Any]]:
    """Predictions in COCO's results format.

    Args:
        points: ``[N, U, 2]``, of the set's persons in order.
        confidence: ``[N, U]`` in [0, 1].
        persons: whose boxes they are from.
        nms: drop a person whose OKS with a better one of the same image is above this (0.9 is
            usual); for detected boxes. None keeps everybody.
    """
    score = person_score(confidence, persons.score)
    kept = range(len(points))
    if nms is not None:
        area = persons.box[:, 2] * persons.box[:, 3]
        keep = oks_nms(points, score, area, persons.image_id, persons.joints.sigmas, nms)
        kept = keep.nonzero()[:, 0].tolist()
    image, joints = persons.image_id.tolist(), _triples(points, confidence)
    return [
        {
            "image_id": image[row],
            "category_id": persons.category,
            "keypoints": joints[row],
            "score": score[row].item(),
        }
        for row in kept
    ]


def coco_truth(persons: PersonSet) -> dict[str, Any]:
    """A set's persons as annotations in COCO's format.

    Those of the set alone: crowds and persons without labels, which COCO does not count against
    anybody, are missing where the set left them out.
    """
    image, joints = persons.image_id.tolist(), _triples(persons.points, persons.visible)
    box, area = persons.box.tolist(), persons.area.tolist()
    labelled = (persons.visible > 0).sum(1).tolist()
    names = list(persons.joints.names)
    return {
        "images": [{"id": number} for number in dict.fromkeys(image)],
        "categories": [{"id": persons.category, "name": "person", "keypoints": names}],
        "annotations": [
            {
                "id": row + 1,
                "image_id": image[row],
                "category_id": persons.category,
                "keypoints": joints[row],
                "num_keypoints": labelled[row],
                "area": area[row],
                "bbox": box[row],
                "iscrowd": 0,
            }
            for row in range(len(image))
        ],
    }


def file_truth(annotations: Path | str, persons: PersonSet) -> dict[str, Any]:
    """All that a file has of the set's category, with the joints in the set's order.

    Joints that the file lacks are not labelled.

    Raises:
        ClassroomError: if the file cannot be read or judged, or has none of the set's joints.
    """
    truth = clean_truth(read_json(annotations, "annotations"), persons.category)
    names = persons.joints.names
    category = truth["categories"][0]
    given = [canonical(name) for name in category.get("keypoints") or names]
    order = [given.index(name) if name in given else -1 for name in names]
    if max(order) < 0:
        raise ClassroomError(f"{annotations} labels {', '.join(given)}: none of {', '.join(names)}")
    for annotation in truth["annotations"]:
        triples = np.reshape([*annotation["keypoints"], 0, 0, 0], (-1, 3))[order]
        annotation["keypoints"] = triples.reshape(-1).tolist()
        annotation["num_keypoints"] = int((triples[:, 2] > 0).sum())
    return {**truth, "categories": [{**category, "keypoints": list(names)}]}


def _triples(points: Tensor, third: Tensor) -> list[list[float]]:
    """``x, y`` and a third number of every joint of a person, in a row."""
    return (
        np.concatenate([points.double(), third.double()[..., None]], -1)
        .reshape(len(points), -1)
        .tolist()
    )


def _tolerances(truth: Truth, sigmas: Sequence[float] | None) -> np.ndarray | None:
    """The sigmas to set, or None for COCO's own."""
    joints = len(truth["annotations"][0]["keypoints"]) // 3
    if sigmas is None and joints == 17:
        return None
    if sigmas is None or len(sigmas) != joints:
        given = "none are given" if sigmas is None else f"{len(sigmas)} are given"
        raise ClassroomError(f"OKS needs a sigma for each of {joints} joints: {given}")
    if min(sigmas) <= 0:
        raise ClassroomError("OKS needs sigmas above 0: with 0, not even the truth matches")
    return np.asarray(sigmas, dtype=np.float64)


def _pycocotools(
    truth: Mapping[str, Any], results: Sequence[Result], sigmas: np.ndarray | None
) -> list[float]:
    """The ten numbers; -1 where there is nobody to find."""
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise ClassroomError(
            "AP needs pycocotools: pip install 'classroomkd[pose]' or pip install pycocotools"
        ) from error
    with contextlib.redirect_stdout(io.StringIO()):
        judge: Any = COCO()
        judge.dataset = truth
        judge.createIndex()
        found = judge.loadRes(copy.deepcopy(list(results))) if results else COCO()
        evaluation = COCOeval(judge, found, "keypoints")
        if sigmas is not None:
            evaluation.params.kpt_oks_sigmas = sigmas
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(value) for value in evaluation.stats]
