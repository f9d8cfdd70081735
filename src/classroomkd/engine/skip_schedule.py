"""Leaving out, for a while, mentors that hardly teach: not in the paper, and off by default.

``M`` mentors.
"""

from torch import Tensor

from classroomkd.core import Lesson


class SkipSchedule:
    """Who is asked at which step.

    Every ``every`` steps there is a probe step, at which all are asked. A mentor that, since the
    probe step before, taught less than the share ``below`` of the samples that it was asked about
    is then asked at probe steps only, until it teaches more again. Each epoch begins with everybody
    present, so that a resumed run is that of one without a break.

    What is read from the device is read at probe steps.

    Args:
        count: ``M``.
        below: share of samples.
        every: steps from one probe step to the next.
        always: places of mentors that are always asked.
    """

    def __init__(self, count: int, below: float, every: int, always: set[int]) -> None:
        self.below, self.every, self.always = below, every, always
        self.present = [True] * count
        self.steps = 0
        self.asked = [0] * count
        self._taught: Tensor | None = None
        self._counted = [0] * count

    def begin(self) -> None:
        """Begin an epoch."""
        self.__init__(len(self.present), self.below, self.every, self.always)

    def call(self) -> list[bool]:
        """Who is asked at the next step."""
        if self.steps % self.every == 0:
            self._judge()
            asked = [True] * len(self.present)
        else:
            asked = self.present
        self.steps += 1
        self.asked = [n + now for n, now in zip(self.asked, asked, strict=True)]
        self._counted = [n + now for n, now in zip(self._counted, asked, strict=True)]
        return asked

    def note(self, lesson: Lesson) -> None:
        """Remember who taught; nothing is read from the device."""
        share = lesson.active.float().flatten(1).mean(1)
        self._taught = share if self._taught is None else self._taught + share

    def shares(self) -> list[float]:
        """Of the steps of this epoch so far, the share at which each mentor was asked."""
        return [n / max(self.steps, 1) for n in self.asked]

    def _judge(self) -> None:
        if self._taught is None:
            return
        taught = self._taught.tolist()
        self.present = [
            place in self.always or share >= self.below * max(heard, 1)
            for place, (share, heard) in enumerate(zip(taught, self._counted, strict=True))
        ]
        self._taught, self._counted = None, [0] * len(self.present)
