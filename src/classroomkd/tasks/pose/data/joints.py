"""Sets of joints: their names, which mirror each other, and how they map onto one another.

``U`` joints of a person.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from classroomkd.errors import unknown_name

Pairs = tuple[tuple[int, int], ...]

# One standard deviation of an annotator, as a share of the square root of the person's area, per
# kind of joint. COCO's are measured by its authors (cocodataset.org, keypoints-eval); those of the
# head's top and the neck are CrowdPose's. Nobody has measured the pelvis and the thorax: they are
# as the hips and the shoulders, which they lie between.
_SIGMAS = {
    "nose": 0.026, "eye": 0.025, "ear": 0.035, "shoulder": 0.079, "elbow": 0.072, "wrist": 0.062,
    "hip": 0.107, "knee": 0.087, "ankle": 0.089, "head_top": 0.079, "neck": 0.079,
    "thorax": 0.079, "pelvis": 0.107,
}  # fmt: skip
_UNKNOWN_SIGMA = 0.079
_LOWER = ("hip", "knee", "ankle", "pelvis", "foot", "toe", "heel")
_ALIASES = {
    "upper_neck": "neck", "top_head": "head_top", "top_of_head": "head_top", "headtop": "head_top",
    "chest": "thorax", "root": "pelvis",
}  # fmt: skip


@dataclass(frozen=True)
class JointSet:
    """The joints that a data set labels, in its order.

    Args:
        name: What the set is called.
        names: Of the ``U`` joints, canonical (see `canonical`).
        pairs: Places of joints that mirror each other, left before right.
        skeleton: Pairs of joints to draw a line between.
        sigmas: For OKS, one per joint.
        upper: Places of the joints of the upper body.
        lower: Places of the joints of the lower body.

    Raises:
        ValueError: If names repeat, a place is out of range, or sigmas are not ``U`` positive ones.

    >>> lsp = joint_set("lsp")
    >>> len(lsp), lsp.names[lsp.mirrored[0]]
    (14, 'left_ankle')
    """

    name: str
    names: tuple[str, ...]
    pairs: Pairs
    skeleton: Pairs
    sigmas: tuple[float, ...]
    upper: tuple[int, ...]
    lower: tuple[int, ...]

    def __post_init__(self) -> None:
        count = len(self.names)
        if not count or len(set(self.names)) != count:
            raise ValueError(f"joints {self.name}: names must differ, and be one or more")
        if len(self.sigmas) != count or min(self.sigmas) <= 0:
            raise ValueError(f"joints {self.name}: sigmas must be {count} positive numbers")
        mirrored = [place for pair in self.pairs for place in pair]
        if len(set(mirrored)) != len(mirrored):
            raise ValueError(f"joints {self.name}: a joint mirrors two others")
        drawn = [place for edge in self.skeleton for place in edge]
        for place in [*mirrored, *drawn, *self.upper, *self.lower]:
            if not 0 <= place < count:
                raise ValueError(f"joints {self.name}: there is no joint {place} of {count}")

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def mirrored(self) -> tuple[int, ...]:
        """For each joint the place of the one that it becomes in a mirror."""
        places = list(range(len(self)))
        for left, right in self.pairs:
            places[left], places[right] = right, left
        return tuple(places)


def canonical(name: str) -> str:
    """One spelling of a joint's name: lower case, words joined by ``_``, the side first.

    >>> canonical("R Ankle"), canonical("leftKnee"), canonical("upper_neck")
    ('right_ankle', 'left_knee', 'neck')
    """
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    words = [word for word in re.split(r"[\W_]+", spaced.lower()) if word]
    sides = {"l": "left", "r": "right", "left": "left", "right": "right"}
    if len(words) > 1 and words[0] not in sides and words[-1] in sides:
        words = [words[-1], *words[:-1]]
    if len(words) > 1 and words[0] in sides:
        words[0] = sides[words[0]]
    joined = "_".join(words)
    return _ALIASES.get(joined, joined)


def custom_joints(
    name: str, names: Iterable[str], skeleton: Sequence[Sequence[int]] = ()
) -> JointSet:
    """A joint set from names alone, as a COCO category gives them.

    ``left_x`` and ``right_x`` mirror each other; sigmas are those of the same kind of joint in the
    known sets, and 0.079 for joints that are in none; hips and what hangs on them are the lower
    body.

    Args:
        name: What to call the set.
        names: Of the joints, in any spelling.
        skeleton: Places of joints to draw a line between, from 0.

    Raises:
        ValueError: If two names are the same joint.

    >>> custom_joints("face", ["nose", "left_eye", "right_eye"]).pairs
    ((1, 2),)
    """
    own = tuple(canonical(joint) for joint in names)
    kinds = [joint.removeprefix("left_").removeprefix("right_") for joint in own]
    lower = tuple(place for place, kind in enumerate(kinds) if kind.endswith(_LOWER))
    return JointSet(
        name,
        own,
        pairs=tuple(
            (place, own.index(other))
            for place, joint in enumerate(own)
            if joint.startswith("left_")
            and (other := "right_" + joint.removeprefix("left_")) in own
        ),
        skeleton=tuple((edge[0], edge[1]) for edge in skeleton),
        sigmas=tuple(_SIGMAS.get(kind, _UNKNOWN_SIGMA) for kind in kinds),
        upper=tuple(place for place in range(len(own)) if place not in lower),
        lower=lower,
    )


def joint_set(name: str) -> JointSet:
    """The joints of ``coco`` (17), ``mpii`` (16) or ``lsp`` (14, those of LSPET, too).

    Raises:
        ValueError: If no set has that name; the message gives the nearest one.

    >>> joint_set("mpii").names[6:10]
    ('pelvis', 'thorax', 'neck', 'head_top')
    """
    if name not in _SETS:
        raise ValueError(unknown_name("joint set", name, _SETS))
    return _SETS[name]


def known_joints(names: Iterable[str]) -> JointSet | None:
    """The known set that has exactly these joints, in whatever order and spelling, or None."""
    own = sorted(canonical(name) for name in names)
    return next((known for known in _SETS.values() if sorted(known.names) == own), None)


def joint_map(mentor: JointSet, student: JointSet) -> Tensor:
    """Where each of the student's joints is among the mentor's; -1 where the mentor lacks it.

    Returns:
        ``[U]`` int64, ``U`` of the student.

    >>> joint_map(joint_set("mpii"), joint_set("lsp")).tolist()
    [0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 15, 8, 9]
    >>> joint_map(joint_set("coco"), joint_set("lsp"))[-2:].tolist()
    [-1, -1]
    """
    places = {name: place for place, name in enumerate(mentor.names)}
    return torch.tensor([places.get(name, -1) for name in student.names], dtype=torch.int64)


def _sides(*kinds: str) -> list[str]:
    return [f"{side}_{kind}" for kind in kinds for side in ("left", "right")]


_RIGHT_THEN_LEFT = ["right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle"]
_ARMS = [
    "right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist",
]  # fmt: skip
_SETS = {
    "coco": custom_joints(
        "coco",
        ["nose", *_sides("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")],
        [
            (15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7),
            (6, 8), (7, 9), (8, 10), (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6),
        ],
    ),
    "mpii": custom_joints(
        "mpii",
        [*_RIGHT_THEN_LEFT, "pelvis", "thorax", "neck", "head_top", *_ARMS],
        [
            (0, 1), (1, 2), (2, 6), (6, 3), (3, 4), (4, 5), (6, 7), (7, 8), (8, 9),
            (10, 11), (11, 12), (12, 7), (7, 13), (13, 14), (14, 15),
        ],
    ),
    "lsp": custom_joints(
        "lsp",
        [*_RIGHT_THEN_LEFT, *_ARMS, "neck", "head_top"],
        [
            (0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (6, 7), (7, 8), (8, 12), (12, 9), (9, 10),
            (10, 11), (12, 13), (2, 8), (3, 9),
        ],
    ),
}  # fmt: skip
