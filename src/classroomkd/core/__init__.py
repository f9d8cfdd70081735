"""The paper: scores, weights, the active set, gap, temperature and the loss. Torch only.

Read `filter`, `mentoring`, `divergence`, `lesson`, `options`, `loss`, in this order.
"""

from classroomkd.core.lesson import Choices, Lesson, LogitPair, make_lesson
from classroomkd.core.loss import ClassroomLoss, classroom_loss, compose_lesson

__all__ = [
    "Choices",
    "ClassroomLoss",
    "LogitPair",
    "Lesson",
    "classroom_loss",
    "compose_lesson",
    "make_lesson",
]
