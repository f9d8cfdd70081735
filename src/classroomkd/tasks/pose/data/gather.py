"""What readers of annotations share: persons as they are read, and an account of what is wrong.

``U`` joints of a person.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from classroomkd.errors import ClassroomError, nearest_path
from classroomkd.tasks.pose.data.joints import JointSet
from classroomkd.tasks.pose.data.persons import PersonSet

Bad = Literal["error", "skip"]
_EXAMPLES = 3


class Tally:
    """Counts what a reader leaves out or mends, and what is wrong in a file.

    Args:
        source: The file that is read.
        bad: Whether something wrong is an error, once all is read, or left out as well.

    Raises:
        ValueError: If ``bad`` is neither.

    >>> tally = Tally(Path("persons.json"), "skip")
    >>> tally.leave_out("crowds")
    >>> tally.wrong("boxes that are no numbers", "annotation 7")
    >>> tally.notes()
    ('left out: 1 of crowds', 'left out: 1 of boxes that are no numbers')
    """

    def __init__(self, source: Path, bad: Bad) -> None:
        if bad not in ("error", "skip"):
            raise ValueError(f"bad must be 'error' or 'skip', not {bad!r}")
        self._source, self._bad = source, bad
        self._left_out: dict[str, int] = {}
        self._mended: dict[str, int] = {}
        self._wrong: dict[str, list[str]] = {}

    def leave_out(self, kind: str) -> None:
        """Count one more of what every reader leaves out."""
        self._left_out[kind] = self._left_out.get(kind, 0) + 1

    def mend(self, kind: str) -> None:
        """Count one more of what was mended."""
        self._mended[kind] = self._mended.get(kind, 0) + 1

    def wrong(self, kind: str, example: str) -> None:
        """Count one more of what should not be there."""
        self._wrong.setdefault(kind, []).append(example)

    def check(self, persons: int) -> None:
        """A ClassroomError if something is wrong and may not be, or if no person is left."""
        if self._wrong and self._bad == "error":
            lines = [
                f"  {len(examples)} of {kind}: {', '.join(examples[:_EXAMPLES])}"
                + (", …" if len(examples) > _EXAMPLES else "")
                for kind, examples in self._wrong.items()
            ]
            raise ClassroomError(
                f"{self._source}: some annotations are wrong\n" + "\n".join(lines) + "\n"
                "Mend the file, or leave such annotations out with bad: skip"
            )
        if not persons:
            reasons = "; ".join(self.notes()) or "it has no annotations"
            raise ClassroomError(f"{self._source}: no person to show ({reasons})")

    def notes(self) -> tuple[str, ...]:
        """The counts, in sentences."""
        left_out = self._left_out | {kind: len(found) for kind, found in self._wrong.items()}
        return (
            *(f"left out: {count} of {kind}" for kind, count in left_out.items()),
            *(f"mended: {count} of {kind}" for kind, count in self._mended.items()),
        )


@dataclass
class Person:
    """One person as read; the fields are those of a `PersonSet`."""

    index: int
    points: np.ndarray
    visible: np.ndarray
    box: Sequence[float]
    area: float
    image_id: int
    file: str
    size: tuple[int, int]
    annotation_id: int = -1
    score: float = 1.0
    head: float = float("nan")


def person_set(
    persons: Sequence[Person], name: str, joints: JointSet, root: Path, **facts: Any
) -> PersonSet:
    """A `PersonSet` of persons; ``facts`` are its other fields."""
    sizes = {person.file: person.size for person in persons}
    places = {file: place for place, file in enumerate(sizes)}

    def column(field: str, dtype: torch.dtype) -> torch.Tensor:
        return torch.tensor(np.array([getattr(person, field) for person in persons]), dtype=dtype)

    return PersonSet(
        name,
        joints,
        **{key: column(key, torch.float32) for key in ("points", "box", "area", "head", "score")},
        **{
            key: column(key, torch.int64)
            for key in ("index", "visible", "image_id", "annotation_id")
        },
        image=torch.tensor([places[person.file] for person in persons]),
        root=root,
        files=tuple(sizes),
        sizes=torch.tensor(list(sizes.values())),
        **facts,
    )


class ImageFiles:
    """The image files of a folder, looked at once each.

    Args:
        root: The folder.

    Raises:
        ClassroomError: If there is no such folder.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise ClassroomError(f"{root}: no such folder of images{nearest_path(root)}")
        self._root = root
        self._seen: dict[str, tuple[int, int] | str] = {}

    def look(self, file: str, size: tuple[int, int] | None, tally: Tally) -> tuple[int, int] | None:
        """Width and height of a file: ``size`` if known, else as its header says.

        None if it is missing or no image, which the tally is told each time.
        """
        if file not in self._seen:
            self._seen[file] = self._open(file, size)
        found = self._seen[file]
        if isinstance(found, str):
            tally.wrong(f"{found} in {self._root}", file)
            return None
        return found

    def _open(self, file: str, size: tuple[int, int] | None) -> tuple[int, int] | str:
        path = self._root / file
        if not path.is_file():
            return "image files that are not"
        if size is not None:
            return size
        try:
            with Image.open(path) as image:
                return image.size
        except Exception:  # a damaged file can raise nearly anything
            return "files that are no images"


def labelled_extent(points: np.ndarray, visible: np.ndarray) -> tuple[float, float, float, float]:
    """The box around the labelled joints, a tenth larger on every side: left, top, width, height.

    >>> labelled_extent(np.array([[0, 0], [10, 20], [90, 90]]), np.array([2, 1, 0]))
    (-1.0, -2.0, 12.0, 24.0)
    """
    chosen = points[visible > 0]
    if not len(chosen):
        return 0.0, 0.0, 0.0, 0.0
    least = chosen.min(0)
    left, top = least - (span := chosen.max(0) - least) * 0.1
    width, height = span * 1.2
    return float(left), float(top), float(width), float(height)


def clip_box(box: Sequence[float], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The part of a box that lies in an image, from 0 to its width and height; maybe empty.

    >>> clip_box((-5.0, 10.0, 20.0, 20.0), (100, 25))
    (0.0, 10.0, 15.0, 15.0)
    """
    left, top = max(box[0], 0.0), max(box[1], 0.0)
    right, bottom = min(box[0] + box[2], size[0]), min(box[1] + box[3], size[1])
    return left, top, max(right - left, 0.0), max(bottom - top, 0.0)
