"""`classroom_loss` against float64 NumPy, its invariants, and its errors."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Bool, Float
from torch import Tensor

from classroomkd.core import ClassroomLoss, classroom_loss
from classroomkd.core.options import OPTIONS
from tests.core import oracle

FIELDS = ("student_score", "mentor_score", "weight", "active", "gap", "temperature")


def logits(*shape, seed=0, scale=2.0, dtype=torch.float64):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def labels(*shape, classes, seed=5):
    return torch.randint(classes, shape, generator=torch.Generator().manual_seed(seed))


def assert_same(lesson, expected, rtol=1e-9):
    assert lesson.loss.item() == pytest.approx(expected["loss"], rel=rtol)
    for name in ("task_loss", "mentor_loss"):
        np.testing.assert_allclose(getattr(lesson, name), expected[name], rtol=rtol, atol=1e-12)
    for name in FIELDS:
        value, want = getattr(lesson, name).double().numpy(), expected[name]
        if value.ndim < want.ndim:  # one rank for all units of a sample
            value = np.broadcast_to(value[..., None], want.shape)
        np.testing.assert_allclose(value, want, rtol=rtol, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("group", ["sample", "batch"])
@pytest.mark.parametrize("filtering", [True, False])
@pytest.mark.parametrize("mentoring", ["gap", "none", "fixed", "dtkd"])
@pytest.mark.parametrize("task_weight", ["student", 0.7])
def test_classification_equals_oracle(group, filtering, mentoring, task_weight):
    student, mentors, target = logits(5, 7), logits(3, 5, 7, seed=1), labels(5, classes=7)
    options = {
        "group": group, "filtering": filtering, "mentoring": mentoring, "task_weight": task_weight,
    }  # fmt: skip
    lesson = classroom_loss(student, mentors, target, temperature=6.0, **options)
    expected = oracle.classroom(
        [student[:, None].numpy()], [[m[:, None].numpy()] for m in mentors],
        [target[:, None].numpy()], T=6.0, **options,
    )  # fmt: skip
    assert_same(lesson, expected)


@pytest.mark.parametrize("group", ["sample", "batch", "unit"])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("mentoring", ["gap", "dtkd"])
def test_units_and_blocks_equal_oracle(group, soft, mentoring):
    student = (logits(4, 3, 6), logits(4, 3, 5, seed=1))
    mentors = [(logits(4, 3, 6, seed=s), logits(4, 3, 5, seed=s + 10)) for s in (2, 3)]
    if soft:
        target = tuple(logits(4, 3, k, seed=40 + k).softmax(-1) for k in (6, 5))
    else:
        target = tuple(labels(4, 3, classes=k) for k in (6, 5))
    weight = torch.tensor([[1, 0.5, 0], [1, 1, 1], [0, 0, 0], [0, 2.0, 1]], dtype=torch.float64)
    lesson = classroom_loss(
        student, mentors, target, unit_weight=weight, group=group, mentoring=mentoring
    )
    expected = oracle.classroom(
        [z.numpy() for z in student], [[z.numpy() for z in m] for m in mentors],
        [t.numpy() for t in target], weight.numpy(), group=group, mentoring=mentoring,
    )  # fmt: skip
    assert_same(lesson, expected)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("count", [1, 2, 6])
def test_official_mode_equals_the_authors_formula(seed, count):
    student, target = logits(16, 10, seed=seed, scale=0.3), labels(16, classes=10, seed=seed)
    truth = F.one_hot(target, 10)
    skill = torch.linspace(-0.2, 3.0, count, dtype=torch.float64)
    mentors = [s * truth + logits(16, 10, seed=seed + 100 + i) for i, s in enumerate(skill)]
    lesson = classroom_loss(student, mentors, target, compat="official")
    want = oracle.official(student.numpy(), [m.numpy() for m in mentors], target.numpy())
    assert lesson.loss.item() == pytest.approx(want["loss"], rel=1e-9)
    for name in ("weight", "active", "temperature"):
        np.testing.assert_allclose(getattr(lesson, name)[:, 0].double(), want[name], rtol=1e-9)


def test_by_hand():
    """Two classes, one sample: probabilities 1/2 (student), 4/5 and 1/5 (mentors)."""
    student = torch.zeros(1, 2, dtype=torch.float64)
    mentors = torch.tensor([[[4.0, 1.0]], [[1.0, 4.0]]], dtype=torch.float64).log()
    lesson = classroom_loss(student, mentors, torch.tensor([0]), temperature=8.0, task_weight=1.0)
    assert lesson.active[:, 0].tolist() == [True, False]
    assert lesson.weight[0, 0].item() == pytest.approx(2 * 0.8 / 1.5)
    assert lesson.gap[0, 0].item() == pytest.approx(0.375)
    assert lesson.temperature[:, 0].tolist() == pytest.approx([4.0, 1.0])
    p = 4**0.25 / (4**0.25 + 1)
    kl = p * np.log(2 * p) + (1 - p) * np.log(2 * (1 - p))
    assert lesson.loss.item() == pytest.approx(np.log(2) + 2 * 0.8 / 1.5 * 16 * kl)


def test_shapes_types_and_detachment():
    student = logits(4, 6, dtype=torch.float32).requires_grad_()
    mentors = logits(3, 4, 6, dtype=torch.float32, seed=1).requires_grad_()
    lesson = classroom_loss(student, mentors, labels(4, classes=6))
    assert isinstance(lesson.loss, Float[Tensor, ""])
    assert lesson.loss.requires_grad
    assert isinstance(lesson.task_loss, Float[Tensor, "4"])
    for name in ("mentor_loss", "mentor_score", "weight", "gap", "temperature"):
        assert isinstance(getattr(lesson, name), Float[Tensor, "3 4"]), name
    assert isinstance(lesson.active, Bool[Tensor, "3 4"])
    assert isinstance(lesson.student_score, Float[Tensor, "4"])
    assert not any(getattr(lesson, n).requires_grad for n in (*FIELDS, "task_loss", "mentor_loss"))
    lesson.loss.backward()
    assert student.grad.abs().sum() > 0
    assert mentors.grad is None


def test_unit_ranks_have_a_unit_axis():
    lesson = classroom_loss(
        logits(2, 3, 4), logits(5, 2, 3, 4), labels(2, 3, classes=4), group="unit"
    )
    assert lesson.weight.shape == lesson.active.shape == (5, 2, 3)
    assert lesson.student_score.shape == (2, 3)
    assert lesson.mentor_loss.shape == (5, 2)


@given(
    samples=st.integers(1, 6), classes=st.integers(2, 9), mentors=st.integers(0, 4),
    scale=st.sampled_from([0.0, 1.0, 30.0, 1e4]), seed=st.integers(0, 10_000),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_a_lesson_is_consistent_and_finite(samples, classes, mentors, scale, seed):
    student = logits(samples, classes, seed=seed, scale=scale, dtype=torch.float32).requires_grad_()
    others = logits(mentors, samples, classes, seed=seed + 1, scale=scale, dtype=torch.float32)
    lesson = classroom_loss(student, others, labels(samples, classes=classes, seed=seed))
    lesson.loss.backward()
    torch.testing.assert_close(lesson.loss, (lesson.task_loss + lesson.mentor_loss.sum(0)).mean())
    assert torch.isfinite(lesson.loss)
    assert torch.isfinite(student.grad).all()
    assert (lesson.mentor_loss[~lesson.active] == 0).all()
    assert (lesson.mentor_loss >= -1e-4 * (1 + lesson.mentor_loss.abs())).all()
    assert ((lesson.gap >= 0) & (lesson.gap <= 1)).all()
    assert ((lesson.temperature >= 1) & (lesson.temperature <= 13)).all()
    assert (lesson.gap[~lesson.active] == 0).all()
    assert (lesson.weight <= mentors).all()


def test_a_sample_does_not_depend_on_its_batch():
    student, mentors, target = logits(9, 5), logits(3, 9, 5, seed=1), labels(9, classes=5)
    whole = classroom_loss(student, mentors, target)
    for part in (slice(0, 4), slice(4, 9)):
        piece = classroom_loss(student[part], mentors[:, part], target[part])
        torch.testing.assert_close(piece.mentor_loss, whole.mentor_loss[:, part])
        torch.testing.assert_close(piece.task_loss, whole.task_loss[part])


def test_parts_of_a_batch_average_to_the_whole_with_the_same_gradients():
    student, mentors, target = logits(8, 5), logits(3, 8, 5, seed=1), labels(8, classes=5)
    whole, parts = student.clone().requires_grad_(), student.clone().requires_grad_()
    one = classroom_loss(whole, mentors, target).loss
    halves = [slice(0, 4), slice(4, 8)]
    two = sum(classroom_loss(parts[h], mentors[:, h], target[h]).loss for h in halves) / 2
    one.backward()
    two.backward()
    torch.testing.assert_close(one, two)
    torch.testing.assert_close(whole.grad, parts.grad)


def test_the_order_of_mentors_does_not_matter():
    student, mentors, target = logits(8, 5), logits(4, 8, 5, seed=1), labels(8, classes=5)
    order = [2, 0, 3, 1]
    one, other = (classroom_loss(student, m, target) for m in (mentors, mentors[order]))
    torch.testing.assert_close(one.loss, other.loss)
    torch.testing.assert_close(one.mentor_loss[order], other.mentor_loss)


@pytest.mark.parametrize("compat", [None, "official"])
def test_gradients_agree_with_finite_differences(compat):
    student = logits(4, 5).requires_grad_()
    mentors, target = logits(3, 4, 5, seed=1), labels(4, classes=5)
    fixed = classroom_loss(student.detach(), mentors, target, compat=compat)

    def loss(z):  # statistics are constants: at fixed weights and temperatures
        from classroomkd.core.divergence import cross_entropy, kl_divergence

        score = fixed.student_score
        kl = kl_divergence(z, mentors, fixed.temperature, fixed.temperature)
        factor = fixed.active * fixed.weight * fixed.temperature**2
        return (score * cross_entropy(z, target) + (factor * kl).sum(0)).mean()

    assert torch.autograd.gradcheck(loss, (student,))
    (one,) = torch.autograd.grad(loss(student), student)
    (other,) = torch.autograd.grad(
        classroom_loss(student, mentors, target, compat=compat).loss, student
    )
    torch.testing.assert_close(one, other)


def test_one_class_one_sample_one_mentor():
    student = torch.zeros(1, 1, requires_grad=True)
    lesson = classroom_loss(student, [torch.ones(1, 1)], torch.tensor([0]))
    lesson.loss.backward()
    assert lesson.loss.item() == 0
    assert student.grad.item() == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    "options",
    [{}, {"group": "batch"}, {"filtering": False}, {"compat": "official"}, {"task_weight": "batch"},
     {"filtering": False, "mentoring": "fixed"}, {"mentoring": "dtkd"}, {"require_correct": True}],
)  # fmt: skip
def test_a_mentor_that_is_not_finite_does_not_teach_that_sample(bad, options):
    student = logits(6, 5, dtype=torch.float32, scale=0.1).requires_grad_()
    target = labels(6, classes=5)
    mentors = 3 * F.one_hot(target, 5).float() + logits(3, 6, 5, seed=1, scale=0.1).float()
    spoiled = mentors.clone()
    spoiled[1, 2, 3] = bad
    lesson = classroom_loss(student, spoiled, target, **options)
    lesson.loss.backward()
    assert torch.isfinite(lesson.loss)
    assert torch.isfinite(student.grad).all()
    for name in ("mentor_loss", "mentor_score", "weight", "gap", "temperature"):
        assert torch.isfinite(getattr(lesson, name)).all(), name
    assert not lesson.active[1, 2]
    assert lesson.mentor_score[1, 2] == 0
    assert lesson.mentor_loss[1, 2] == 0
    clean = classroom_loss(student, mentors, target, **options)
    assert clean.active.all()
    rest = torch.ones(3, 6, dtype=torch.bool)
    rest[1, 2] = False
    assert lesson.active[rest].all(), "the others, and its other samples, are taught as before"


@pytest.mark.parametrize("mentoring", ["gap", "dtkd", "none"])
def test_classes_masked_everywhere_are_as_if_they_were_not_there(mentoring):
    part, others = logits(4, 5).requires_grad_(), logits(3, 4, 5, seed=1)
    target = labels(4, classes=5)
    without = classroom_loss(part, others, target, mentoring=mentoring)
    without.loss.backward()
    student = F.pad(part.detach(), (0, 2), value=-1e4).requires_grad_()
    lesson = classroom_loss(student, F.pad(others, (0, 2), value=-1e4), target, mentoring=mentoring)
    lesson.loss.backward()
    for name in ("loss", *FIELDS):
        torch.testing.assert_close(getattr(lesson, name), getattr(without, name), msg=name)
    torch.testing.assert_close(student.grad, F.pad(part.grad, (0, 2)))


@pytest.mark.parametrize("other", [None, "logits", {"logits": torch.zeros(2, 3)}])
def test_logits_that_are_no_tensors_are_named(other):
    student, target = torch.zeros(2, 3), torch.zeros(2).long()
    with pytest.raises(TypeError, match="mentor 1: expected a tensor, got"):
        classroom_loss(student, [student, other], target)
    with pytest.raises(TypeError, match="student_logits: expected a tensor, got"):
        classroom_loss(other, [student], target)


def test_an_output_object_is_told_from_its_logits():
    class Output(dict):
        logits = torch.zeros(2, 3)

    with pytest.raises(TypeError, match=r"mentor 0: .* got Output: pass its \.logits"):
        classroom_loss(torch.zeros(2, 3), [Output()], torch.zeros(2).long())


def test_units_of_a_mentor_that_is_not_finite():
    student, target = logits(2, 3, 4, dtype=torch.float32), labels(2, 3, classes=4)
    mentors = logits(2, 2, 3, 4, seed=1, scale=4.0).float()
    mentors[0, 1, 2, 0] = float("nan")
    for group in ("sample", "batch", "unit"):
        lesson = classroom_loss(student, mentors, target, group=group)
        assert torch.isfinite(lesson.loss)
        assert not lesson.active[0, 1].any()
    weight = torch.ones(2, 3)
    weight[1, 2] = 0
    for group in ("sample", "batch", "unit"):
        student = logits(2, 3, 4, dtype=torch.float32).requires_grad_()
        hidden = classroom_loss(student, mentors, target, group=group, unit_weight=weight)
        clean = classroom_loss(
            student, mentors.nan_to_num(), target, group=group, unit_weight=weight
        )
        torch.testing.assert_close(hidden.mentor_loss, clean.mentor_loss)
        hidden.loss.backward()
        assert torch.isfinite(student.grad).all()


def test_equals_do_not_teach():
    student = logits(8, 10, dtype=torch.float32)
    lesson = classroom_loss(student, [student.clone(), student.clone()], labels(8, classes=10))
    assert not lesson.active.any()
    assert (lesson.mentor_loss == 0).all()


def test_agreement_is_zero_without_filter():
    student = logits(8, 10, dtype=torch.float32)
    lesson = classroom_loss(student, [student], labels(8, classes=10), filtering=False)
    assert lesson.active.all()
    assert (lesson.mentor_loss == 0).all()


def test_ranks_hold_where_probabilities_underflow():
    student = torch.tensor([[0.0, 400.0]])
    mentors = torch.tensor([[[0.0, 300.0]], [[0.0, 500.0]]])
    lesson = classroom_loss(student, mentors, torch.tensor([0]))
    assert lesson.student_score.item() == 0
    assert lesson.active[:, 0].tolist() == [True, False]
    assert lesson.temperature[0].item() == pytest.approx(13.0)
    assert lesson.weight[0].item() == pytest.approx(2.0)


def test_kd_is_the_special_case_of_one_mentor_and_a_fixed_temperature():
    student, mentor, target = logits(6, 5), logits(6, 5, seed=1), labels(6, classes=5)
    lesson = classroom_loss(
        student, [mentor], target,
        filtering=False, mentoring="fixed", temperature=4.0, task_weight=1.0,
    )  # fmt: skip
    kd = F.kl_div(
        F.log_softmax(student / 4, -1), F.log_softmax(mentor / 4, -1),
        reduction="batchmean", log_target=True,
    )  # fmt: skip
    torch.testing.assert_close(lesson.loss, F.cross_entropy(student, target) + 16 * kd)


def test_gradients_are_those_of_the_formula():
    student = logits(3, 4).requires_grad_()
    mentors, target = logits(2, 3, 4, seed=1, scale=3.0), labels(3, classes=4)
    fixed = classroom_loss(student, mentors, target)
    (gradient,) = torch.autograd.grad(fixed.loss, student)
    expected = torch.zeros_like(gradient)
    for i in range(3):
        expected[i] += (
            fixed.student_score[i] * (student[i].softmax(-1) - F.one_hot(target[i], 4)).detach()
        )
        for m in range(2):
            tau = fixed.temperature[m, i]
            expected[i] += (
                fixed.active[m, i] * fixed.weight[m, i] * tau
                * ((student[i] / tau).softmax(-1) - (mentors[m, i] / tau).softmax(-1))
            ).detach()  # fmt: skip
    torch.testing.assert_close(gradient, expected / 3)


def test_invisible_units_reach_nothing():
    weight = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    student, mentors = logits(2, 3, 5, dtype=torch.float32), logits(2, 2, 3, 5, seed=1).float()
    target = labels(2, 3, classes=5)
    for group in ("sample", "batch", "unit"):
        for task_weight in ("student", "batch", 1.0):
            options = {"unit_weight": weight, "group": group, "task_weight": task_weight}
            before = classroom_loss(student, mentors, target, **options)
            hidden, label = student.clone(), target.clone()
            hidden[weight == 0] += 3.0
            label[weight == 0] = -1
            after = classroom_loss(hidden, mentors, label, **options)
            torch.testing.assert_close(after.loss, before.loss)
            torch.testing.assert_close(after.mentor_loss, before.mentor_loss)


def test_batch_task_weight_is_the_geometric_mean():
    student, target = logits(6, 5), labels(6, classes=5)
    lesson = classroom_loss(student, [], target, task_weight="batch")
    cross_entropy = F.cross_entropy(student, target)
    torch.testing.assert_close(lesson.loss, torch.exp(-cross_entropy) * cross_entropy)


def test_label_smoothing_keeps_a_perfect_score():
    target = torch.full((2, 4), 0.05, dtype=torch.float64)
    target[:, 1] = 0.85
    lesson = classroom_loss(target.log(), [target.log()], target)
    assert lesson.student_score.tolist() == pytest.approx([1.0, 1.0])
    one_hot = classroom_loss(logits(3, 4), logits(2, 3, 4), labels(3, classes=4))
    soft = classroom_loss(
        logits(3, 4), logits(2, 3, 4), F.one_hot(labels(3, classes=4), 4).double()
    )
    torch.testing.assert_close(soft.loss, one_hot.loss)


def test_require_correct_silences_wrong_mentors():
    student = torch.tensor([[0.0, 3.0, 0.0]])
    mentors = torch.tensor([[[1.0, 2.0, 0.0]], [[2.0, 1.0, 0.0]]])
    target = torch.tensor([0])
    assert classroom_loss(student, mentors, target).active[:, 0].tolist() == [True, True]
    strict = classroom_loss(student, mentors, target, require_correct=True)
    assert strict.active[:, 0].tolist() == [False, True]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_get_float32_statistics(dtype):
    student = logits(16, 100).to(dtype).requires_grad_()
    mentors, target = logits(4, 16, 100, seed=1, scale=4.0).to(dtype), labels(16, classes=100)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lesson = classroom_loss(student, mentors, target)
    exact = classroom_loss(student.detach().float(), mentors.float(), target)
    assert lesson.loss.dtype == lesson.weight.dtype == torch.float32
    torch.testing.assert_close(lesson.loss, exact.loss)
    torch.testing.assert_close(lesson.temperature, exact.temperature)
    lesson.loss.backward()
    assert torch.isfinite(student.grad).all()


def test_module_equals_function():
    student, mentors, target = logits(4, 5), logits(2, 4, 5), labels(4, classes=5)
    module = ClassroomLoss(temperature=3.0, filtering=False)
    expected = classroom_loss(student, mentors, target, temperature=3.0, filtering=False)
    torch.testing.assert_close(module(student, mentors, target).loss, expected.loss)
    assert "temperature=3.0" in repr(module)
    with pytest.raises(TypeError, match=r"\['temprature'\]"):
        ClassroomLoss(temprature=3.0)
    with pytest.raises(ValueError, match="group must be one of"):
        ClassroomLoss(group="class")


def test_every_form_of_mentor_logits_is_the_same():
    x, y = logits(2, 3, 4), logits(2, 3, 5)
    mx, my = logits(2, 2, 3, 4, seed=1), logits(2, 2, 3, 5, seed=2)
    target = (labels(2, 3, classes=4), labels(2, 3, classes=5))
    stacked = classroom_loss((x, y), (mx, my), target)
    by_mentor = classroom_loss((x, y), [(mx[m], my[m]) for m in range(2)], target)
    torch.testing.assert_close(stacked.loss, by_mentor.loss)
    listed = classroom_loss(x, list(mx), target[0])
    torch.testing.assert_close(listed.loss, classroom_loss(x, mx, target[0]).loss)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((torch.zeros(2, 3), torch.zeros(1, 2, 4), torch.zeros(2).long()), {}, "mentor 0.*2, 4.*2, 3"),
        ((torch.zeros(2, 3), [torch.zeros(2, 3), torch.zeros(3, 3)], torch.zeros(2).long()), {}, "mentor 1"),
        ((torch.zeros(2, 3), [torch.zeros(2, 3)], torch.zeros(3).long()), {}, "class indices has shape"),
        ((torch.zeros(2, 3), [torch.zeros(2, 3)], torch.zeros(2)), {}, "probabilities has shape"),
        ((torch.zeros(2, 3), [torch.zeros(2, 3)], torch.zeros(2, 3).long()), {}, "probabilities are floating point"),
        ((torch.zeros(3), [torch.zeros(3)], torch.zeros(1).long()), {}, r"must be \[B, C\]"),
        ((torch.zeros(2, 3), [], torch.zeros(2).long()), {"group": "class"}, "group must be one of"),
        ((torch.zeros(2, 3), [], torch.zeros(2).long()), {"mentoring": "slow"}, "mentoring must be"),
        ((torch.zeros(2, 3), [], torch.zeros(2).long()), {"task_weight": "batsh"}, "task_weight"),
        ((torch.zeros(2, 3), [], torch.zeros(2).long()), {"temperature": -1.0}, "temperature"),
        ((torch.zeros(2, 3), [], torch.zeros(2).long()), {"compat": "offical"}, "compat must be"),
        ((torch.zeros(2, 3), [], torch.zeros(2).long()), {"compat": "official", "filtering": False}, "decides filtering"),
        ((torch.zeros(2, 4, 3), [], torch.zeros(2, 4).long()), {"require_correct": True}, "group='unit'"),
        ((torch.zeros(2, 4, 3), [], torch.zeros(2, 4).long()), {"unit_weight": torch.ones(4, 2)}, "unit_weight has shape"),
        ((torch.zeros(2, 4, 3), [], torch.zeros(2, 4).long()), {"unit_weight": torch.ones(2, 1)}, "unit_weight has shape"),
        ((torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2).long()), {}, "in a list"),
        ((torch.zeros(0, 3), [], torch.zeros(0).long()), {}, "is empty"),
        ((torch.zeros(2, 3), [], torch.zeros(2).long()), {"temperature": float("inf")}, "finite"),
        ((torch.zeros(2, 3), [], torch.zeros(2).long()), {"task_weight": float("nan")}, "task_weight"),
        ((torch.zeros(2, 3), [], torch.zeros(2).long()), {"compat": "official", "divergence": lambda pair: 0}, "decides divergence"),
    ],
)  # fmt: skip
def test_errors_name_the_cause(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        classroom_loss(*arguments, **options)


def test_options_have_the_same_defaults_everywhere():
    there = classroom_loss.__kwdefaults__
    assert {name: there[name] for name in OPTIONS} == OPTIONS
    assert set(there) - set(OPTIONS) == {
        "unit_weight", "mentor_unit_weight", "mentor_mask", "rank_divergence",
    }  # fmt: skip


def test_a_module_shows_what_was_changed():
    assert repr(ClassroomLoss()) == "ClassroomLoss()"
    changed = ClassroomLoss(temperature=8.0, group="sample", mentoring="fixed")
    assert repr(changed) == "ClassroomLoss(temperature=8.0, mentoring='fixed')"


def test_one_pass_without_host_synchronisation():
    """On the meta device nothing can be read back: a hidden ``.item()`` would raise."""
    student = torch.empty(4, 10, device="meta", requires_grad=True)
    mentors = torch.empty(3, 4, 10, device="meta")
    target = torch.empty(4, dtype=torch.long, device="meta")
    for options in ({}, {"compat": "official"}, {"group": "batch"}, {"mentoring": "dtkd"}):
        classroom_loss(student, mentors, target, **options).loss.backward()
