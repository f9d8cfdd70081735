"""Names of pose networks: ``pose/BACKBONE/HEAD`` and ``pose/ORIGIN/NAME``."""

from typing import NamedTuple

from classroomkd.errors import unknown_name
from classroomkd.models.external import from_timm, from_transformers
from classroomkd.tasks.pose.models.heads import HEADS
from classroomkd.tasks.pose.models.small import SMALL

HOW_TO_NAME_POSE = {
    "pose/small/heatmap": "for small crops; so are tiny and base; simcc in place of heatmap",
    "pose/TIMM/heatmap": "a model of timm that gives maps: pose/hrnet_w32/heatmap",
    "pose/hf/ID or FOLDER": "a ViTPose of transformers: pose/hf/usyd-community/vitpose-base-simple",
    "pose/torchvision/NAME": "keypointrcnn_resnet50_fpn, asked about the whole crop",
}
KEYPOINT_RCNN = "keypointrcnn_resnet50_fpn"
KEYPOINT_RCNN_WEIGHTS = ("COCO_LEGACY", "COCO_V1")


class PoseName(NamedTuple):
    """A name in two parts.

    Attributes:
        body: a backbone, or an origin: ``hf`` or ``torchvision``.
        rest: a head, or the name that the model has there.
    """

    body: str
    rest: str

    def __str__(self) -> str:
        return f"pose/{self.body}/{self.rest}"


def parse_pose_name(name: str) -> PoseName:
    """Take a name apart, in full; nothing is built.

    Raises:
        ValueError: no such origin, backbone, head or model, naming the nearest, or the package that
            it needs is missing.

    >>> parse_pose_name("Pose/resnet18/HEATMAP")
    PoseName(body='resnet18', rest='heatmap')
    >>> str(parse_pose_name("pose/small/simcc"))
    'pose/small/simcc'
    """
    prefix, _, path = name.partition("/")
    body, _, rest = path.partition("/")
    if prefix.lower() != "pose" or not rest:
        forms = ", ".join(HOW_TO_NAME_POSE)
        raise ValueError(f"'{name}' is no name of a pose network (they look like {forms})")
    if body.lower() == "hf":
        return PoseName("hf", from_transformers.check(rest))
    if body.lower() == "torchvision":
        return PoseName("torchvision", _check_torchvision(rest))
    if rest.lower() not in HEADS:
        raise ValueError(unknown_name("head of a pose network", rest, HEADS))
    if body.lower() in SMALL:
        return PoseName(body.lower(), rest.lower())
    try:
        return PoseName(from_timm.check(body), rest.lower())
    except ValueError as error:
        raise ValueError(f"{error}; or one of the package's own: {', '.join(SMALL)}") from error


def _check_torchvision(name: str) -> str:
    architecture, _, tag = name.partition(".")
    if architecture != KEYPOINT_RCNN:
        raise ValueError(unknown_name("pose network of torchvision", name, [KEYPOINT_RCNN]))
    if tag and tag not in KEYPOINT_RCNN_WEIGHTS:
        raise ValueError(unknown_name("weights of Keypoint R-CNN", tag, KEYPOINT_RCNN_WEIGHTS))
    return name
