"""AVER against PyTorch's own functions, and `classroom` against `classroom_loss`."""

import dataclasses
from itertools import product

import pytest
import torch
import torch.nn.functional as F

from classroomkd import classroom_loss
from classroomkd.methods import create_method, method_options
from tests.methods.test_logits import TARGET, gradient, kl, logits


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("options", [{}, {"temperature": 2.0, "weight": 0.7, "task_weight": 0.3}])
def test_aver(reduction, count, options):
    student = logits(5, 7).requires_grad_()
    mentors = [logits(5, 7, seed=1 + m) for m in range(count)]
    lesson = create_method("aver", reduction=reduction, **options)(student, mentors, TARGET)
    o = {"temperature": 4.0, "weight": 1.0, "task_weight": 1.0} | options
    terms = [kl(student, mentor, o["temperature"]) for mentor in mentors]
    share = count if reduction == "mean" else 1
    task = o["task_weight"] * F.cross_entropy(student, TARGET)
    expected = task + o["weight"] * sum(terms) / share
    torch.testing.assert_close(lesson.loss, expected)
    torch.testing.assert_close(gradient(lesson.loss, student), gradient(expected, student))
    for m, term in enumerate(terms):
        torch.testing.assert_close(
            lesson.mentor_loss[m].mean(), (o["weight"] * term / share).detach()
        )


def test_aver_is_kd_for_one_mentor():
    batch = logits(5, 7), [logits(5, 7, seed=1)], TARGET
    kd, aver = (create_method(n, weight=0.4, task_weight=0.6)(*batch) for n in ("kd", "aver"))
    torch.testing.assert_close(kd.loss, aver.loss)


def test_mentors_in_another_order_teach_the_same():
    student, mentors = logits(5, 7), [logits(5, 7, seed=1 + m) for m in range(3)]
    for name in ("aver", "classroom"):
        one = create_method(name)(student, mentors, TARGET)
        other = create_method(name)(student, mentors[::-1], TARGET)
        torch.testing.assert_close(one.loss, other.loss)
        torch.testing.assert_close(one.mentor_loss, other.mentor_loss.flip(0))


def assert_is_classroom_loss(**options):
    student = logits(5, 7).requires_grad_()
    mentors = torch.stack([logits(5, 7, seed=1 + m) for m in range(3)])
    ours = create_method("classroom", **options)(student, list(mentors), TARGET)
    core = classroom_loss(student, mentors, TARGET, **options)
    for field in dataclasses.fields(ours):
        assert torch.equal(getattr(ours, field.name), getattr(core, field.name)), field.name


@pytest.mark.parametrize("group", ["sample", "batch"])
@pytest.mark.parametrize("mentoring", ["gap", "none", "fixed", "dtkd"])
@pytest.mark.parametrize("task_weight", ["student", "batch", 0.5])
def test_classroom_is_classroom_loss(group, mentoring, task_weight):
    for filtering, require_correct, temperature in product((True, False), (True, False), (12.0, 4)):
        assert_is_classroom_loss(
            temperature=temperature, group=group, mentoring=mentoring, task_weight=task_weight,
            filtering=filtering, require_correct=require_correct,
        )  # fmt: skip


def test_defaults_are_those_of_classroom_loss():
    assert_is_classroom_loss()
    options = method_options("classroom")().model_dump()
    ours = [options.pop(name) for name in ("divergence", "standardize", "also", "ablation")]
    assert ours == ["kl", False, None, None]
    assert options == {name: classroom_loss.__kwdefaults__[name] for name in options}


def test_official_mode():
    assert_is_classroom_loss(compat="official", temperature=8.0)
    mentors = [logits(5, 7, seed=1), logits(5, 7, seed=2)]
    lesson = create_method("classroom", compat="official")(logits(5, 7), mentors, TARGET)
    assert (lesson.weight[:, :1] == lesson.weight).all()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"compat": "official", "filtering": False}, "filtering"),
        ({"compat": "official", "mentoring": "none", "task_weight": 1}, "mentoring, task_weight"),
        ({"mentoring": "dtkd", "temperature": 0}, "temperature"),
    ],
)
def test_options_that_exclude_each_other_are_refused_at_once(options, named):
    with pytest.raises(ValueError, match=named):
        create_method("classroom", **options)
