"""MLLD against plain torch and loops, and how its two views reach it from a recipe."""

import math

import pytest
import torch
import torch.nn.functional as F

from classroomkd.config import parse_recipe
from classroomkd.engine.build import build_classroom
from classroomkd.engine.run import train
from classroomkd.engine.runs import RunFolder
from classroomkd.engine.step import training_step
from classroomkd.methods import create_method, method_class
from classroomkd.methods.contrib.mlld import levels
from tests.methods.test_logits import kl, logits

TARGET = torch.tensor([3, 0, 6]).repeat(2)


def softened(rows, tau):
    powers = [[math.exp(z / tau) for z in row] for row in rows.tolist()]
    return [[p / sum(row) for p in row] for row in powers]


def squared_gap(one, other):
    """Sum of squared differences of the products of all pairs of rows."""
    total = 0.0
    for i in range(len(one)):
        for j in range(len(one)):
            dots = [sum(a * b for a, b in zip(m[i], m[j], strict=True)) for m in (one, other)]
            total += (dots[0] - dots[1]) ** 2
    return total


@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_levels_by_loops(tau):
    student, mentor = logits(6, 7), logits(6, 7, seed=1)
    here, there = softened(student[:3], tau), softened(mentor[:3], tau)
    samples = sum(kl(student[v : v + 3], mentor[v : v + 3], tau).item() for v in (0, 3))
    columns = [[list(c) for c in zip(*m, strict=True)] for m in (here, there)]
    expected = samples + squared_gap(here, there) / 3 + squared_gap(*columns) / 7
    assert levels(student, mentor, tau).item() == pytest.approx(expected)


@pytest.mark.parametrize(
    "options", [{}, {"weight": 9.0, "task_weight": 0.7, "temperatures": [2.0, 3.0]}]
)
def test_mlld(options):
    student, mentor = logits(6, 7).requires_grad_(), logits(6, 7, seed=1)
    lesson = create_method("mlld", **options)(student, [mentor], TARGET)
    taus = options.get("temperatures", [4.0, 3.0, 5.0, 2.0, 6.0])
    task = F.cross_entropy(student[:3], TARGET[:3]) + F.cross_entropy(student[3:], TARGET[3:])
    taught = sum(levels(student, mentor, tau) for tau in taus)
    expected = options.get("task_weight", 0.1) * task + options.get("weight", 0.9) * taught
    torch.testing.assert_close(lesson.loss, expected)
    assert lesson.mentor_loss.shape == (1,)


def test_only_the_instance_level_looks_at_the_strong_view():
    student, mentor = logits(6, 7), logits(6, 7, seed=1)
    other = torch.cat([student[:3], logits(3, 7, seed=9)])
    gap = levels(other, mentor, 4.0) - levels(student, mentor, 4.0)
    torch.testing.assert_close(gap, kl(other[3:], mentor[3:], 4) - kl(student[3:], mentor[3:], 4))


def test_equal_logits_teach_nothing():
    student = logits(6, 7).requires_grad_()
    value = levels(student, student.detach(), 3.0)
    (gradient,) = torch.autograd.grad(value, student)
    assert value.abs() < 1e-12
    assert gradient.abs().max() < 1e-10


def test_one_view_is_refused():
    with pytest.raises(ValueError, match="mlld wants two views of each sample: a batch .* not 5"):
        create_method("mlld")(logits(5, 7), [logits(5, 7)], torch.zeros(5, dtype=torch.long))


def test_temperatures_are_checked():
    for wrong in ([], [0.0], [4, -1]):
        with pytest.raises(ValueError, match="temperatures"):
            create_method("mlld", temperatures=wrong)


# ------------------------------------------------------------------------------------- the views


@pytest.mark.parametrize(
    ("data", "views"),
    [
        ({}, ["crop", "flip", "randaugment"]),
        ({"name": "cifar10"}, ["crop", "flip", "randaugment"]),
        ({"name": "digits"}, ["crop", "erase"]),
        ({"name": "digits", "second": None}, ["crop", "erase"]),
        ({"name": "digits", "augment": []}, ["crop", "erase"]),
        ({"second": []}, []),
        ({"second": [{"name": "jitter", "hue": 0.2}]}, ["jitter"]),
    ],
)
def test_views_of_a_recipe(data, views):
    recipe = parse_recipe(
        {"name": "x", "student": {"model": "resnet8"}, "data": data, "method": {"name": "none"}}
    )
    assert [view.name for view in recipe.data.second] == views


@pytest.mark.parametrize("method", [{"name": "mlld"}, {"name": "classroom", "also": "mlld"}])
def test_a_batch_has_both_views(digits_recipe, method):
    classroom = build_classroom(digits_recipe(method=method))
    classroom.begin_epoch(0)
    batch = next(iter(classroom.train))
    assert len(batch.images) == len(batch.target) == 256
    assert torch.equal(batch.index[:128], batch.index[128:])
    assert not torch.equal(batch.images[:128], batch.images[128:])
    lesson = training_step(classroom, batch)
    assert len(lesson.task_loss) == 256
    assert len(next(iter(classroom.dev)).target) == len(classroom.dev.image_set)


@pytest.mark.parametrize("name", ["none", "classroom", "kd"])
def test_other_methods_get_one_view(digits_recipe, name):
    assert method_class(name).views == 1
    batch = next(iter(build_classroom(digits_recipe(method={"name": name})).train))
    assert len(batch.images) == 128


def test_digits_are_learnt(digits_recipe, tmp_path):
    recipe = digits_recipe(
        method={"name": "mlld", "weight": 0.01, "task_weight": 0.5}, train={"epochs": 4}
    )
    train(recipe, tmp_path / "run", progress=False, say=lambda _: None)
    rows = RunFolder(tmp_path / "run").read_csv("metrics.csv")
    assert all(math.isfinite(row["loss"]) for row in rows)
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert rows[-1]["dev_top1"] > 60
