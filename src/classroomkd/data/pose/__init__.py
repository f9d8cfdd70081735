"""Persons and their joints: annotations, crops as pure functions, batches."""

from classroomkd.data.pose.coco import read_coco
from classroomkd.data.pose.crop import Frames, apply_affine, fit_box, make_frames
from classroomkd.data.pose.joints import JointSet, custom_joints, joint_map, joint_set
from classroomkd.data.pose.loader import PoseBatch, PoseLoader
from classroomkd.data.pose.mpii import read_mpii_json, read_mpii_mat
from classroomkd.data.pose.persons import PersonSet, development_persons
from classroomkd.data.pose.sources import list_persons, load_persons
from classroomkd.data.pose.views import PoseViews, mirror_joints

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
