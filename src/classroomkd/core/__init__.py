"""The paper: scores, weights, the active set, gap, temperature and the loss. Torch only.

Read `filter`, `mentoring`, `divergence`, `lesson`, `options`, `loss`, in this order.
"""

from classroomkd.core.inputs import make_signals
from classroomkd.core.lesson import Choices, Lesson, LogitPair, combine, make_lesson
from classroomkd.core.loss import ClassroomLoss, classroom_loss
from classroomkd.core.signals import Signals

__all__ = [
    "Choices",
    "ClassroomLoss",
    "LogitPair",
    "Signals",
    "Lesson",
    "classroom_loss",
    "combine",
    "make_lesson",
    "make_signals",
]
