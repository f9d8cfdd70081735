"""The methods of pose against plain formulas, and the limits that tie them together."""

import pytest
import torch
import torch.nn.functional as F

from classroomkd.core import compose_lesson
from classroomkd.methods import create_method

B, U, K = 4, 3, 12
BETA = 10.0


def heatmaps(seed, count=()):
    draw = torch.Generator().manual_seed(seed)
    return torch.rand(*count, B, U, K, generator=draw, dtype=torch.float64)


def test_fpd_is_the_squared_error_of_heatmaps_in_units_of_the_task():
    student, teacher = heatmaps(0), heatmaps(1)
    target = torch.randint(K, (B, U))
    _, choices = create_method("fpd", balance=0.3).composition()
    lesson = compose_lesson(choices, BETA * student, [BETA * teacher], target)
    error = F.mse_loss(student, teacher, reduction="none").mean((1, 2))
    torch.testing.assert_close(lesson.mentor_loss[0], 0.3 * BETA**2 / 2 * error)
    task = F.cross_entropy(BETA * student.flatten(0, 1), target.flatten(), reduction="none")
    torch.testing.assert_close(lesson.task_loss, 0.7 * task.view(B, U).mean(1))


def test_fpd_is_the_limit_of_soft_distillation():
    centred = [h - h.mean(-1, keepdim=True) for h in (heatmaps(0), heatmaps(1))]
    student, teacher = (BETA * h for h in centred)
    target = torch.zeros(B, U, dtype=torch.long)
    _, fpd = create_method("fpd", balance=1.0).composition()
    _, soft = create_method("kd", temperature=1e4, weight=1.0).composition()
    one, other = (compose_lesson(c, student, [teacher], target).mentor_loss for c in (fpd, soft))
    torch.testing.assert_close(one, other, rtol=1e-3, atol=0)


def test_dwpose_fades():
    method = create_method("dwpose", weight=0.5)
    student, teacher = BETA * heatmaps(0), BETA * heatmaps(1)
    target = torch.zeros(B, U, dtype=torch.long)
    kl = F.kl_div(
        student.log_softmax(-1), teacher.log_softmax(-1), log_target=True, reduction="none"
    )
    for epoch, share in ((0, 1.0), (3, 0.25)):
        method.begin_epoch(epoch, 4)
        lesson = compose_lesson(method.composition()[1], student, [teacher], target)
        torch.testing.assert_close(lesson.mentor_loss[0], 0.5 * share * kl.sum(-1).mean(-1))


def test_okdhp_compares_raw_heatmaps():
    student, teachers = heatmaps(0), heatmaps(1, (2,))
    target = torch.zeros(B, U, dtype=torch.long)
    _, choices = create_method("okdhp").composition()
    lesson = compose_lesson(choices, BETA * student, BETA * teachers, target)
    raw = F.kl_div(
        student.log_softmax(-1), teachers.log_softmax(-1), log_target=True, reduction="none"
    )
    torch.testing.assert_close(lesson.mentor_loss, BETA**2 / 2 * raw.sum(-1).mean(-1))


def test_a_classroom_composes_unless_it_reads_features():
    group, choices = create_method("classroom", group="unit").composition()
    student, mentors = BETA * heatmaps(0), BETA * heatmaps(1, (2,))
    lesson = compose_lesson(
        choices, student, mentors, torch.zeros(B, U, dtype=torch.long), group=group
    )
    assert lesson.active.shape == (2, B, U)
    assert create_method("classroom", also="at").composition() is None
    assert create_method("at").composition() is None


@pytest.mark.parametrize("name", ["kd", "aver", "fpd", "dwpose", "okdhp", "classroom"])
def test_units_without_weight_reach_no_term(name):
    student = (BETA * heatmaps(0)).requires_grad_(True)
    mentors = BETA * heatmaps(1, (1,))
    target = torch.zeros(B, U, dtype=torch.long)
    visible = torch.ones(B, U)
    visible[:, 1] = 0
    group, choices = create_method(name).composition()
    compose_lesson(
        choices, student, mentors, target, unit_weight=visible, group=group
    ).loss.backward()
    assert (student.grad[:, 1] == 0).all()
    assert (student.grad[:, 0] != 0).any()
