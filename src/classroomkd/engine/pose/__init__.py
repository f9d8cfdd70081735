"""Pose estimation in the engine: from a recipe to a classroom, and the training step."""

from classroomkd.engine.pose.build import build_pose_classroom
from classroomkd.engine.pose.classroom import PoseClassroom

__all__ = ["PoseClassroom", "build_pose_classroom"]
