"""How well a network finds the joints of a set of persons.

Shapes: ``N`` persons, ``U`` joints.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from classroomkd.errors import ClassroomError
from classroomkd.tasks.base import AllGather, alone
from classroomkd.tasks.pose.data.loader import PoseBatch
from classroomkd.tasks.pose.data.persons import PersonSet
from classroomkd.tasks.pose.metrics.coco_ap import (
    SURE,
    coco_results,
    coco_truth,
    evaluate_coco,
    file_truth,
)
from classroomkd.tasks.pose.metrics.oks import oks, person_oks
from classroomkd.tasks.pose.metrics.pck import judge_pck, pck_rules
from classroomkd.tasks.pose.metrics.predict import Predictions, predictions
from classroomkd.tasks.pose.models.network import PoseNetwork

Metric = Literal["ap", "pck"]
Details = dict[str, Any]
SHOWN = ("AP", "AP50", "AP75", "APm", "APl", "AR")
"""Those of COCO's numbers that `evaluate_pose` gives."""
_BY_PCK = frozenset({"lsp", "mpii"})


def evaluate_pose(
    network: PoseNetwork,
    loader: Iterable[PoseBatch],
    persons: PersonSet,
    *,
    flip: bool = True,
    annotations: Path | str | None = None,
    metrics: Iterable[Metric] | None = None,
    nms: float | None = 0.9,
    all_gather: AllGather = alone,
) -> tuple[dict[str, float], Details]:
    """How near a network comes to the true joints of a set's persons.

    Args:
        network: the joints' finder.
        loader: plain views of all the persons, or of this process's, on the network's device.
        persons: who is shown.
        flip: with the flip test (see `predictions`).
        annotations: COCO annotations for AP to be judged against as a whole, crowds and persons
            without a box included, as COCO's own numbers are. If left out, the set's persons are
            the truth, or, where the boxes are detected, the file that the set was read from.
        metrics: ``"ap"``, ``"pck"`` or both; PCK for joints of LSP and MPII, and else AP.
        nms: for AP from detected boxes, the OKS from which two persons are the same one; None to
            keep all.
        all_gather: see `classroomkd.tasks.base.Task.evaluate`.

    Returns:
        Numbers in percent by name (``AP``, ``AP50``, ``AP75``, ``APm``, ``APl``, ``AR``;
        ``PCKh@0.5``, ``PCKh@0.1``, ``PCK@0.2``; ``OKS``, the mean of persons: nan where nobody is
        labelled), and what to know of them: ``per_joint`` (by number and joint), ``definitions``,
        ``left_out`` (how many
        persons, by number), ``boxes`` and ``persons``.

    Raises:
        ClassroomError: if the network has other joints or gives what is not finite, or AP is wanted
            and nobody is labelled.
    """
    if tuple(network.joint_names) != persons.joints.names:
        raise ClassroomError(
            f"{network.name} finds {', '.join(network.joint_names)}, but {persons.name} has"
            f" {', '.join(persons.joints.names)}: a network is judged by its own joints"
        )
    found = predictions(network, loader, flip=flip, all_gather=all_gather).ordered(persons)
    return judge_pose(found, persons, annotations=annotations, metrics=metrics, nms=nms)


def headline(persons: PersonSet) -> str:
    """The number that a student of these persons is chosen by.

    ``PCKh@0.5`` for the joints of MPII, ``PCK@0.2`` for those of LSP, and else ``AP``.
    """
    return {"mpii": "PCKh@0.5", "lsp": "PCK@0.2"}.get(persons.joints.name, "AP")


def judge_pose(
    found: Predictions,
    persons: PersonSet,
    *,
    annotations: Path | str | None = None,
    metrics: Iterable[Metric] | None = None,
    nms: float | None = 0.9,
) -> tuple[dict[str, float], Details]:
    """Judge predictions of a set's persons, in its order; the rest is as in `evaluate_pose`."""
    usual: Metric = "pck" if persons.joints.name in _BY_PCK else "ap"
    chosen = {usual} if metrics is None else set(metrics)
    if unknown := chosen - {"ap", "pck"}:
        raise ValueError(f"metrics are 'ap' and 'pck', not {', '.join(map(repr, unknown))}")
    numbers: list[_Number] = []
    if "ap" in chosen:
        numbers += _average_precision(found, persons, annotations, nms)
    if "pck" in chosen:
        numbers += _correct_keypoints(found, persons)
    numbers.append(_similarity(found, persons))
    names = persons.joints.names
    return {number.name: number.value for number in numbers}, {
        "per_joint": {
            n.name: dict(zip(names, n.per_joint, strict=True)) for n in numbers if n.per_joint
        },
        "definitions": {number.name: number.definition for number in numbers},
        "left_out": {number.name: number.left_out for number in numbers},
        "boxes": persons.box_source,
        "persons": len(persons),
    }


class _Number(NamedTuple):
    """One result: in percent, what it says, for each joint if it can be told, who is left out."""

    name: str
    value: float
    definition: str
    per_joint: tuple[float, ...] = ()
    left_out: int = 0


def _average_precision(
    found: Predictions, persons: PersonSet, annotations: Path | str | None, nms: float | None
) -> list[_Number]:
    detected = not (persons.visible > 0).any()
    if annotations is None and detected:
        annotations = persons.annotations
    if annotations is None:
        truth, against = coco_truth(persons), "the persons that are shown"
    else:
        truth, against = file_truth(annotations, persons), f"all of {Path(annotations).name}"
    results = coco_results(found.points, found.confidence, persons, nms=nms if detected else None)
    ap = evaluate_coco(truth, results, persons.joints.sigmas, boxes=persons.box_source)
    definition = (
        f"COCO's, by OKS; boxes: {ap.boxes}; {ap.predictions} predictions against {against},"
        f" {ap.persons} of them labelled; a person's score is the box's times the mean confidence"
        f" of the joints above {SURE}"
    )
    return [_Number(name, 100 * ap.numbers[name], definition) for name in SHOWN]


def _correct_keypoints(found: Predictions, persons: PersonSet) -> list[_Number]:
    numbers = []
    for rule in pck_rules(persons):
        result = judge_pck(found.points, persons, rule)
        numbers.append(
            _Number(rule.name, result.mean, rule.definition, result.per_joint, result.left_out)
        )
    return numbers


def _similarity(found: Predictions, persons: PersonSet) -> _Number:
    given = (found.points, persons.points, persons.visible, persons.area, persons.joints.sigmas)
    labelled = (persons.visible > 0).sum(0)
    return _Number(
        "OKS",
        100 * person_oks(*given).double().nanmean().item(),
        "the mean over persons of COCO's OKS of their labelled joints",
        tuple((100 * oks(*given).sum(0) / labelled).tolist()),
        left_out=int(((persons.visible > 0).sum(1) == 0).sum()),
    )
