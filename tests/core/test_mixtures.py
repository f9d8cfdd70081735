"""Who teaches, how much, and whether together: against NumPy, one sample at a time."""

from itertools import product

import numpy as np
import pytest
import torch

from classroomkd import ClassroomLoss, classroom_loss
from classroomkd.core import make_signals
from classroomkd.core.ensemble import ensemble, mean_logits, mean_probabilities, mean_zscores
from classroomkd.core.filter import score_mentors
from tests.core.oracle import kl, softmax

B, C, M = 6, 7, 4


def batch(seed=0, units=None):
    draw = np.random.default_rng(seed)
    shape = (B, C) if units is None else (B, units, C)
    student = 2 * draw.normal(size=shape)
    mentors = 2 * draw.normal(size=(M, *shape))
    target = draw.integers(C, size=shape[:-1])
    for m in range(M):  # mentors that know something, some more than others
        np.put_along_axis(mentors[m], target[..., None], 1.0 + m, -1)
    return student, mentors, target


def pooled(mix, share, mentors):
    if mix == "logits":
        return sum(w * z for w, z in zip(share, mentors, strict=True))
    if mix == "probabilities":
        return np.log(sum(w * softmax(z) for w, z in zip(share, mentors, strict=True)))
    score = sum(w * (z - z.mean()) / z.std() for w, z in zip(share, mentors, strict=True))
    return score * sum(w * z.std() for w, z in zip(share, mentors, strict=True))


def oracle(student, mentors, target, *, select, weighting, mix, normalize, prior, weight, T=12.0):
    """The loss of each sample's mentors, and who teaches with what weight; task weight 1."""
    losses, actives, weights = [], [], []
    for i in range(len(student)):
        r_s = softmax(student[i])[target[i]]
        r = [softmax(z[i])[target[i]] for z in mentors]
        active = {
            "better": [x > r_s for x in r],
            "all": [True] * M,
            "soft": [True] * M,
            "best": [x == max(r) for x in r],
        }[select]
        w = [M * x / (r_s + sum(r)) if weighting == "score" else 1.0 for x in r]
        w = [x * p for x, p in zip(w, prior, strict=True)]
        if select == "soft":
            w = [x / (1 + np.exp(-(y - r_s) / 0.1)) for x, y in zip(w, r, strict=True)]
        if normalize or mix != "terms":
            total = sum(x for x, a in zip(w, active, strict=True) if a)
            w = [x / total if a else 0.0 for x, a in zip(w, active, strict=True)]
        loss = 0.0
        if mix == "terms":
            for m in range(M):
                if active[m]:
                    tau = 1 + T * max(0.0, 1 - r_s / r[m])
                    taught = kl(softmax(mentors[m][i] / tau), softmax(student[i] / tau))
                    loss += weight * w[m] * tau**2 * taught
        elif any(active):
            share = [x for x, a in zip(w, active, strict=True) if a]
            members = [mentors[m][i] for m in range(M) if active[m]]
            r_e = np.exp(
                sum(s * np.log(r[m]) for s, m in zip(share, np.flatnonzero(active), strict=True))
            )
            tau = 1 + T * max(0.0, 1 - r_s / r_e)
            together = pooled(mix, share, members)
            loss = weight * tau**2 * kl(softmax(together / tau), softmax(student[i] / tau))
        losses.append(loss - np.log(r_s))
        actives.append(active)
        weights.append([weight * x for x in w])
    return np.array(losses), np.array(actives).T, np.array(weights).T


CELLS = list(
    product(
        ("better", "all", "best", "soft"),
        ("score", "equal"),
        ("terms", "logits", "zscores", "probabilities"),
        (False, True),
    )
)


@pytest.mark.parametrize(("select", "weighting", "mix", "normalize"), CELLS)
def test_every_mixture(select, weighting, mix, normalize):
    student, mentors, target = batch()
    prior = np.array([0.5, 1.5, 1.0, 1.0])
    options = {
        "select": select, "weighting": weighting, "mix": mix, "normalize": normalize, "weight": 0.7,
    }  # fmt: skip
    expected, active, weight = oracle(student, mentors, target, prior=prior, **options)
    z = torch.tensor(student, requires_grad=True)
    lesson = classroom_loss(
        z, torch.tensor(mentors), torch.tensor(target), task_weight=1.0,
        prior=torch.tensor(prior), **options,
    )  # fmt: skip
    assert (lesson.active.numpy() == active).all()
    np.testing.assert_allclose(lesson.weight.numpy(), weight, rtol=1e-9)
    each = (lesson.task_loss + lesson.mentor_loss.sum(0)).numpy()
    np.testing.assert_allclose(each, expected, rtol=1e-9)
    np.testing.assert_allclose(lesson.loss.item(), expected.mean(), rtol=1e-9)
    lesson.loss.backward()
    assert z.grad is not None
    assert z.grad.isfinite().all()


@pytest.mark.parametrize("mix", ["terms", "logits", "zscores", "probabilities"])
def test_gradient(mix):
    """With equal weights and one temperature nothing but the student's prediction moves."""
    student, mentors, target = batch(1)
    z = torch.tensor(student, requires_grad=True)
    options = {"select": "all", "weighting": "equal", "normalize": True, "mix": mix}
    classroom_loss(
        z, torch.tensor(mentors), torch.tensor(target), mentoring="fixed", temperature=3.0,
        task_weight=0.0, **options,
    ).loss.backward()  # fmt: skip
    share = [1 / M] * M
    for i in range(B):
        each = [mentors[m][i] for m in range(M)]
        target_p = (
            sum(softmax(e / 3.0) for e in each) / M
            if mix == "terms"
            else softmax(pooled(mix, share, each) / 3.0)
        )
        expected = 3.0 * (softmax(student[i] / 3.0) - target_p) / B
        np.testing.assert_allclose(z.grad[i].numpy(), expected, rtol=1e-7, atol=1e-12)


def test_one_mentor_is_its_own_ensemble():
    student, mentors, target = (torch.tensor(x) for x in batch(2))
    for mix in ("logits", "zscores", "probabilities"):
        one = classroom_loss(student, mentors[:1], target, mix=mix)
        alone = classroom_loss(student, mentors[:1], target, normalize=True)
        torch.testing.assert_close(one.loss, alone.loss)
        torch.testing.assert_close(one.temperature, alone.temperature.where(one.active, 1.0))


@pytest.mark.parametrize("mix", ["terms", "logits", "zscores", "probabilities"])
def test_a_mentor_that_says_nothing_finite_leaves_the_others_as_they_are(mix):
    student, mentors, target = (torch.tensor(x) for x in batch(3))
    options = {"select": "all", "weighting": "equal", "normalize": True, "mix": mix}
    without = classroom_loss(student, mentors[:3], target, **options)
    mentors[3, :, 2] = float("nan")
    student.requires_grad_()
    lesson = classroom_loss(student, mentors, target, **options)
    torch.testing.assert_close(lesson.loss, without.loss)
    assert not lesson.active[3].any()
    lesson.loss.backward()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("mix", ["logits", "zscores", "probabilities"])
def test_nobody_teaches_where_nobody_is_better(mix):
    student, mentors, target = (torch.tensor(x) for x in batch(4))
    student.scatter_(1, target.unsqueeze(1), 50.0)
    student.requires_grad_()
    lesson = classroom_loss(student, mentors, target, mix=mix, task_weight=1.0)
    assert not lesson.active.any()
    assert (lesson.mentor_loss == 0).all()
    lesson.loss.backward()
    assert student.grad.isfinite().all()


def test_no_mentor():
    student, _, target = (torch.tensor(x) for x in batch(5))
    for select, mix in product(("better", "all", "best", "soft"), ("terms", "logits")):
        lesson = classroom_loss(student, [], target, select=select, mix=mix)
        assert lesson.mentor_loss.shape == (0, B)


def test_units_that_a_mentor_is_not_heard_on_are_not_in_the_ensemble():
    student, mentors, target = (torch.tensor(x) for x in batch(6, units=3))
    mentor_mask = torch.ones(M, 3, dtype=torch.bool)
    mentor_mask[0, 2] = False
    scores = score_mentors(make_signals(student, mentors, target, mentor_mask=mentor_mask))
    weight = torch.ones(M, B, 1, dtype=student.dtype)
    together, part = ensemble(scores, weight, mean_logits)
    torch.testing.assert_close(together.mentors[0][0, :, :2], mentors[:, :, :2].mean(0))
    torch.testing.assert_close(together.mentors[0][0, :, 2], mentors[1:, :, 2].mean(0))
    torch.testing.assert_close(part.sum(0), torch.ones(B, dtype=part.dtype))
    assert (part[0] < part[1]).all()
    lesson = classroom_loss(
        student, mentors, target, mentor_mask=mentor_mask, mix="logits", task_weight=1.0
    )
    torch.testing.assert_close(lesson.loss, (lesson.task_loss + lesson.mentor_loss.sum(0)).mean())


def test_the_ensemble_scores_at_least_what_it_is_said_to():
    student, mentors, target = (torch.tensor(x) for x in batch(7))
    scores = score_mentors(make_signals(student, mentors, target))
    weight = torch.rand(M, B, 1, dtype=student.dtype) + 0.1
    together, _ = ensemble(scores, weight, mean_logits)
    mean = together.mentors[0].squeeze(2)
    said = score_mentors(make_signals(student, mean, target)).mentor_divergence
    assert (said <= together.mentor_divergence + 1e-9).all()


@pytest.mark.parametrize("mean", [mean_logits, mean_zscores, mean_probabilities])
def test_means_do_not_depend_on_the_order_of_mentors(mean):
    share = torch.rand(M, B, 1).softmax(0)
    logits = torch.randn(M, B, 1, C)
    torch.testing.assert_close(mean(share, logits), mean(share.flip(0), logits.flip(0)))


def test_a_surer_mentor_does_not_outvote_in_zscores():
    share = torch.full((2, 1, 1), 0.5)
    one, other = torch.tensor([3.0, 0.0, 1.0]), torch.tensor([0.0, 3.0, 1.0])
    logits = torch.stack([one, 100 * other])[:, None, None]
    assert mean_logits(share, logits).argmax() == 1
    mean = mean_zscores(share, logits).flatten()
    torch.testing.assert_close(mean[0], mean[1])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"select": "bettr"}, "select must be one of"),
        ({"weighting": "scores"}, "weighting must be one of"),
        ({"mix": "mean"}, "mix must be one of"),
        ({"weight": -1.0}, "weight must be 0 or more"),
        ({"filtering": False, "select": "best"}, "leave it out to choose"),
        ({"compat": "official", "mix": "logits"}, "compat='official' decides mix"),
        ({"prior": torch.ones(3)}, r"prior has shape \(3,\) for 4 mentors"),
    ],
)
def test_mistakes(options, said):
    student, mentors, target = (torch.tensor(x) for x in batch())
    with pytest.raises(ValueError, match=said):
        classroom_loss(student, mentors, target, **options)


def test_the_prior_moves_with_the_module():
    loss = ClassroomLoss(prior=torch.tensor([2.0, 1.0]))
    assert loss.double().prior.dtype == torch.float64
    assert "prior" in loss.state_dict()
    assert "prior" not in ClassroomLoss().state_dict()
