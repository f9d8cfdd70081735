"""COCO's annotations and results, as files and as dictionaries, and what can be wrong with them.

pycocotools answers most mistakes with an AP of -1, 0 or even 1: here they are errors.

``N`` persons, ``U`` joints.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from classroomkd.errors import ClassroomError

Truth = Mapping[str, Any]
Result = Mapping[str, Any]
_SHOWN = 3  # examples in a message


def read_json(path: Path | str, what: str) -> Any:
    """Read a JSON file.

    Raises:
        ClassroomError: if it is not there or no JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ClassroomError(f"the {what} {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ClassroomError(f"the {what} {path} are no JSON: {error}") from error


def write_results(results: Sequence[Result], path: Path | str) -> Path:
    """Write predictions in COCO's results format, a list of one entry a person.

    Returns:
        The file, whose folder is made where it is not there.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(list(results)), encoding="utf-8")
    return path


def keypoint_category(truth: Truth, category: str | int) -> Any:
    """The id of a category with joints, by its name or id.

    Raises:
        ClassroomError: if it is not there, or has no joints.
    """
    counts = _joint_counts(truth)
    known = {c.get("name", c["id"]): c["id"] for c in truth["categories"] if c["id"] in counts}
    if category in known.values():
        return category
    if category not in known:
        names = ", ".join(map(str, known)) or "none"
        raise ClassroomError(
            f"no category {category!r} with keypoints in the annotations (those with: {names})"
        )
    return known[category]


def clean_truth(truth: Truth, category: str | int | None = None) -> dict[str, Any]:
    """Annotations that pycocotools judges rightly, made of those given, which stay as they are.

    Only persons (annotations of categories with keypoints) are kept, numbered from 1: pycocotools
    takes the number 0 for "found nobody". Those without keypoints count as unlabelled.

    Args:
        truth: annotations.
        category: keep this category only, by name or id.

    Raises:
        ClassroomError: if they would be misjudged.
    """
    if not isinstance(truth, Mapping):
        raise ClassroomError("the annotations are not in COCO's format: no object at the top")
    for key in ("images", "annotations", "categories"):
        if key not in truth:
            raise ClassroomError(f"the annotations are not in COCO's format: no '{key}'")
    joints = _judged(truth, category)
    images = [image["id"] for image in truth["images"]]
    persons = [
        _person(annotation, joints)
        for annotation in truth["annotations"]
        if _need(annotation, "category_id", f"annotation {annotation.get('id')!r}") in joints
    ]
    _refuse_repeated(persons)
    labelled = [person for person in persons if person["num_keypoints"]]
    if not labelled:
        raise ClassroomError("the annotations have no person with a labelled joint")
    _refuse_unknown_images([p["image_id"] for p in labelled], images, "annotations")
    return {
        "images": [{"id": image} for image in images],
        "categories": [c for c in truth["categories"] if c["id"] in joints],
        "annotations": [{**person, "id": n} for n, person in enumerate(persons, 1)],
    }


def check_results(results: Sequence[Result], truth: Truth) -> None:
    """Refuse predictions that pycocotools would misjudge.

    Args:
        results: in COCO's results format.
        truth: from `clean_truth`.

    Raises:
        ClassroomError: for results that are no list, entries without a key, images or categories
            that the annotations do not have, a wrong number of joints, or numbers that are not
            finite.
    """
    if isinstance(results, Mapping) or not isinstance(results, Sequence):
        raise ClassroomError("the predictions are not in COCO's results format: no list at the top")
    joints = _joint_counts(truth)
    for place, result in enumerate(results):
        here = f"prediction {place}"
        _need(result, "image_id", here)
        category = _need(result, "category_id", here)
        if category not in joints:
            known = ", ".join(map(repr, joints))
            raise ClassroomError(f"{here} is of category {category!r}; those judged are: {known}")
        keypoints = _need(result, "keypoints", here)
        _refuse_length(here, keypoints, joints[category])
        if not all(map(math.isfinite, [*keypoints, _need(result, "score", here)])):
            raise ClassroomError(f"{here} has numbers that are not finite, which match anybody")
    images = [image["id"] for image in truth["images"]]
    _refuse_unknown_images([r["image_id"] for r in results], images, "predictions")


def _joint_counts(truth: Truth) -> dict[Any, int]:
    """The number of joints of each category that has any, by its id."""
    shown = {a.get("category_id"): a["keypoints"] for a in truth["annotations"] if "keypoints" in a}
    counts = {
        c["id"]: len(c.get("keypoints") or ()) or len(shown.get(c["id"], ())) // 3
        for c in truth["categories"]
    }
    return {category: count for category, count in counts.items() if count}


def _judged(truth: Truth, category: str | int | None) -> dict[Any, int]:
    """The number of joints of each category that is judged: of the one named, or of all."""
    counts = _joint_counts(truth)
    if category is not None:
        chosen = keypoint_category(truth, category)
        return {chosen: counts[chosen]}
    if len(set(counts.values())) > 1:
        raise ClassroomError(
            "the annotations' categories have different numbers of joints: choose a category"
        )
    return counts


def _person(annotation: Mapping[str, Any], joints: Mapping[Any, int]) -> dict[str, Any]:
    """What pycocotools needs of an annotation; unlabelled ones may lack nearly everything."""
    here = f"annotation {annotation.get('id')!r}"
    count = joints[annotation["category_id"]]
    keypoints = annotation.get("keypoints") or [0] * (3 * count)
    _refuse_length(here, keypoints, count)
    labelled = sum(flag > 0 for flag in keypoints[2::3])
    stated = annotation.get("num_keypoints", labelled)
    if bool(stated) != bool(labelled):
        raise ClassroomError(
            f"{here} has {labelled} labelled joints, but says {stated} in 'num_keypoints': mend"
            " that number or leave it out"
        )
    if labelled:
        _refuse_unmeasured(here, annotation)
    return {
        "id": annotation.get("id"),
        "image_id": _need(annotation, "image_id", here),
        "category_id": annotation["category_id"],
        "keypoints": list(keypoints),
        "num_keypoints": stated,
        "area": annotation.get("area") or 0,
        "bbox": list(annotation.get("bbox") or [0, 0, 0, 0]),
        "iscrowd": annotation.get("iscrowd", 0),
    }


def _need(entry: Mapping[str, Any], key: str, here: str) -> Any:
    if key not in entry:
        raise ClassroomError(f"{here} has no '{key}'")
    return entry[key]


def _refuse_unmeasured(here: str, annotation: Mapping[str, Any]) -> None:
    """The area says how far off a joint may be."""
    area = _need(annotation, "area", here)
    if not (math.isfinite(area) and area > 0):
        raise ClassroomError(f"{here} has an area of {area}: nothing could ever match it")
    if not all(map(math.isfinite, annotation["keypoints"])):
        raise ClassroomError(f"{here} has coordinates that are not finite")


def _refuse_length(here: str, keypoints: Sequence[float], joints: int) -> None:
    if len(keypoints) != 3 * joints:
        raise ClassroomError(
            f"{here} has {len(keypoints)} keypoint numbers, not 3 x {joints} joints (x, y, flag)"
        )


def _refuse_repeated(persons: Sequence[Mapping[str, Any]]) -> None:
    counts = Counter(person["id"] for person in persons if person["id"] is not None)
    repeated = [repr(number) for number, count in counts.items() if count > 1]
    if repeated:
        examples = ", ".join(repeated[:_SHOWN])
        raise ClassroomError(f"{len(repeated)} annotation ids are there twice: {examples}")


def _refuse_unknown_images(named: Sequence[Any], images: Sequence[Any], what: str) -> None:
    known = set(images)
    unknown = list(dict.fromkeys(name for name in named if name not in known))
    if not unknown:
        return
    examples = ", ".join(repr(name) for name in unknown[:_SHOWN])
    hint = f"{len(unknown)} image ids of the {what} are not among the annotations' images"
    if {str(name) for name in unknown} & {str(image) for image in known}:
        raise ClassroomError(f"{hint}: {examples} is a number in one and a text in the other")
    raise ClassroomError(f"{hint}: {examples}; are they of another split?")
