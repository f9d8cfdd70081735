"""Persons from MPII's annotations: the JSON of pose code bases, and the official MATLAB file.

Both count pixels from 1; here they are counted from 0. A person's ``center`` (``objpos``) and
``scale`` (their height by 200 pixels) stand for a box: a square as high as the person, 15 pixels by
the scale below the centre, as is the practice since the centre lies too high.

Their heads are 0.6 times the diagonal of the head box, as MPII's own PCKh has it.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from classroomkd.errors import ClassroomError, nearest_path
from classroomkd.tasks.pose.data.checks import finite, floats
from classroomkd.tasks.pose.data.coco_file import read_json
from classroomkd.tasks.pose.data.gather import Bad, ImageFiles, Person, Tally, person_set
from classroomkd.tasks.pose.data.joints import joint_set
from classroomkd.tasks.pose.data.persons import PersonSet

_HEIGHT = 200.0  # pixels by the scale
_LOWER = 15.0  # pixels by the scale from the stated centre down to the box's
# MPII states no areas. COCO's persons with ten or more labelled joints cover about a quarter of
# the square of their height (medians of 0.24 and 0.27 in two samples).
_AREA = 0.25
_HEAD = 0.6
_UNITS = 16


def read_mpii_json(
    annotations: Path,
    images: Path,
    *,
    heads: Path | None = None,
    minimum_labelled: int = 1,
    bad: Bad = "error",
    name: str = "mpii",
) -> PersonSet:
    """Read a list of persons: ``image``, ``joints``, ``joints_vis``, ``center`` and ``scale``.

    Args:
        annotations: The JSON file.
        images: Folder of the images.
        heads: MATLAB file with the head boxes of the same persons in the same order, as
            ``headboxes_src`` ``[2, 2, N]`` (such as ``gt_valid.mat``). Without it the sizes of the
            heads are NaN.
        minimum_labelled: Labelled joints that a person must have.
        bad: ``error`` or ``skip``, for persons that are wrong, such as those of missing images.
        name: What to call the set.

    Raises:
        ClassroomError: If a file is wrong, or no person is left.
    """
    entries = read_json(annotations, list, "MPII's persons, as pose code bases have them")
    sizes = _head_sizes(heads, len(entries)) if heads else [math.nan] * len(entries)
    tally, files = Tally(annotations, bad), ImageFiles(images)
    stated = _json_persons(entries, sizes, tally)
    return _as_set(stated, minimum_labelled, files, tally, images, name, annotations)


def read_mpii_mat(
    annotations: Path,
    images: Path,
    *,
    minimum_labelled: int = 1,
    bad: Bad = "error",
    name: str = "mpii",
) -> PersonSet:
    """Read the training persons of ``mpii_human_pose_v1_u12_1.mat``.

    Those of its test images have no published joints.

    Args:
        annotations: The MATLAB file.
        images: Folder of the images.
        minimum_labelled: Labelled joints that a person must have.
        bad: ``error`` or ``skip``, for persons that are wrong, such as those of missing images.
        name: What to call the set.

    Raises:
        ClassroomError: If a file is wrong, or no person is left.
    """
    release = load_mat(annotations).get("RELEASE")
    annolist = _many(getattr(release, "annolist", None))
    train = _many(getattr(release, "img_train", None))
    if not annolist or len(annolist) != len(train):
        raise ClassroomError(
            f"{annotations}: has no RELEASE with an annolist and as many img_train; expected is "
            "mpii_human_pose_v1_u12_1.mat of human-pose.mpi-inf.mpg.de"
        )
    tally, files = Tally(annotations, bad), ImageFiles(images)
    entries = [entry for entry, flag in zip(annolist, train, strict=True) if _scalar(flag) == 1]
    stated = _mat_persons(entries, tally)
    return _as_set(stated, minimum_labelled, files, tally, images, name, annotations)


def load_mat(path: Path) -> dict[str, Any]:
    """The content of a MATLAB file, its structures as objects.

    Raises:
        ClassroomError: If there is no such file, it is none, or SciPy is not installed.
    """
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise ClassroomError("MATLAB files need SciPy: pip install scipy") from error
    if not path.is_file():
        raise ClassroomError(f"{path}: no such file{nearest_path(path)}")
    try:
        return loadmat(path, struct_as_record=False, squeeze_me=True)
    except Exception as error:  # SciPy raises nearly anything for a damaged file
        raise ClassroomError(f"{path}: is no MATLAB file that SciPy can read ({error})") from error


@dataclass
class _Stated:
    """A person as MPII states it: pixels count from 1."""

    index: int
    image: str
    points: np.ndarray
    visible: np.ndarray
    centre: list[float]
    scale: float
    head: float


def _as_set(
    stated: Iterable[_Stated],
    minimum_labelled: int,
    files: ImageFiles,
    tally: Tally,
    images: Path,
    name: str,
    source: Path,
) -> PersonSet:
    persons, first = [], {}
    for person in stated:
        if (person.visible > 0).sum() < minimum_labelled:
            tally.leave_out("persons with too few labelled joints")
        elif (size := files.look(person.image, None, tally)) is not None:
            image_id = first.setdefault(person.image, person.index)
            persons.append(_person(person, image_id, size))
    tally.check(len(persons))
    return person_set(
        persons,
        name,
        joint_set("mpii"),
        images,
        box_source=f"annotated centre and scale, {source.name}",
        notes=tally.notes(),
        annotations=source,
    )


def _person(stated: _Stated, image_id: int, size: tuple[int, int]) -> Person:
    """The same person in pixels that count from 0."""
    height = _HEIGHT * stated.scale
    x, y = stated.centre[0] - 1, stated.centre[1] - 1 + _LOWER * stated.scale
    return Person(
        stated.index,
        np.where(stated.visible[:, None] > 0, stated.points - 1, 0.0),
        stated.visible,
        (x - height / 2, y - height / 2, height, height),
        area=_AREA * height**2,
        image_id=image_id,
        file=stated.image,
        size=size,
        annotation_id=stated.index,
        head=stated.head,
    )


def _json_persons(entries: list[Any], heads: list[float], tally: Tally) -> Iterator[_Stated]:
    for index, (entry, head) in enumerate(zip(entries, heads, strict=True)):
        parts = _json_parts(entry) if isinstance(entry, dict) else None
        if parts is None:
            tally.wrong(
                "persons without image, 16 joints, joints_vis, center and scale", f"person {index}"
            )
        else:
            yield _Stated(index, *parts, head)


def _json_parts(
    entry: dict[str, Any],
) -> tuple[str, np.ndarray, np.ndarray, list[float], float] | None:
    """Image, points, visible, centre and scale, or None if a part is missing or wrong."""
    image, joints = entry.get("image"), entry.get("joints")
    if not isinstance(image, str) or not isinstance(joints, list) or len(joints) != _UNITS:
        return None
    points = [floats(point) for point in joints]
    flags, centre = finite(entry.get("joints_vis"), _UNITS), finite(entry.get("center"), 2)
    scale = finite([entry.get("scale")], 1)
    if flags is None or centre is None or scale is None or scale[0] <= 0:
        return None
    if any(point is None or len(point) != 2 for point in points):
        return None
    table, labelled = np.array(points), np.array(flags) > 0
    if not np.isfinite(table[labelled]).all():
        return None
    return image, table, np.where(labelled, 2, 0), centre, scale[0]


def _mat_persons(entries: list[Any], tally: Tally) -> Iterator[_Stated]:
    rectangles = (
        (getattr(getattr(entry, "image", None), "name", None), rectangle)
        for entry in entries
        for rectangle in _many(getattr(entry, "annorect", None))
    )
    for index, (image, rectangle) in enumerate(rectangles):
        points, visible = _mat_points(rectangle)
        place = getattr(rectangle, "objpos", None)
        centre = [_scalar(getattr(place, axis, None)) for axis in "xy"]
        scale = _scalar(getattr(rectangle, "scale", None))
        if not visible.any():
            tally.leave_out("persons with no labelled joint")
        elif finite([*centre, scale], 3) is None or scale <= 0:
            tally.leave_out("persons without a position and a scale")
        elif not isinstance(image, str) or not np.isfinite(points[visible > 0]).all():
            tally.wrong(
                "persons without an image or with joints that are no numbers",
                f"person {index} ({image})",
            )
        else:
            head = _head_size(rectangle)
            yield _Stated(index, image, points, visible, centre, scale, head)


def _mat_points(rectangle: Any) -> tuple[np.ndarray, np.ndarray]:
    """``[16, 2]`` points and ``[16]`` flags; the neck and the head's top have no flag: visible."""
    points, visible = np.zeros((_UNITS, 2)), np.zeros(_UNITS, np.int64)
    for point in _many(getattr(getattr(rectangle, "annopoints", None), "point", None)):
        unit = _scalar(getattr(point, "id", None))
        if unit not in range(_UNITS):
            continue
        points[int(unit)] = [_scalar(getattr(point, axis, None)) for axis in "xy"]
        flag = _scalar(getattr(point, "is_visible", None))
        visible[int(unit)] = 1 if flag == 0 else 2
    return points, visible


def _head_size(rectangle: Any) -> float:
    """Size of the head from its box; NaN without one."""
    x1, y1, x2, y2 = (_scalar(getattr(rectangle, key, None)) for key in ("x1", "y1", "x2", "y2"))
    return _HEAD * math.hypot(x2 - x1, y2 - y1) or math.nan


def _head_sizes(path: Path, count: int) -> list[float]:
    boxes = np.asarray(load_mat(path).get("headboxes_src"), np.float64)
    if boxes.shape == (2, 2) and count == 1:
        boxes = boxes[:, :, None]
    if boxes.shape != (2, 2, count):
        raise ClassroomError(
            f"{path}: needs headboxes_src of shape (2, 2, {count}), a head box for each person of "
            f"the annotations; found {boxes.shape}"
        )
    return (_HEAD * np.hypot(*(boxes[1] - boxes[0]))).tolist()


def _many(value: Any) -> list[Any]:
    """What MATLAB has as an array, a single element or nothing, as a list."""
    if value is None:
        return []
    if isinstance(value, np.ndarray):
        return list(value.ravel())
    return [value]


def _scalar(value: Any) -> float:
    """A number, or text of one; NaN if it is missing, empty or something else."""
    try:
        return float(np.asarray(value).ravel()[0])
    except (ValueError, TypeError, IndexError):
        return math.nan
