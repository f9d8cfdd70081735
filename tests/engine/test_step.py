"""One training step: who gets gradients, what is read back, what changes."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from classroomkd.engine.build import build_classroom
from classroomkd.engine.meter import EpochMeter
from classroomkd.engine.step import training_step
from tests.steps import step


class Readings(TorchDispatchMode):
    """Counts what makes the host wait for the device: reading a scalar, or a size from data."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.name().removeprefix("aten::") in ("_local_scalar_dense", "nonzero", "is_nonzero"):
            self.names.append(func.name())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("method", ["none", "kd", "aver", "classroom"])
def test_a_step_never_waits_for_the_device(digits_recipe, method):
    classroom = build_classroom(digits_recipe(method={"name": method}))
    meter = EpochMeter([m.name for m in classroom.mentors])
    batches = iter(classroom.train)
    next(batches)
    with Readings() as readings:
        batch = next(batches)
        lesson = training_step(classroom, batch)
        lesson.loss.backward()
        meter.add(lesson)
    assert readings.names == []
    with Readings() as readings:
        lesson.loss.item()
    assert readings.names, "the counter itself must see a reading"


def test_only_the_student_learns(digits_recipe):
    classroom = build_classroom(digits_recipe())
    before = [{k: v.clone() for k, v in m.network.state_dict().items()} for m in classroom.mentors]
    for batch in classroom.train:
        training_step(classroom, batch).loss.backward()
    assert all(p.grad is not None for p in classroom.student.parameters())
    for mentor, state in zip(classroom.mentors, before, strict=True):
        assert all(p.grad is None for p in mentor.network.parameters())
        for name, value in mentor.network.state_dict().items():
            assert torch.equal(value, state[name]), name


def test_an_epoch_is_a_function_of_its_number(digits_recipe):
    classroom = build_classroom(digits_recipe())
    classroom.begin_epoch(3)
    first = next(iter(classroom.train)), torch.rand(1)
    classroom.begin_epoch(1)
    list(classroom.train)
    classroom.begin_epoch(3)
    second = next(iter(classroom.train)), torch.rand(1)
    assert torch.equal(first[0].images, second[0].images)
    assert torch.equal(first[0].index, second[0].index)
    assert torch.equal(first[1], second[1])


def test_bf16_keeps_the_lesson_in_float32(digits_recipe):
    classroom = build_classroom(digits_recipe())
    batch = next(iter(classroom.train))
    parts = (classroom.student, classroom.mentors, classroom.method, batch)
    half, full = step(*parts, precision="bf16"), step(*parts)
    assert half.loss.dtype == half.weight.dtype == torch.float32
    torch.testing.assert_close(half.loss, full.loss, rtol=0.05, atol=0.05)
