"""KDSVD against NumPy's decomposition and torch's own gradient of it, in float64."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from classroomkd.methods import Outputs, create_method
from classroomkd.methods.kdsvd import singular_vectors
from tests.methods.scenes import TARGET, lesson_of, random, says

SMALL = (4, 8, 8), (5, 4, 4), (7, 4, 4), (6, 2, 3)  # the last has as many channels as pixels
LARGE = (9, 8, 8), (5, 4, 4), (7, 2, 2), (6, 4, 4)  # and the middle one more channels than pixels


def by_numpy(student, mentor, k):
    """The mean over samples, from the paper's formula, by loops."""
    total = 0.0
    for b in range(len(student.logits)):
        kernels = []
        vectors = [matched(student, mentor, n, b, k) for n in ("stage1", "stage2", "stage3")]
        for before, here in zip(vectors, vectors[1:], strict=False):
            kernels.append(
                [
                    np.exp(-((here[i][:, None, :] - before[i][None, :, :]) ** 2) / 8)
                    for i in range(2)
                ]
            )
        total += sum(((own - other) ** 2).sum() for own, other in kernels)
    return total / len(student.logits)


def matched(student, mentor, name, b, k):
    own, other = (o.features[name][b].flatten(1).T.numpy() for o in (student, mentor))
    _, values, rows = np.linalg.svd(other)
    theirs = [row if row.sum() > 0 else -row for row in rows[:k]]
    scale = values[:k] / np.sqrt((values[:k] ** 2).sum())
    candidates = np.linalg.svd(own)[2][: min(k + 3, *own.shape)]
    ours = []
    for row in theirs:
        cosines = candidates @ row
        best = np.abs(cosines).argmax()
        ours.append(candidates[best] * np.sign(cosines[best]))
    return np.stack(ours, 1) * scale, np.stack(theirs, 1) * scale


@pytest.mark.parametrize("options", [{}, {"weight": 2.5, "k": 3}])
def test_kdsvd_by_numpy(options):
    student, mentor = says(*SMALL), says(*LARGE, seed=9)
    _, lesson = lesson_of("kdsvd", student, mentor, **options)
    expected = options.get("weight", 1.0) * by_numpy(student, mentor, options.get("k", 1))
    assert lesson.mentor_loss.mean().item() == pytest.approx(expected, rel=1e-9)
    task = F.cross_entropy(student.logits, TARGET)
    assert lesson.loss.item() == pytest.approx(task.item() + expected, rel=1e-9)


@pytest.mark.parametrize("shape", [(6, 3, 3), (4, 3, 4), (9, 2, 3)])
def test_the_gradient_is_torchs(shape):
    """Of any function of the first vectors that does not see their signs."""
    feature, weight = random(3, *shape).requires_grad_(), random(shape[0], 2, seed=1)
    values, ours = singular_vectors(feature, 2)
    left, s, vh = torch.linalg.svd(feature.flatten(2).mT, full_matrices=False)
    assert left.shape[2] == s.shape[1]
    torch.testing.assert_close(values / values[:, :1], (s / s[:, :1])[:, :2].detach())
    theirs = vh.mT[..., :2]
    torch.testing.assert_close(ours.square(), theirs.square())
    gradients = [
        torch.autograd.grad((weight * v**2).sin().sum(), feature, retain_graph=True)[0]
        for v in (ours, theirs)
    ]
    assert gradients[1].abs().max() > 1e-3
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)


def test_gradients_of_the_lesson_by_differences():
    student, mentor = says(*SMALL), says(*LARGE, seed=9)
    method = create_method("kdsvd")
    for feature in student.features.values():
        feature.requires_grad_()
    method(student, [mentor], TARGET).loss.backward()
    assert student.features["stem"].grad is None
    for name in ("stage1", "stage2", "stage3"):
        step = random(*student.features[name].shape, seed=5)
        ends = []
        for side in (1e-5, -1e-5):
            moved = student.features[name].detach() + side * step
            other = Outputs(student.logits, {**student.features, name: moved})
            ends.append(method(other, [mentor], TARGET).loss.item())
        slope = (student.features[name].grad * step).sum().item()
        assert slope == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-3)


def test_equal_maps_teach_nothing():
    student = says(*SMALL)
    _, lesson = lesson_of("kdsvd", student, student)
    assert lesson.mentor_loss.abs().max() < 1e-20


def test_neither_scale_nor_sign_matters():
    student, mentor = says(*SMALL), says(*LARGE, seed=9)
    _, plain = lesson_of("kdsvd", student, mentor)
    turned = Outputs(student.logits, {n: -3.0 * f for n, f in student.features.items()})
    small = Outputs(mentor.logits, {n: -1e-5 * f for n, f in mentor.features.items()})
    _, other = lesson_of("kdsvd", turned, small)
    torch.testing.assert_close(other.loss, plain.loss)


@pytest.mark.parametrize("value", [0.0, 1.0, float("nan")])
def test_maps_without_a_direction(value):
    """Of zeros, of one number everywhere (all other singular values are 0), of no numbers."""
    maps = {f"stage{i}": torch.full((3, 6, 4, 4), value, requires_grad=True) for i in (1, 2)}
    student = Outputs(torch.zeros(3, 4), maps)
    mentor = says((6, 4, 4), (6, 4, 4), (6, 4, 4))
    mentor = Outputs(mentor.logits.float(), {n: f.float() for n, f in mentor.features.items()})
    for pair in ((student, mentor), (mentor, student)):
        lesson = create_method("kdsvd", k=2)(pair[0], [pair[1]], TARGET)
        assert lesson.loss.isfinite()
        if pair[0] is student:
            lesson.loss.backward()
            assert all(f.grad.isfinite().all() for f in maps.values())


def test_defaults_are_the_benchmarks():
    method = create_method("kdsvd")
    assert (method.weight, method.k, method.task_weight) == (1.0, 1, 1.0)


def test_unequal_widths_are_refused():
    student, mentor = says(*SMALL), says((9, 8, 8), (5, 4, 4), (8, 2, 2), (6, 4, 4))
    with pytest.raises(ValueError, match="kdsvd .* stage2 of the student has 7, stage2 .* 8"):
        create_method("kdsvd").setup(student, [mentor])


def test_one_pair_is_refused():
    with pytest.raises(ValueError, match="kdsvd needs two pairs"):
        create_method("kdsvd", pairs=[("stage1", "stage1")]).setup(says(*SMALL), [says(*LARGE)])
