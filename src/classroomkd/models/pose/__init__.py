"""Networks that find joints in crops of persons, and what their outputs mean."""

from classroomkd.models.pose.build import build_pose_model
from classroomkd.models.pose.codec import (
    Codec,
    HeatmapCodec,
    SimCCCodec,
    heatmap_codec,
    simcc_codec,
)
from classroomkd.models.pose.files import PoseStudentFile, load_pose_student, save_pose_student
from classroomkd.models.pose.flip import flip_test
from classroomkd.models.pose.grid import Grid
from classroomkd.models.pose.names import HOW_TO_NAME_POSE, parse_pose_name
from classroomkd.models.pose.network import PoseNetwork
from classroomkd.models.pose.transfer import to_codec

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
