"""Poses: a student finds the joints of persons in crops."""

from classroomkd.moved import names_of

__getattr__ = names_of(__name__, {
    "CocoScores": "classroomkd.tasks.pose.metrics",
    "Pck": "classroomkd.tasks.pose.metrics",
    "Predictions": "classroomkd.tasks.pose.metrics",
    "TaughtJoints": "classroomkd.tasks.pose.metrics",
    "evaluate_coco": "classroomkd.tasks.pose.metrics",
    "evaluate_file": "classroomkd.tasks.pose.metrics",
    "evaluate_pose": "classroomkd.tasks.pose.metrics",
    "headline": "classroomkd.tasks.pose.metrics",
    "judge_pose": "classroomkd.tasks.pose.metrics",
    "oks": "classroomkd.tasks.pose.metrics",
    "oks_divergence": "classroomkd.tasks.pose.metrics",
    "oks_nms": "classroomkd.tasks.pose.metrics",
    "pck": "classroomkd.tasks.pose.metrics",
    "person_oks": "classroomkd.tasks.pose.metrics",
    "predictions": "classroomkd.tasks.pose.metrics",
    "taught_joints": "classroomkd.tasks.pose.metrics",
    "write_results": "classroomkd.tasks.pose.metrics",
})  # fmt: skip
