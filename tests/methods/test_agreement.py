"""AEKD: its weights against SciPy, a one-class SVM and a grid; its loss from autograd's gradients."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from sklearn.svm import OneClassSVM

from classroomkd.methods import create_method
from classroomkd.methods.agreement import agreement
from tests.methods.test_logits import TARGET, kl, logits


def gram(count, seed, likeness=0.0, width=40):
    """Inner products of random gradients of several lengths; alike ones make it ill-conditioned."""
    random = np.random.default_rng(seed)
    rows = random.normal(size=(count, width)) + likeness * random.normal(size=(1, width))
    rows *= random.uniform(0.3, 1.3, size=(count, 1))
    return rows @ rows.T


def by_scipy(matrix, cap):
    count = len(matrix)
    matrix = matrix / np.trace(matrix) * count
    solution = minimize(
        lambda a: 0.5 * a @ matrix @ a,
        np.full(count, 1 / count),
        jac=lambda a: matrix @ a,
        bounds=[(0, max(cap, 1 / count))] * count,
        constraints={"type": "eq", "fun": lambda a: a.sum() - 1, "jac": np.ones_like},
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 1000},
    )
    return torch.from_numpy(solution.x)


@pytest.mark.parametrize("count", [2, 3, 5, 8])
@pytest.mark.parametrize("cap", [0.05, 0.3, 0.6, 1.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_weights_are_scipys(count, cap, dtype):
    for seed in range(12):
        matrix = gram(count, seed, likeness=seed % 4)
        ours = agreement(torch.from_numpy(matrix).to(dtype), cap)
        assert ours.dtype == dtype
        torch.testing.assert_close(ours.double(), by_scipy(matrix, cap), atol=1e-4, rtol=0)
        assert (ours >= 0).all()
        assert (ours <= max(cap, 1 / count) + 1e-6).all()
        assert ours.sum().item() == pytest.approx(1)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_weights_are_those_of_the_public_codes_svm(count):
    for seed in range(5):
        matrix = gram(count, seed)
        nu = 1 / (0.6 * count)
        svm = OneClassSVM(kernel="precomputed", nu=nu, tol=1e-9).fit(matrix)
        expected = torch.zeros(count, dtype=torch.float64)
        expected[svm.support_] = torch.from_numpy(svm.dual_coef_[0]) / (count * nu)
        ours = agreement(torch.from_numpy(matrix), 0.6)
        torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)


def test_weights_by_brute_force():
    matrix = gram(3, seed=7, likeness=1.0)
    grid = np.array([(a, b, 200 - a - b) for a in range(201) for b in range(201 - a)]) / 200
    grid = grid[(grid <= 0.6).all(1)]
    best = grid[np.einsum("na,ab,nb->n", grid, matrix, grid).argmin()]
    assert agreement(torch.from_numpy(matrix), 0.6).numpy() == pytest.approx(best, abs=0.01)


@pytest.mark.parametrize(
    ("rows", "cap", "expected"),
    [
        ([[1, 0], [-1, 0]], 0.6, [0.5, 0.5]),  # they cancel each other
        ([[1, 0], [3, 0]], 1.0, [1, 0]),  # the shorter, as far as it may
        ([[1, 0], [3, 0]], 0.6, [0.6, 0.4]),
        ([[1, 0], [3, 0]], 0.1, [0.5, 0.5]),
        ([[2, 1], [2, 1], [2, 1]], 0.6, [1 / 3] * 3),
        ([[0, 0], [0, 0]], 0.6, [0.5, 0.5]),
        ([[1, 2]], 0.6, [1]),
        ([[3, 0], [0, 3], [0, 0]], 0.8, [0.1, 0.1, 0.8]),
    ],
)
def test_weights_by_hand(rows, cap, expected):
    rows = torch.tensor(rows, dtype=torch.float64)
    ours = agreement(rows @ rows.T, cap)
    torch.testing.assert_close(ours, torch.tensor(expected).double(), atol=1e-6, rtol=0)


def test_no_mentors():
    assert agreement(torch.zeros(0, 0), 0.6).shape == (0,)
    student = logits(5, 7)
    lesson = create_method("aekd")(student, [], TARGET)
    torch.testing.assert_close(lesson.loss, F.cross_entropy(student, TARGET))


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_the_size_of_the_gradients_does_not_matter(scale):
    matrix = torch.from_numpy(gram(4, seed=2))
    torch.testing.assert_close(agreement(scale * matrix, 0.6), agreement(matrix, 0.6))


@pytest.mark.parametrize("batch_mean", [None, False, True])
@pytest.mark.parametrize(
    "options", [{}, {"temperature": 2.0, "weight": 0.7, "task_weight": 0.3, "tolerance": 0.9}]
)
def test_aekd(options, batch_mean):
    o = {"temperature": 4.0, "weight": 1.0, "task_weight": 1.0, "tolerance": 0.6} | options
    student = logits(5, 7).requires_grad_()
    mentors = [(0.5 + m) * logits(5, 7, seed=1 + m) for m in range(3)]
    given = options if batch_mean is None else options | {"batch_mean": batch_mean}
    lesson = create_method("aekd", **given)(student, mentors, TARGET)
    terms = [kl(student, mentor, o["temperature"]) for mentor in mentors]
    gradients = [torch.autograd.grad(t, student, retain_graph=True)[0] for t in terms]
    rows = torch.stack([g.mean(0) if batch_mean else g.flatten() for g in gradients]).numpy()
    shares = by_scipy(rows @ rows.T, o["tolerance"])
    assert shares.max() - shares.min() > 0.1
    torch.testing.assert_close(
        lesson.weight, (o["weight"] * shares).unsqueeze(1).expand(3, 5), atol=1e-4, rtol=0
    )
    task = o["task_weight"] * F.cross_entropy(student, TARGET)
    expected = task + sum(w * t for w, t in zip(lesson.weight[:, 0], terms, strict=True))
    torch.testing.assert_close(lesson.loss, expected)
    ours, theirs = (
        torch.autograd.grad(v, student, retain_graph=True)[0] for v in (lesson.loss, expected)
    )
    torch.testing.assert_close(ours, theirs)


def test_the_public_codes_solver_stays_where_it_began():
    """What the docstring says of published AEKD: a tolerance above the matrix it is to solve."""
    matrix = gram(3, seed=3)
    small = matrix * 6e-7 / matrix.max()
    shares = []
    for tolerance in (1e-6, 1e-12):
        svm = OneClassSVM(kernel="precomputed", nu=1 / (0.6 * 3), tol=tolerance).fit(small)
        share = np.zeros(3)
        share[svm.support_] = svm.dual_coef_[0] / (3 * svm.nu)
        shares.append(share)
    assert shares[0] == pytest.approx([0.6, 0.4, 0])
    ours = agreement(torch.from_numpy(small), 0.6).numpy()
    assert ours == pytest.approx(shares[1], abs=1e-4)
    assert np.abs(ours - shares[0]).max() > 0.1


def test_one_mentor_teaches_as_in_kd():
    batch = logits(5, 7), [logits(5, 7, seed=1)], TARGET
    kd = create_method("kd", weight=1.0, task_weight=1.0)(*batch)
    torch.testing.assert_close(create_method("aekd")(*batch).loss, kd.loss)


@pytest.mark.parametrize("batch_mean", [False, True])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_mentor_that_says_nothing_finite_has_no_weight(bad, batch_mean):
    student = logits(5, 7).requires_grad_()
    mentors = [logits(5, 7, seed=1 + m) for m in range(3)]
    silent = logits(5, 7, seed=9)
    silent[:, 2] = bad
    aekd = create_method("aekd", batch_mean=batch_mean)
    lesson = aekd(student, [mentors[0], silent, *mentors[1:]], TARGET)
    without = aekd(student, mentors, TARGET)
    assert not lesson.active[1].any()
    assert (lesson.weight[1] == 0).all()
    torch.testing.assert_close(lesson.weight[[0, 2, 3]], without.weight)
    torch.testing.assert_close(lesson.loss, without.loss)
    alone = aekd(student, [silent, silent], TARGET)
    torch.testing.assert_close(alone.loss, F.cross_entropy(student, TARGET))
    torch.testing.assert_close(
        *(torch.autograd.grad(one.loss, student)[0] for one in (lesson, without))
    )


@pytest.mark.parametrize("batch_mean", [False, True])
def test_a_mentor_that_is_silent_about_some_samples(batch_mean):
    student, tau = logits(5, 7), 4.0
    mentors = [(0.5 + m) * logits(5, 7, seed=1 + m) for m in range(3)]
    said = [mentor.clone() for mentor in mentors]
    said[2][1, 0], said[2][4, 3] = torch.nan, torch.inf
    spoke = np.ones((3, 5))
    spoke[2, [1, 4]] = 0
    lesson = create_method("aekd", batch_mean=batch_mean)(student, said, TARGET)
    rows = []
    for mentor, mentor_mask in zip(mentors, spoke, strict=True):
        difference = ((student / tau).softmax(1) - (mentor / tau).softmax(1)).numpy()
        kept = difference[mentor_mask == 1]
        # As long as five samples of the same kind would be.
        rows.append(kept.mean(0) if batch_mean else difference * mentor_mask[:, None])
        rows[-1] = rows[-1] if batch_mean else rows[-1].ravel() * np.sqrt(5 / mentor_mask.sum())
    shares = by_scipy(np.stack(rows) @ np.stack(rows).T, 0.6).numpy()[:, None] * spoke
    np.testing.assert_allclose(lesson.weight, shares / shares.sum(0), atol=1e-4)
    assert lesson.loss.isfinite()


def test_weights_of_those_who_may_have_one():
    matrix = torch.from_numpy(gram(4, seed=5))
    allowed = torch.tensor([True, False, True, True])
    ours = agreement(matrix, 0.3, allowed)  # a cap below 1/3: raised to it
    torch.testing.assert_close(ours, torch.tensor([1, 0, 1, 1]).double() / 3)
    kept = matrix[allowed][:, allowed]
    torch.testing.assert_close(agreement(matrix, 0.6, allowed)[allowed], agreement(kept, 0.6))
    assert (agreement(matrix, 0.6, torch.zeros(4, dtype=torch.bool)) == 0).all()


@pytest.mark.parametrize("tolerance", [0, -1, 1.5])
def test_tolerance_out_of_range(tolerance):
    with pytest.raises(ValueError, match="tolerance"):
        create_method("aekd", tolerance=tolerance)
