"""Poses: how near predicted joints are to the true ones, by OKS, by PCK and by COCO's AP."""

from classroomkd.tasks.pose.metrics.coco_ap import CocoScores, evaluate_coco, evaluate_file
from classroomkd.tasks.pose.metrics.coco_files import write_results
from classroomkd.tasks.pose.metrics.evaluate import evaluate_pose, headline, judge_pose
from classroomkd.tasks.pose.metrics.oks import oks, oks_divergence, oks_nms, person_oks
from classroomkd.tasks.pose.metrics.pck import Pck, pck
from classroomkd.tasks.pose.metrics.predict import Predictions, predictions
from classroomkd.tasks.pose.metrics.taught import TaughtJoints, taught_joints

__all__ = [
    "CocoScores",
    "Pck",
    "Predictions",
    "TaughtJoints",
    "evaluate_coco",
    "evaluate_file",
    "evaluate_pose",
    "headline",
    "judge_pose",
    "oks",
    "oks_divergence",
    "oks_nms",
    "pck",
    "person_oks",
    "predictions",
    "taught_joints",
    "write_results",
]
