"""Persons and their joints: annotations, crops as pure functions, batches."""

from classroomkd.tasks.pose.data.coco import read_coco
from classroomkd.tasks.pose.data.crop import Frames, apply_affine, fit_box, make_frames
from classroomkd.tasks.pose.data.joints import JointSet, custom_joints, joint_map, joint_set
from classroomkd.tasks.pose.data.loader import PoseBatch, PoseLoader
from classroomkd.tasks.pose.data.mpii import read_mpii_json, read_mpii_mat
from classroomkd.tasks.pose.data.persons import PersonSet, development_persons
from classroomkd.tasks.pose.data.sources import list_persons, load_persons
from classroomkd.tasks.pose.data.views import PoseViews, mirror_joints

__all__ = [
    "Frames",
    "JointSet",
    "PersonSet",
    "PoseBatch",
    "PoseLoader",
    "PoseViews",
    "apply_affine",
    "custom_joints",
    "development_persons",
    "fit_box",
    "joint_map",
    "joint_set",
    "list_persons",
    "load_persons",
    "make_frames",
    "mirror_joints",
    "read_coco",
    "read_mpii_json",
    "read_mpii_mat",
]
