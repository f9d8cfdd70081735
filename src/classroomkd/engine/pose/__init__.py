"""Pose estimation in the engine: from a recipe to a classroom, and the training step."""

from classroomkd.engine.pose.build import PoseClassroom, build_pose_classroom

__all__ = ["PoseClassroom", "build_pose_classroom"]
