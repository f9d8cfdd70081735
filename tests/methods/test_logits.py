"""Methods of one teacher against PyTorch's own functions in float64; the registry and options."""

import pytest
import torch
import torch.nn.functional as F

from classroomkd.methods import (
    LogitMethod,
    Method,
    Outputs,
    create_method,
    list_methods,
    method_class,
    method_options,
    option_errors,
    register_method,
    registry,
)


def logits(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(*shape, generator=generator, dtype=torch.float64)


def kl(student, mentor, tau):
    here, there = F.log_softmax(student / tau, -1), F.softmax(mentor / tau, -1)
    return tau**2 * F.kl_div(here, there, reduction="batchmean")


def gradient(loss, student):
    return torch.autograd.grad(loss, student)[0]


TARGET = torch.tensor([3, 0, 6, 6, 1])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 1.0},
        {"temperature": 8, "weight": 2.5, "task_weight": 0.0},
        {"weight": 0},
    ],
)
def test_kd(options):
    student, mentor = logits(5, 7).requires_grad_(), logits(5, 7, seed=1)
    lesson = create_method("kd", **options)(student, [mentor], TARGET)
    o = {"temperature": 4.0, "weight": 0.9, "task_weight": 0.1} | options
    task = o["task_weight"] * F.cross_entropy(student, TARGET)
    expected = task + o["weight"] * kl(student, mentor, o["temperature"])
    torch.testing.assert_close(lesson.loss, expected)
    torch.testing.assert_close(gradient(lesson.loss, student), gradient(expected, student))
    torch.testing.assert_close(lesson.task_loss.mean(), task.detach())
    assert (lesson.temperature == o["temperature"]).all()
    torch.testing.assert_close(lesson.weight, torch.full_like(lesson.weight, o["weight"]))


def test_alone():
    student = logits(5, 7).requires_grad_()
    lesson = create_method("none")(student, [], TARGET)
    expected = F.cross_entropy(student, TARGET)
    torch.testing.assert_close(lesson.loss, expected)
    torch.testing.assert_close(gradient(lesson.loss, student), gradient(expected, student))
    score = student.detach().softmax(-1)[torch.arange(5), TARGET]
    torch.testing.assert_close(lesson.student_score, score)


def test_soft_targets():
    student, mentor, soft = logits(5, 7), logits(5, 7, seed=1), logits(5, 7, seed=2).softmax(-1)
    lesson = create_method("kd")(student, [mentor], soft)
    expected = 0.1 * F.cross_entropy(student, soft) + 0.9 * kl(student, mentor, 4.0)
    torch.testing.assert_close(lesson.loss, expected)


def test_classes_that_differ():
    with pytest.raises(ValueError, match=r"mentor 0 have shape \(5, 8\), the student's \(5, 7\)"):
        create_method("kd")(logits(5, 7), [logits(5, 8)], TARGET)


def test_methods_are_listed_and_made():
    assert list_methods() == sorted(list_methods())
    assert {"none", "kd", "aver", "classroom"} <= set(list_methods())
    for name in list_methods():
        method = create_method(name)
        assert type(method) is method_class(name)
        assert method.name == name


def test_unknown_method():
    for ask in (create_method, method_class, method_options):
        with pytest.raises(ValueError, match="unknown method 'clasroom': did you mean 'classroom'"):
            ask("clasroom")


@pytest.mark.parametrize("name", list_methods())
def test_unknown_option_names_the_nearest(name):
    known = list(method_options(name).model_fields)
    for option in known:
        with pytest.raises(ValueError, match=f"^{option}x: .* did you mean '{option}'"):
            create_method(name, **{option + "x": 1})
    with pytest.raises(ValueError, match=f"^qqq: unknown option of {name} \\(known: "):
        create_method(name, qqq=1)


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("kd", "temperature", 0),
        ("kd", "temperature", "warm"),
        ("kd", "temperature", float("inf")),
        ("kd", "temperature", float("nan")),
        ("kd", "weight", -0.5),
        ("kd", "task_weight", None),
        ("aver", "reduction", "median"),
        ("classroom", "temperature", -1.0),
        ("classroom", "group", "batches"),
        ("classroom", "task_weight", "teacher"),
        ("classroom", "task_weight", -2.0),
        ("classroom", "mentoring", 3),
        ("classroom", "compat", "authors"),
        ("classroom", "filtering", "perhaps"),
    ],
)
def test_bad_value_is_named(name, option, value):
    mistakes = option_errors(name, {option: value})
    assert list(mistakes) == [option]
    assert mistakes[option].endswith(f", got {value!r}")
    with pytest.raises(ValueError, match=f"^{option}: "):
        create_method(name, **{option: value})


def test_a_union_says_all_that_it_takes():
    text = option_errors("classroom", {"task_weight": -1})["task_weight"]
    assert "greater than or equal to 0" in text
    assert "'student' or 'batch'" in text


def test_every_mistake_is_listed():
    with pytest.raises(ValueError, match=r"temperature: .*; wieght: .*'weight'"):
        create_method("kd", temperature=-1, wieght=2)


def test_values_are_converted():
    method = create_method("kd", temperature="2", weight=1)
    expected = create_method("kd", temperature=2.0, weight=1.0)
    batch = logits(5, 7), [logits(5, 7, seed=1)], TARGET
    assert torch.equal(method(*batch).loss, expected(*batch).loss)


@pytest.fixture
def scratch(monkeypatch):
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))


@pytest.mark.usefixtures("scratch")
def test_a_name_is_given_once():
    with pytest.raises(ValueError, match="'kd' is registered already, by KD"):
        register_method("kd")(LogitMethod)
    assert LogitMethod.__dict__.get("name") is None
    assert method_class("kd").__name__ == "KD"


@pytest.mark.usefixtures("scratch")
def test_a_method_without_options():
    @register_method("plain")
    class Plain(Method):
        title = "Without __init__"

    assert not method_options("plain").model_fields
    assert isinstance(create_method("plain"), Plain)
    with pytest.raises(ValueError, match=r"unknown option of plain \(known: none\)"):
        create_method("plain", args=1)
    with pytest.raises(NotImplementedError, match="Plain does not implement lesson"):
        create_method("plain")(logits(5, 7), [], TARGET)


@pytest.mark.usefixtures("scratch")
def test_annotations_as_text():
    @register_method("later")
    class Later(Method):
        title = "As under `from __future__ import annotations`"

        def __init__(self, *, depth: "int" = 2) -> None:
            super().__init__()
            self.depth = depth

    assert create_method("later", depth="3").depth == 3
    assert list(option_errors("later", {"depth": "x"})) == ["depth"]


def test_outputs_have_no_features_unless_given():
    assert dict(Outputs(logits(2, 3)).features) == {}
