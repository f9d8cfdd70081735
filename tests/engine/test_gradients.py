"""Shares of the gradient: the parts are those of the whole, for every method."""

import pytest
import torch
from torch import nn

from classroomkd.core import classroom_loss
from classroomkd.engine.gradients import Shares, Sources, _gradient, gradient_shares
from classroomkd.methods import create_method, list_methods, method_class
from classroomkd.methods.base import read_outputs
from classroomkd.models import build_model

B, C = 6, 5


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    return [build_model("resnet8", C) for _ in range(3)]


def held(name, networks, **options):
    """The student, and a function that holds a lesson of a method with it."""
    method = create_method(name, **options)
    student, *mentors = networks
    mentors = {0: [], 1: mentors[:1], "many": mentors}[method_class(name).num_mentors]
    count = B * method.views
    images = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    target = torch.tensor([0, 1, 2, 3, 4, 1]).repeat(method.views)
    index = torch.arange(B).repeat(method.views)
    wanted = {"features": method.needs_features, "preactivations": method.needs_preactivations}
    with torch.no_grad():
        said = [read_outputs(mentor.eval(), images, **wanted) for mentor in mentors]
        shown = read_outputs(student.eval(), images, **wanted)
    method.on_train_set(index[:B], target[:B])
    method.setup(shown, said)
    student.train()
    return student, lambda: method(read_outputs(student, images, **wanted), said, target, index)


@pytest.mark.parametrize("name", list_methods())
def test_the_parts_make_up_the_whole(name, networks):
    student, training_step = held(name, networks)
    parameters = list(student.parameters())
    torch.manual_seed(3)
    with Sources() as sources:
        lesson = training_step()
    task, terms = (sources.of(value) for value in (lesson.task_loss, lesson.mentor_loss))
    torch.testing.assert_close(task.detach(), lesson.task_loss, rtol=0, atol=0)
    torch.testing.assert_close(terms.detach(), lesson.mentor_loss, rtol=0, atol=0)
    mentors = terms.sum() if terms.ndim == 1 else terms.sum(0).mean()
    whole = _gradient(lesson.loss, parameters)
    parts = _gradient(task.mean(), parameters) + _gradient(mentors, parameters)
    torch.testing.assert_close(parts, whole, rtol=1e-3, atol=1e-5 * whole.norm().item())


@pytest.mark.parametrize("also", ["at", "rkd"])
def test_a_second_method_counts_for_its_mentor(also, networks):
    student, training_step = held("classroom", networks, also=also, filtering=False)
    _, plain_hold = held("classroom", networks, filtering=False)
    lesson, shares = gradient_shares(student, training_step)
    _, plain = gradient_shares(student, plain_hold)
    assert shares.rest == 0
    assert all(a > b for a, b in zip(shares.mentors, plain.mentors, strict=True))
    assert lesson.mentor_loss.requires_grad is False
    assert all(p.grad is None for p in student.parameters())


def test_a_linear_student_by_hand():
    """Cross-entropy and KL have the gradients p - y and tau (p_tau - q_tau) for the logits."""
    torch.manual_seed(2)
    student = nn.Linear(3, 4, bias=False).double()
    x, target = torch.randn(2, 3).double(), torch.tensor([0, 3])
    mentors = [torch.randn(2, 4).double() for _ in range(2)]

    def training_step():
        return classroom_loss(
            student(x), mentors, target, filtering=False, mentoring="fixed", temperature=2.0,
            task_weight=0.5,
        )  # fmt: skip

    lesson, shares = gradient_shares(student, training_step)
    z = student(x).detach()
    towards = 0.5 * (z.softmax(1) - nn.functional.one_hot(target, 4)) / 2
    assert shares.task == pytest.approx((towards.T @ x).norm().item())
    total = towards.T @ x
    for mentor, norm in zip(mentors, shares.mentors, strict=True):
        apart = 2 * ((z / 2).softmax(1) - (mentor / 2).softmax(1)) / 2
        assert norm == pytest.approx((apart.T @ x).norm().item())
        total = total + apart.T @ x
    assert shares.total == pytest.approx(total.norm().item())
    assert shares.rest == 0


def test_shares_of_nothing():
    assert Shares(0.0, (), 0.0, 0.0).percent(0.0) == 0
    assert Shares(1.0, (2.0, 1.0), 0.0, 3.0).percent(2.0) == 50
