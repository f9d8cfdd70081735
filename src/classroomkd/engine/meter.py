"""What happened in an epoch, summed on the device and read once at its end.

Shapes: ``M`` mentors, ``B`` samples.
"""

import torch
from torch import Tensor

from classroomkd.core import Lesson


class EpochMeter:
    """Sums over the lessons of an epoch. Adding one does not wait for the device."""

    def __init__(self, mentors: list[str]) -> None:
        self.mentors = mentors
        self._count = 0
        self._student: Tensor | None = None
        self._mentors: Tensor | None = None

    def add(self, lesson: Lesson) -> None:
        """Add a lesson's statistics."""
        count = len(lesson.task_loss)
        student = torch.stack(
            [lesson.loss.detach() * count, lesson.task_loss.sum(), lesson.student_score.sum()]
        )
        mentors = torch.stack([_sum(values) for values in self._rows(lesson)], dim=-1)
        self._count += count
        self._student = student if self._student is None else self._student + student
        self._mentors = mentors if self._mentors is None else self._mentors + mentors

    @staticmethod
    def _rows(lesson: Lesson) -> list[Tensor]:
        taught = lesson.active.to(lesson.weight.dtype)
        loss = lesson.mentor_loss
        if loss.ndim == 1:  # a method that relates samples: one value for the batch
            loss = loss.unsqueeze(-1).expand(len(loss), len(lesson.task_loss))
        return [
            taught,
            taught * lesson.weight,
            taught * lesson.gap,
            taught * lesson.temperature,
            lesson.mentor_score,
            loss,
        ]

    def read(self) -> tuple[dict[str, float], list[dict[str, float | str]]]:
        """The epoch's means, then start anew.

        Returns:
            For the student: ``loss``, ``task_loss`` and ``student_score``, means over samples. For
            each mentor: ``active_share``; ``weight``, ``gap`` and ``temperature``, means over the
            samples that it taught (nan if none); ``score`` and ``loss``, means over all samples.
        """
        if self._student is None or self._mentors is None:
            return {}, []
        loss, task_loss, score = (self._student / self._count).tolist()
        student = {"loss": loss, "task_loss": task_loss, "student_score": score}
        rows: list[dict[str, float | str]] = []
        for name, sums in zip(self.mentors, self._mentors.tolist(), strict=False):
            taught, weight, gap, temperature, score, loss = sums
            rows.append(
                {
                    "mentor": name,
                    "active_share": taught / self._count,
                    "weight": weight / taught if taught else float("nan"),
                    "gap": gap / taught if taught else float("nan"),
                    "temperature": temperature / taught if taught else float("nan"),
                    "score": score / self._count,
                    "loss": loss / self._count,
                }
            )
        self._count, self._student, self._mentors = 0, None, None
        return student, rows


def _sum(values: Tensor) -> Tensor:
    """Sum over samples, ``[M, B, ...] -> [M]``, of the mean over units if there are any."""
    return values.flatten(2).mean(-1).sum(-1) if values.ndim > 2 else values.sum(-1)
