"""The student's own step, which the costs of all else are compared with."""

import torch.nn.functional as F

from classroomkd.data import Batch
from classroomkd.engine.classroom import Classroom
from classroomkd.engine.optim import build_optimizer
from classroomkd.engine.precision import autocast


class StudentSteps:
    """Forward, cross-entropy, backward, update: one step at each call.

    Args:
        classroom: whose student learns.
        batch: what it learns from, each time.
    """

    def __init__(self, classroom: Classroom, batch: Batch) -> None:
        self.classroom, self.batch = classroom, batch
        self.optimizer = build_optimizer(classroom.student.parameters(), classroom.recipe.train)

    def __call__(self) -> None:
        """One step."""
        with autocast(self.classroom.device, self.classroom.recipe.train.precision):
            logits = self.classroom.student(self.batch.images)
        self.optimizer.zero_grad()
        F.cross_entropy(logits.float(), self.batch.target).backward()
        self.optimizer.step()
