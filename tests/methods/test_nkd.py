"""NKD by loops over samples and classes, in float64."""

import pytest
import torch
import torch.nn.functional as F

from classroomkd.methods import create_method
from tests.methods.test_logits import TARGET, logits


def by_loops(student, mentor, gamma, tau):
    total = torch.zeros((), dtype=torch.float64)
    for z, t, y in zip(student, mentor, TARGET.tolist(), strict=True):
        total = total - t.softmax(0)[y] * z.log_softmax(0)[y]
        others = [c for c in range(len(z)) if c != y]
        here, there = ((x[others] / tau).exp() for x in (z, t))
        here, there = here / here.sum(), there / there.sum()
        for own, other in zip(here, there, strict=True):
            total = total - gamma * tau**2 * other * own.log()
    return total / len(student)


@pytest.mark.parametrize("options", [{}, {"gamma": 3.5, "temperature": 3.0, "task_weight": 0.5}])
@pytest.mark.parametrize("soft", [False, True])
def test_nkd_by_loops(options, soft):
    student, mentor = logits(5, 7).requires_grad_(), logits(5, 7, seed=1)
    certain = F.one_hot(TARGET, 7).double()
    target = 0.9 * certain + 0.1 / 7 if soft else TARGET
    lesson = create_method("nkd", **options)(student, [mentor], target)
    taught = by_loops(student, mentor, options.get("gamma", 1.5), options.get("temperature", 1.0))
    expected = options.get("task_weight", 1.0) * F.cross_entropy(student, target) + taught
    torch.testing.assert_close(lesson.loss, expected)
    (own,) = torch.autograd.grad(lesson.loss, student, retain_graph=True)
    torch.testing.assert_close(own, torch.autograd.grad(expected, student)[0])


def test_the_gradient_among_the_others_vanishes_where_both_agree():
    student = logits(5, 7).requires_grad_()
    lesson = create_method("nkd", task_weight=0.0, gamma=2.0)(student, [student.detach()], TARGET)
    (own,) = torch.autograd.grad(lesson.loss, student)
    share = student.detach().softmax(1)
    true = F.one_hot(TARGET, 7)
    expected = (share * true).sum(1, keepdim=True) * (share - true) / 5
    torch.testing.assert_close(own, expected)
