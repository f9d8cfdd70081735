"""Persons from a file in COCO's keypoint format, of any category and any joints.

``U`` joints of the joint set.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from classroomkd.tasks.pose.data.checks import finite, floats, is_whole
from classroomkd.tasks.pose.data.coco_file import CocoFile, read_json
from classroomkd.tasks.pose.data.gather import (
    Bad,
    ImageFiles,
    Person,
    Tally,
    clip_box,
    labelled_extent,
    person_set,
)
from classroomkd.tasks.pose.data.joints import JointSet
from classroomkd.tasks.pose.data.persons import PersonSet


def read_coco(
    annotations: Path,
    images: Path,
    *,
    category: str | None = None,
    joints: JointSet | None = None,
    detections: Path | None = None,
    minimum_labelled: int = 1,
    bad: Bad = "error",
    name: str | None = None,
) -> PersonSet:
    """Read the persons of an annotation file, or boxes that a detector found in its images.

    Crowds, persons with too few labelled joints, and boxes without an area or outside the image are
    left out and counted in ``notes``. A box that reaches out of the image is clipped. Where a box
    is missing or empty, that around the labelled joints stands in; where an area is missing, that
    of the box. Coordinates are taken as they are. Joints are found by their names, in any order.

    Args:
        annotations: The JSON file.
        images: Folder that its ``file_name`` s are in.
        category: Name of the category; None for the only one that has keypoints.
        joints: What to read the joints as. None: the known set that has the category's joints, or
            else a set of its own.
        detections: JSON file of boxes in COCO's results format (``image_id``, ``category_id``,
            ``bbox``, ``score``). Then each box is a person, and none has labelled joints.
        minimum_labelled: Labelled joints that a person must have; not for detections.
        bad: What to do about annotations that are wrong, such as those of missing image files:
            ``error``, naming them, or ``skip`` and count them.
        name: What to call the set; None for the file's name.

    Raises:
        ClassroomError: If something is wrong in a file, or no person is left.
        ValueError: If ``minimum_labelled`` or ``bad`` is out of range.
    """
    if minimum_labelled < 0:
        raise ValueError(f"minimum_labelled must be 0 or more, not {minimum_labelled}")
    file = CocoFile(annotations)
    entry = file.category(category)
    joints, order = file.joints(entry, joints)
    reading = _Reading(file, entry, joints, order, ImageFiles(images))
    if detections is None:
        tally = Tally(annotations, bad)
        persons = list(reading.annotated(tally, minimum_labelled))
        source = f"annotated, {annotations.name}"
    else:
        tally = Tally(detections, bad)
        persons = list(reading.detected(read_json(detections, list, "detected boxes"), tally))
        source = f"detected, {detections.name}"
    tally.check(len(persons))
    return person_set(
        persons,
        name or annotations.stem,
        joints,
        images,
        box_source=source,
        notes=tally.notes() + _lacking(joints, order),
        annotations=annotations,
        category=reading.category,
    )


class _Reading:
    """Turns entries of a file into persons, and tells the tally of those that are none."""

    def __init__(
        self,
        file: CocoFile,
        category: dict[str, Any],
        joints: JointSet,
        order: list[int],
        images: ImageFiles,
    ) -> None:
        self._file, self._joints, self._order, self._images = file, joints, order, images
        self.category: int = category["id"]
        self._flat = 3 * len(category.get("keypoints") or joints.names)

    def annotated(self, tally: Tally, minimum_labelled: int) -> Iterator[Person]:
        """The persons that the file annotates."""
        seen = set()
        for index, annotation in enumerate(self._file.annotations):
            if annotation.get("category_id") != self.category:
                tally.leave_out("annotations of other categories")
                continue
            number = annotation.get("id")
            if not is_whole(number):
                tally.wrong("ids that are no whole numbers", f"{number!r}")
                continue
            if number in seen:
                tally.wrong("annotation ids that another has, too", f"{number}")
                continue
            seen.add(number)
            if annotation.get("iscrowd"):
                tally.leave_out("crowds")
                continue
            joints = self._points(annotation, tally)
            if joints is None:
                continue
            if (joints[1] > 0).sum() < minimum_labelled:
                least = "no labelled joint"
                if minimum_labelled > 1:
                    least = f"fewer than {minimum_labelled} labelled joints"
                tally.leave_out(f"persons with {least}")
                continue
            person = self._person(index, annotation, f"annotation {number}", tally, *joints)
            if person is not None:
                yield person

    def detected(self, boxes: list[Any], tally: Tally) -> Iterator[Person]:
        """A person for each detected box of the category."""
        points = np.zeros((len(self._joints), 2)), np.zeros(len(self._joints), np.int64)
        for index, box in enumerate(boxes):
            what = f"detection {index}"
            if not isinstance(box, dict):
                tally.wrong("entries that are no objects", what)
                continue
            if box.get("category_id", self.category) != self.category:
                continue
            score = finite([box.get("score")], 1)
            if score is None:
                tally.wrong("scores that are no numbers", what)
                continue
            entry = {key: box.get(key) for key in ("image_id", "bbox")}
            person = self._person(index, entry, what, tally, *points)
            if person is not None:
                person.score = float(score[0])
                yield person

    def _points(
        self, annotation: dict[str, Any], tally: Tally
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """``[U, 2]`` points, 0 where not labelled, and ``[U]`` flags; None if they are wrong."""
        flat = annotation.get("keypoints") or [0] * self._flat
        what = f"annotation {annotation['id']}"
        if not isinstance(flat, list) or len(flat) != self._flat:
            found = len(flat) if isinstance(flat, list) else type(flat).__name__
            tally.wrong(f"keypoints that are not {self._flat} numbers", f"{what} ({found})")
            return None
        values = floats(flat)
        if values is None:
            tally.wrong("keypoints that are no numbers", what)
            return None
        # The last row stands for joints that the category lacks, to which -1 points.
        table = np.concatenate([values.reshape(-1, 3), np.zeros((1, 3))])[self._order]
        points, flags = table[:, :2], table[:, 2]
        if not np.isin(flags, (0, 1, 2)).all():
            tally.wrong("visibility flags other than 0, 1 and 2", what)
            return None
        labelled = flags > 0
        if not np.isfinite(points[labelled]).all():
            tally.wrong("labelled joints without finite coordinates", what)
            return None
        return np.where(labelled[:, None], points, 0.0), flags.astype(np.int64)

    def _person(
        self,
        index: int,
        entry: dict[str, Any],
        what: str,
        tally: Tally,
        points: np.ndarray,
        visible: np.ndarray,
    ) -> Person | None:
        key: Any = entry.get("image_id")
        if not is_whole(key) or key not in self._file.images:
            tally.wrong("image ids that no image has", f"{key!r} of {what}")
            return None
        image = self._file.images[key]
        stated = image.get("width"), image.get("height")
        known = all(is_whole(side) and side > 0 for side in stated)  # pyright: ignore[reportOptionalOperand]
        size = self._images.look(image["file_name"], stated if known else None, tally)  # pyright: ignore[reportArgumentType]
        if size is None:
            return None
        box = _box(entry.get("bbox"), size, points, visible, tally)
        if box is None:
            return None
        area = finite([entry.get("area")], 1)
        if area is None or area[0] <= 0:
            if visible.any():
                tally.mend("areas that were missing: those of the boxes stand in")
            area = [box[2] * box[3]]
        return Person(
            index,
            points,
            visible,
            box,
            float(area[0]),
            image_id=key,
            file=image["file_name"],
            size=size,
            annotation_id=entry.get("id", -1),
        )


def _box(
    raw: object, size: tuple[int, int], points: np.ndarray, visible: np.ndarray, tally: Tally
) -> tuple[float, float, float, float] | None:
    """The box within the image, or None if there is none; tells the tally why."""
    values = finite(raw, 4)
    if values is None or min(values[2:]) <= 0:
        values = labelled_extent(points, visible)
        if min(values[2:]) <= 0:
            tally.leave_out("boxes without an area")
            return None
        tally.mend("boxes without an area: those around the labelled joints stand in")
    box = clip_box(values, size)
    if min(box[2:]) <= 0:
        tally.leave_out("boxes outside the image")
        return None
    if not np.allclose(box, values, atol=1e-3):
        tally.mend("boxes that reach out of the image: clipped")
    return box


def _lacking(joints: JointSet, order: list[int]) -> tuple[str, ...]:
    lacking = [name for name, place in zip(joints.names, order, strict=True) if place < 0]
    return (f"never labelled: {', '.join(lacking)}",) if lacking else ()
