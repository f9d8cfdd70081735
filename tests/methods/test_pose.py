"""The methods of pose against plain formulas, and the limits that tie them together."""

import math

import pytest
import torch
import torch.nn.functional as F

from classroomkd.core import make_signals
from classroomkd.methods import create_method, method_class, method_options

B, U, K = 4, 3, 12
BETA = 10.0


def heatmaps(seed, count=()):
    draw = torch.Generator().manual_seed(seed)
    return torch.rand(*count, B, U, K, generator=draw, dtype=torch.float64)


def test_fpd_is_the_squared_error_of_heatmaps_in_units_of_the_task():
    student, teacher = heatmaps(0), heatmaps(1)
    target = torch.randint(K, (B, U))
    fpd = create_method("fpd", balance=0.3)
    lesson = fpd(make_signals(BETA * student, [BETA * teacher], target))
    error = F.mse_loss(student, teacher, reduction="none").mean((1, 2))
    torch.testing.assert_close(lesson.mentor_loss[0], 0.3 * BETA**2 / 2 * error)
    task = F.cross_entropy(BETA * student.flatten(0, 1), target.flatten(), reduction="none")
    torch.testing.assert_close(lesson.task_loss, 0.7 * task.view(B, U).mean(1))


def test_fpd_is_the_limit_of_soft_distillation():
    centred = [h - h.mean(-1, keepdim=True) for h in (heatmaps(0), heatmaps(1))]
    student, teacher = (BETA * h for h in centred)
    target = torch.zeros(B, U, dtype=torch.long)
    fpd = create_method("fpd", balance=1.0)
    soft = create_method("kd", temperature=1e4, weight=1.0)
    one, other = (m(make_signals(student, [teacher], target)).mentor_loss for m in (fpd, soft))
    torch.testing.assert_close(one, other, rtol=1e-3, atol=0)


def test_fpd_is_half_the_teacher_s_error_and_half_the_label_s():
    """FPD, equation 4, beside the task that it brings: in units of ``beta**2 / 2``."""
    from classroomkd.tasks.pose.signals import squared_error

    student = heatmaps(0).requires_grad_()
    teacher, label = heatmaps(1), heatmaps(2)
    assert method_class("fpd").own_task == "mse"
    task = squared_error((BETA * label,))
    target = label.softmax(-1)
    signals = make_signals(BETA * student, [BETA * teacher], target, task_loss=task)
    lesson = create_method("fpd")(signals)
    expected = BETA**2 / 2 * (0.5 * F.mse_loss(student, teacher) + 0.5 * F.mse_loss(student, label))
    torch.testing.assert_close(lesson.loss, expected)
    own, oracle = (torch.autograd.grad(loss, student)[0] for loss in (lesson.loss, expected))
    torch.testing.assert_close(own, oracle)


def test_dwpose_fades():
    method = create_method("dwpose", weight=0.5)
    student, teacher = BETA * heatmaps(0), BETA * heatmaps(1)
    target = torch.zeros(B, U, dtype=torch.long)
    kl = F.kl_div(
        student.log_softmax(-1), teacher.log_softmax(-1), log_target=True, reduction="none"
    )
    for epoch, share in ((0, 1.0), (3, 0.25)):
        method.begin_epoch(epoch, 4)
        lesson = method(make_signals(student, [teacher], target))
        torch.testing.assert_close(lesson.mentor_loss[0], 0.5 * share * kl.sum(-1).mean(-1))


def test_dwpose_s_weight_is_the_published_one_in_the_unit_of_our_task():
    """Published: the task summed over the batch and averaged over bins, the KL the other way."""
    persons, bins = 256, (384, 512)
    draw = torch.Generator().manual_seed(0)

    def rows(width):
        return torch.randn(3, persons, 2, width, generator=draw, dtype=torch.float64)

    task = distilled = own_task = own = 0.0
    method = create_method("dwpose")
    for width in bins:
        student, teacher, truth = (r.log_softmax(-1) for r in rows(width))
        to_truth = F.kl_div(student, truth, log_target=True, reduction="none")
        to_teacher = F.kl_div(student, teacher, log_target=True, reduction="none")
        task += to_truth.mean(-1).sum(0).mean().item()
        distilled += 0.1 * to_teacher.sum(-1).mean().item()
        lesson = method(make_signals(student, [teacher], truth.exp()))
        own_task += to_truth.sum(-1).mean().item()
        own += lesson.mentor_loss.mean().item()
    assert own / own_task == pytest.approx(distilled / task, rel=0.02)


@pytest.mark.parametrize("options", [{}, {"weight": 2.0, "warmup_epochs": 8}])
def test_okdhp_is_the_published_sum_in_the_unit_of_the_squared_error(options):
    """Published: ``w * sum_u KL / K`` of raw heatmaps beside half the mean squared error."""
    student = heatmaps(0).requires_grad_()
    teachers = heatmaps(1, (2,))
    method = create_method("okdhp", **options)
    weight, length = options.get("weight", 5.0), options.get("warmup_epochs", 60)
    assert method_class("okdhp").own_task == "mse"
    target = torch.zeros(B, U, dtype=torch.long)
    for epoch in (0, 5, length, 100):
        method.begin_epoch(epoch, 140)
        lesson = method(make_signals(BETA * student, list(BETA * teachers), target))
        ramp = math.exp(-5 * (1 - min(epoch, length) / length) ** 2)
        p, q = teachers.softmax(-1), student.softmax(-1)
        raw = (p * (p / q).log()).sum(-1)  # [M, B, U]
        published = weight * ramp * raw.sum(-1).mean() / K
        torch.testing.assert_close(lesson.mentor_loss.sum(0).mean(), BETA**2 * published.detach())
        term = lesson.loss - F.cross_entropy(BETA * student.flatten(0, 1), target.flatten())
        own, oracle = (
            torch.autograd.grad(loss, student, retain_graph=True)[0]
            for loss in (term, BETA**2 * published)
        )
        torch.testing.assert_close(own, oracle)


def test_okdhp_without_a_ramp_is_whole_at_once_and_rows_count_by_their_mean_length():
    method = create_method("okdhp", warmup_epochs=0)
    method.begin_epoch(0, 10)
    x, y = heatmaps(0), heatmaps(1)[..., :6]
    teacher = heatmaps(2), heatmaps(3)[..., :6]
    target = torch.zeros(B, U, dtype=torch.long)
    mentors = [tuple(BETA * row for row in teacher)]
    lesson = method(make_signals((BETA * x, BETA * y), mentors, (target, target)))
    raw = sum(
        F.kl_div(s.log_softmax(-1), t.log_softmax(-1), log_target=True, reduction="none").sum(-1)
        for s, t in zip((x, y), teacher, strict=True)
    )
    torch.testing.assert_close(lesson.mentor_loss[0], BETA**2 * 5 * raw.sum(-1) / ((K + 6) / 2))


def test_usual_options_are_the_published_ones():
    assert method_options("fpd")().balance == 0.5
    assert method_options("dwpose")().weight == 0.17
    assert method_options("okdhp")().model_dump() == {
        "temperature": 10.0,
        "weight": 5.0,
        "warmup_epochs": 60.0,
    }


def test_a_classroom_composes_unless_it_reads_classes():
    classroom = create_method("classroom", group="unit")
    student, mentors = BETA * heatmaps(0), BETA * heatmaps(1, (2,))
    lesson = classroom(make_signals(student, mentors, torch.zeros(B, U, dtype=torch.long)))
    assert lesson.active.shape == (2, B, U)
    assert classroom.takes_units
    for name, units in (("at", True), ("crd", False), ("simkd", False)):
        assert create_method("classroom", also=name).takes_units is units
        assert create_method(name).takes_units is units


@pytest.mark.parametrize("name", ["kd", "aver", "fpd", "dwpose", "okdhp", "classroom"])
def test_units_without_weight_reach_no_term(name):
    student = (BETA * heatmaps(0)).requires_grad_(True)
    mentors = BETA * heatmaps(1, (1,))
    target = torch.zeros(B, U, dtype=torch.long)
    visible = torch.ones(B, U)
    visible[:, 1] = 0
    signals = make_signals(student, mentors, target, unit_weight=visible)
    create_method(name)(signals).loss.backward()
    assert (student.grad[:, 1] == 0).all()
    assert (student.grad[:, 0] != 0).any()
