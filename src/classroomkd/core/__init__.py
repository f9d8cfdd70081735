"""The paper: scores, weights, the active set, gap, temperature and the loss. Torch only.

Read `signals`, `filter`, `mentoring`, `divergence`, `ensemble`, `lesson`, `options` and `loss`, in
this order.
"""

from classroomkd.core.inputs import make_signals
from classroomkd.core.lesson import Choices, Lesson, LogitPair, combine, make_lesson
from classroomkd.core.loss import ClassroomLoss, classroom_loss, compose_lesson
from classroomkd.core.signals import Signals

__all__ = [
    "Choices",
    "ClassroomLoss",
    "LogitPair",
    "Signals",
    "Lesson",
    "classroom_loss",
    "combine",
    "compose_lesson",
    "make_lesson",
    "make_signals",
]
