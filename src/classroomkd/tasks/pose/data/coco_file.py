"""The parts of a file in COCO's keypoint format: its category, the category's joints, its images.

``U`` joints of a joint set.
"""

import json
from pathlib import Path
from typing import Any

from classroomkd.errors import ClassroomError, nearest_path, unknown_name
from classroomkd.tasks.pose.data.checks import is_whole
from classroomkd.tasks.pose.data.joints import JointSet, canonical, custom_joints, known_joints


def read_json(path: Path, kind: type, what: str) -> Any:
    """The content of a JSON file, which must be of a ``kind``.

    Raises:
        ClassroomError: If there is no such file, it is no JSON, or of another kind.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        reason = error.strerror or str(error)
        raise ClassroomError(f"{path}: {reason} ({what}){nearest_path(path)}") from error
    except ValueError as error:
        raise ClassroomError(f"{path}: is no JSON file ({error}); {what} was expected") from error
    if not isinstance(content, kind):
        found = type(content).__name__
        raise ClassroomError(f"{path}: holds a {found}, not a {kind.__name__}: is it {what}?")
    return content


class CocoFile:
    """An annotation file, read.

    Args:
        path: Of the file.

    Attributes:
        annotations: Its annotations, as they are.
        images: Its images by their ids.

    Raises:
        ClassroomError: If it cannot be read, lacks a part, or has unusable or repeated image ids.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        content = read_json(path, dict, "annotations in COCO's format")
        for part in ("images", "annotations", "categories"):
            entries = content.get(part)
            if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
                raise ClassroomError(
                    f"{path}: has no list of '{part}', which COCO's keypoint format asks for "
                    f"(found: {', '.join(map(str, content)) or 'nothing'})"
                )
        self.annotations: list[dict[str, Any]] = content["annotations"]
        self._categories: list[dict[str, Any]] = content["categories"]
        self.images: dict[int, dict[str, Any]] = {}
        for image in content["images"]:
            key, file = image.get("id"), image.get("file_name")
            if not is_whole(key) or not isinstance(file, str):
                raise ClassroomError(
                    f"{path}: an image needs an id that is a whole number, and a file_name; "
                    f"found id {key!r}, file_name {file!r}"
                )
            if key in self.images:
                raise ClassroomError(f"{path}: two images have the id {key}")
            self.images[key] = image

    def category(self, name: str | None) -> dict[str, Any]:
        """The category of that name, or the only one that has keypoints.

        Raises:
            ClassroomError: If there is none, several and no name, or it has no number; lists what
                there is.
        """
        names = [str(entry.get("name")) for entry in self._categories]
        if name is not None:
            if name not in names:
                raise ClassroomError(f"{self.path}: {unknown_name('category', name, names)}")
            able = [self._categories[names.index(name)]]
        else:
            able = [entry for entry in self._categories if entry.get("keypoints")]
            able = able or (self._categories if len(self._categories) == 1 else [])
        if len(able) != 1:
            why = "several categories have keypoints" if able else "no category has keypoints"
            listed = ", ".join(names) or "none"
            raise ClassroomError(f"{self.path}: {why}: give category, one of: {listed}")
        if not is_whole(number := able[0].get("id")):
            label = able[0].get("name")
            raise ClassroomError(
                f"{self.path}: category '{label}' has the id {number!r}, not a whole number"
            )
        return able[0]

    def joints(
        self, category: dict[str, Any], wanted: JointSet | None
    ) -> tuple[JointSet, list[int]]:
        """The category's joint set, and where each of its joints is in an annotation.

        Args:
            category: Its entry.
            wanted: The joint set to read as; its joints are found by name. None: the known set that
                has the category's joints, in the known set's order, or else a set of its own.

        Returns:
            The set and ``U`` places, -1 for a joint that the category lacks.

        Raises:
            ClassroomError: If the category names no joints, some twice, or some that ``wanted``
                lacks; lists those.
        """
        names = category.get("keypoints")
        label = f"{self.path}: category '{category.get('name')}'"
        if not names and wanted is not None:
            return wanted, list(range(len(wanted)))
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ClassroomError(f"{label} has no list of names of its keypoints")
        own = [canonical(name) for name in names]
        if len(set(own)) != len(own):
            twice = sorted({name for name in own if own.count(name) > 1})
            raise ClassroomError(f"{label} names keypoints twice: {', '.join(twice)}")
        joints = wanted or known_joints(names)
        if joints is None:
            skeleton = category.get("skeleton") or []
            edges = [[place - 1 for place in edge] for edge in skeleton]
            try:
                joints = custom_joints(str(category.get("name")), names, edges)
            except (ValueError, TypeError, IndexError) as error:
                raise ClassroomError(f"{label}: {error}") from error
        if unknown := [name for name in own if name not in joints.names]:
            raise ClassroomError(
                f"{label} has joints that the joint set '{joints.name}' lacks: "
                f"{', '.join(unknown)} (it has {', '.join(joints.names)})"
            )
        return joints, [own.index(name) if name in own else -1 for name in joints.names]
