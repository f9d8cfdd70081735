"""Networks that find joints in crops of persons, and what their outputs mean."""

from classroomkd.tasks.pose.models.build import build_pose_model
from classroomkd.tasks.pose.models.codec import (
    Codec,
    HeatmapCodec,
    SimCCCodec,
    heatmap_codec,
    simcc_codec,
)
from classroomkd.tasks.pose.models.files import (
    PoseStudentFile,
    load_pose_student,
    save_pose_student,
)
from classroomkd.tasks.pose.models.flip import flip_test
from classroomkd.tasks.pose.models.grid import Grid
from classroomkd.tasks.pose.models.names import HOW_TO_NAME_POSE, parse_pose_name
from classroomkd.tasks.pose.models.network import PoseNetwork
from classroomkd.tasks.pose.models.transfer import to_codec

__all__ = [
    "HOW_TO_NAME_POSE",
    "Codec",
    "Grid",
    "HeatmapCodec",
    "PoseNetwork",
    "PoseStudentFile",
    "SimCCCodec",
    "build_pose_model",
    "flip_test",
    "heatmap_codec",
    "load_pose_student",
    "parse_pose_name",
    "save_pose_student",
    "simcc_codec",
    "to_codec",
]
