"""The examination: every check, on one classroom."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from classroomkd.config import RunRecipe
from classroomkd.doctor.terms import judge_terms
from classroomkd.engine.build import build_classroom
from classroomkd.engine.classroom import Classroom
from classroomkd.engine.plan import forecast
from classroomkd.mentors import Mentor
from classroomkd.methods import Outputs
from classroomkd.tasks.base import Finding


def examine(recipe: RunRecipe) -> list[Finding]:
    """Build a recipe's classroom and look at it on plain samples and on a batch of views.

    Looks at what the task has to say about data and frozen mentors (see the ``checks`` of each
    task); at how much each term of the loss moves the student, at the full weight of the method
    (after its warm-up); at who teaches at the start; and at the time and memory that a run will
    take. Mentors that train along are not judged: they have learnt nothing yet.

    Raises:
        ClassroomError: if data or weights cannot be had or do not fit each other.
    """
    classroom = build_classroom(recipe)
    classroom.train.set_epoch(0)
    views, taught = _first_batch(classroom)
    frozen = [m for m in classroom.mentors if not m.learns]
    before = [_sums(mentor) for mentor in frozen]
    findings = list(classroom.task.examine(classroom, views, taught))
    findings[1:1] = [
        Finding("ok", m.name, f"{m.role}, trains along: nothing to check before", "accuracy")
        for m in classroom.mentors
        if m.learns
    ]
    doubted = {f.subject for f in findings if f.verdict == "wrong" or f.aspect == "teaching"}
    findings += judge_terms(classroom, views, taught, doubted)
    findings.append(Finding("ok", "plan", forecast(classroom), "plan"))
    text = "has changed while the student learnt: it is not frozen"
    findings += [
        Finding("wrong", mentor.name, text, "frozen", "keep it in eval mode")
        for mentor, old in zip(frozen, before, strict=True)
        if _sums(mentor) != old
    ]
    return findings


def _first_batch(classroom: Classroom) -> tuple[Any, list[Outputs]]:
    """A batch of training views, and what the mentors say about it; nothing is stored of it."""
    outputs = classroom.mentor_outputs
    outputs.begin(classroom.train.view, classroom.train.samples(), store=False)
    views = next(iter(classroom.train))
    return views, outputs(views)


def _sums(mentor: Mentor) -> Mapping[str, float]:
    """A number for each tensor of a mentor's network, which changes if the tensor does."""
    tensors = {k: v for k, v in mentor.network.state_dict().items() if isinstance(v, Tensor)}
    return {name: v.double().nan_to_num().abs().sum().item() for name, v in tensors.items()}
