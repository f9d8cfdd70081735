"""Logit methods against float64 NumPy written from the formulas, a sample at a time."""

import math

import numpy as np
import pytest
import torch

from classroomkd.core import classroom_loss
from classroomkd.methods import create_method
from classroomkd.methods.divergences import correlation, standardized
from tests.core.oracle import kl, softmax

B, C = 6, 5


def scene(count=3, seed=0, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    student = scale * torch.randn(B, C, generator=generator, dtype=torch.float64)
    mentors = scale * torch.randn(count, B, C, generator=generator, dtype=torch.float64)
    return student, mentors, torch.randint(C, (B,), generator=generator)


def log_loss(z, y):
    return -math.log(softmax(z)[y])


def rows(student, mentor, target):
    return zip(student.numpy(), mentor.numpy(), target.tolist(), strict=True)


def zscore(z):
    return (z - z.mean()) / (z.std(ddof=1) + 1e-7)


def expected_kd(student, mentor, target, tau, weight, task_weight, change=lambda z: z):
    return np.mean(
        [
            task_weight * log_loss(s, y)
            + weight * tau**2 * kl(softmax(change(m) / tau), softmax(change(s) / tau))
            for s, m, y in rows(student, mentor, target)
        ]
    )


def test_lskd():
    student, mentors, target = scene(1)
    want = expected_kd(student, mentors[0], target, 2.0, 9.0, 0.1, zscore)
    assert create_method("lskd")(student, mentors, target).loss.item() == pytest.approx(want)
    switch = create_method("kd", standardize=True, temperature=2, weight=9, task_weight=0.1)
    assert switch(student, mentors, target).loss.item() == pytest.approx(want)
    torch.testing.assert_close(
        standardized(student)[0].numpy(), zscore(student[0].numpy()), check_dtype=False
    )


@pytest.mark.parametrize("standardize", [False, True])
def test_dkd(standardize):
    student, mentors, target = scene(1)
    tau, alpha, beta = (2.0, 9.0, 72.0) if standardize else (4.0, 1.0, 8.0)
    want = []
    for s, m, y in rows(student, mentors[0], target):
        change = zscore if standardize else (lambda z: z)
        p_s, p_m = softmax(change(s) / tau), softmax(change(m) / tau)
        binary = kl([p_m[y], 1 - p_m[y]], [p_s[y], 1 - p_s[y]])
        others = [k for k in range(C) if k != y]
        among = kl(p_m[others] / p_m[others].sum(), p_s[others] / p_s[others].sum())
        want.append(log_loss(s, y) + tau**2 * (alpha * binary + beta * among))
    method = create_method("dkd", standardize=standardize)
    assert method(student, mentors, target).loss.item() == pytest.approx(np.mean(want))


def test_dkd_is_kd_at_the_weights_of_kd():
    """KL = binary part + (1 - p_m[y]) * part among the others: equation 6 of the paper."""
    student, mentors, target = scene(1)
    lessons = {
        beta: create_method("dkd", beta=beta, temperature=1.0)(student, mentors, target)
        for beta in (0.0, 1.0)
    }
    among = lessons[1.0].mentor_loss - lessons[0.0].mentor_loss
    rest = 1 - mentors.softmax(-1)[:, torch.arange(B), target]
    plain = create_method("kd", temperature=1.0, weight=1.0)(student, mentors, target)
    torch.testing.assert_close(lessons[0.0].mentor_loss + rest * among, plain.mentor_loss)


def test_dist():
    student, mentors, target = scene(1)
    tau = 4.0
    p_s = np.array([softmax(z / tau) for z in student.numpy()])
    p_m = np.array([softmax(z / tau) for z in mentors[0].numpy()])
    inter = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(p_s, p_m, strict=True)])
    intra = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(p_s.T, p_m.T, strict=True)])
    task = np.mean([log_loss(s, y) for s, y in zip(student.numpy(), target.tolist(), strict=True)])
    want = task + 2 * tau**2 * (inter + intra)
    assert create_method("dist")(student, mentors, target).loss.item() == pytest.approx(want)


def test_dist_relates_only_the_samples_that_a_mentor_teaches():
    student, mentors, target = scene(1, scale=1.0)
    whole = classroom_loss(student, mentors, target, divergence=correlation)
    taught = whole.active[0]
    assert 1 < taught.sum() < B
    other = student.clone()
    other[~taught] = student[~taught] + torch.randn(int((~taught).sum()), C) * 1e-3
    changed = classroom_loss(other, mentors, target, divergence=correlation)
    assert torch.equal(changed.active, whole.active)
    torch.testing.assert_close(changed.mentor_loss, whole.mentor_loss)


def test_wsld():
    student, mentors, target = scene(1)
    want = np.mean(
        [
            log_loss(s, y)
            + 2.25
            * (1 - math.exp(-log_loss(s, y) / (log_loss(m, y) + 1e-7)))
            * 16
            * kl(softmax(m / 4), softmax(s / 4))
            for s, m, y in rows(student, mentors[0], target)
        ]
    )
    assert create_method("wsld")(student, mentors, target).loss.item() == pytest.approx(want)


def expected_dtkd(student, mentor, target):
    want = []
    for s, m, y in rows(student, mentor, target):
        top_s, top_m = max(s.max(), 1e-3), max(m.max(), 1e-3)
        tau_m, tau_s = 8 * top_m / (top_m + top_s), 8 * top_s / (top_m + top_s)
        dynamic = tau_m * tau_s * kl(softmax(m / tau_m), softmax(s / tau_s))
        plain = 16 * kl(softmax(m / 4), softmax(s / 4))
        want.append(log_loss(s, y) + 3 * dynamic + plain)
    return np.mean(want)


def test_dtkd():
    student, mentors, target = scene(1)
    lesson = create_method("dtkd")(student, mentors, target)
    assert lesson.loss.item() == pytest.approx(expected_dtkd(student, mentors[0], target))


def test_dtkds_gradient_flows_through_the_temperatures():
    student, mentors, target = scene(1)
    leaf = student.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(create_method("dtkd")(leaf, mentors, target).loss, leaf)
    for place in [(0, 0), (1, int(student[1].argmax())), (2, 3), (5, int(student[5].argmax()))]:
        values = []
        for step in (1e-6, -1e-6):
            moved = student.clone()
            moved[place] += step
            values.append(expected_dtkd(moved, mentors[0], target))
        slope = (values[0] - values[1]) / 2e-6
        assert gradient[place].item() == pytest.approx(slope, rel=1e-4, abs=1e-8)


def test_ctkd():
    student, mentors, target = scene(1)
    student.requires_grad_()
    method = create_method("ctkd").double()
    tau = 1 + 20 / (1 + math.exp(-1))
    assert tau == pytest.approx(15.62, abs=0.01)
    method.begin_epoch(9, 240)
    lesson = method(student, mentors, target)
    want = expected_kd(student.detach(), mentors[0], target, tau, 0.9, 0.1)
    assert lesson.loss.item() == pytest.approx(want)
    assert lesson.temperature.flatten().tolist() == pytest.approx([tau] * B)

    def at(theta):
        with torch.no_grad():
            return expected_kd(
                student.detach(), mentors[0], target, 1 + 20 / (1 + math.exp(-theta)), 0.9, 0.1
            )

    slope = (at(1 + 1e-5) - at(1 - 1e-5)) / 2e-5
    (gradient,) = torch.autograd.grad(lesson.loss, method.theta)
    assert gradient.item() == pytest.approx(-slope, rel=1e-5), (
        "theta climbs what the student descends"
    )
    method.begin_epoch(4, 240)
    (half,) = torch.autograd.grad(method(student, mentors, target).loss, method.theta)
    assert half.item() == pytest.approx(-slope / 2, rel=1e-5), "half-way along the cosine"


def weighted(student, mentors, target, weights, tau=4.0):
    """Cross-entropy and the KL terms weighted by ``weights [M, B]``."""
    total = 0.0
    for i, (s, y) in enumerate(zip(student.numpy(), target.tolist(), strict=True)):
        total += log_loss(s, y)
        for m in range(len(mentors)):
            z = mentors[m, i].numpy()
            total += weights[m][i] * tau**2 * kl(softmax(z / tau), softmax(s / tau))
    return total / B


def test_ebkd():
    student, mentors, target = scene(3)
    entropy = np.array(
        [[-sum(p * np.log(p) for p in softmax(z)) for z in m] for m in mentors.numpy()]
    )
    weights = (1 - entropy / entropy.sum(0)) / 2
    np.testing.assert_allclose(weights.sum(0), 1)
    lesson = create_method("ebkd")(student, mentors, target)
    assert lesson.loss.item() == pytest.approx(weighted(student, mentors, target, weights))
    np.testing.assert_allclose(lesson.weight, weights)


@pytest.mark.parametrize("name", ["ebkd", "aver"])
def test_one_mentor_alone_has_the_whole_weight(name):
    student, mentors, target = scene(1)
    lesson = create_method(name)(student, mentors, target)
    want = expected_kd(student, mentors[0], target, 4.0, 1.0, 1.0)
    assert lesson.loss.item() == pytest.approx(want)


def test_dgkd_leaves_some_out():
    student, mentors, target = scene(4)
    everybody = create_method("dgkd", drop=0)(student, mentors, target)
    want = weighted(student, mentors, target, np.ones((4, B)), tau=5.0)
    assert everybody.loss.item() == pytest.approx(want)
    torch.manual_seed(0)
    silent = set()
    for _ in range(40):
        lesson = create_method("dgkd", drop=1)(student, mentors, target)
        assert lesson.active.sum(0).tolist() == [3] * B
        silent.add(lesson.active[:, 0].tolist().index(False))
        torch.testing.assert_close(
            lesson.mentor_loss, everybody.mentor_loss * lesson.active, check_dtype=False
        )
    assert silent == {0, 1, 2, 3}
    assert create_method("dgkd", drop=9)(student, mentors, target).active.sum(0).tolist() == [1] * B


@pytest.mark.parametrize("divergence", ["dkd", "dist"])
@pytest.mark.parametrize("standardize", [False, True])
def test_the_classroom_with_another_divergence(divergence, standardize):
    """Gates, weights and temperatures are the classroom's; the rest is the divergence's."""
    student, mentors, target = scene(3)
    plain = create_method("classroom")(student, mentors, target)
    lesson = create_method("classroom", divergence=divergence, standardize=standardize)(
        student, mentors, target
    )
    for name in ("active", "weight", "temperature", "gap"):
        torch.testing.assert_close(getattr(lesson, name), getattr(plain, name))
    assert (lesson.mentor_loss[~lesson.active] == 0).all()
    assert not torch.allclose(lesson.mentor_loss, plain.mentor_loss)


def test_warm_up_raises_the_mentors_weight():
    student, mentors, target = scene(1)
    method = create_method("dkd", warmup_epochs=4)
    full = method(student, mentors, target)
    for epoch, share in enumerate((0.25, 0.5, 0.75, 1.0, 1.0)):
        method.begin_epoch(epoch, 10)
        lesson = method(student, mentors, target)
        torch.testing.assert_close(lesson.mentor_loss, share * full.mentor_loss)
        torch.testing.assert_close(lesson.task_loss, full.task_loss)
