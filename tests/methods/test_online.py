"""Methods whose mentors train along: DML against a loop of its own, KDCL, OKDDip and ONE against
their formulas in plain torch, gradients included."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from classroomkd.data import Batch
from classroomkd.mentors import Mentor
from classroomkd.mentors.mentor import LearningMentor
from classroomkd.methods import Outputs, create_method
from classroomkd.methods.contrib.cohort import ramp_up
from tests.steps import step

B, C = 5, 4
TARGET = torch.tensor([0, 3, 1, 1, 2])
ENSEMBLES = ["kdcl", "okddip", "one"]
WIDTHS = 16, 24, 16, 16  # of the pooled features: of the student, then of three mentors


def leaf(*shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(*shape, generator=generator, dtype=torch.float64)).requires_grad_()


def cohort(widths=WIDTHS):
    """Student and mentors: leaf logits and pooled features in float64."""
    networks = [
        Outputs(leaf(B, C, seed=k), {"pooled": leaf(B, width, seed=50 + k)})
        for k, width in enumerate(widths)
    ]
    return networks[0], networks[1:]


def ready(name, student, mentors, **options):
    torch.manual_seed(0)
    method = create_method(name, **options)
    method.setup(student, mentors)
    return method.double()


def kl(target, logits, tau):
    """tau² KL(target || softmax(logits / tau)) of probabilities ``[B, C]``: ``[]``."""
    return tau**2 * F.kl_div(F.log_softmax(logits / tau, 1), target, reduction="batchmean")


def soft(logits, tau):
    return F.softmax(logits / tau, 1)


def gradients(loss, *networks, method=None):
    """The gradient in every logit, pooled feature and parameter; 0 where there is none."""
    leaves = [t for n in networks for t in (n.logits, n.features["pooled"])]
    leaves += list(method.parameters()) if method else []
    found = torch.autograd.grad(loss, leaves, allow_unused=True, retain_graph=True)
    return [torch.zeros_like(t) if g is None else g for t, g in zip(leaves, found, strict=True)]


def assert_same_gradients(one, other, *networks, method=None):
    for a, b in zip(
        gradients(one, *networks, method=method),
        gradients(other, *networks, method=method),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


# ---------------------------------------------------------------------------------------------- DML


def tiny(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, C)).double()


def by_a_loop(networks, trained, batches, tau, lr):
    """Deep mutual learning from its paper's equations, all networks updated at once."""
    for images, target in batches:
        said = [network(images) for network in networks]
        loss = 0.0
        for k in trained:
            loss = loss + F.cross_entropy(said[k], target)
            others = [z.detach() for place, z in enumerate(said) if place != k]
            for z in others:
                loss = loss + kl(soft(z, tau), said[k], tau) / len(others)
        weights = [p for k in trained for p in networks[k].parameters()]
        for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            weight.data -= lr * gradient


@pytest.mark.parametrize(("trained", "tau"), [((0, 1, 2), 1.0), ((0, 2), 3.0), ((0,), 1.0)])
def test_dml_is_an_independent_loop(trained, tau):
    batches = [(leaf(B, 3, 2, 2, seed=s).detach(), TARGET.roll(s)) for s in range(3)]
    expected = [tiny(seed) for seed in range(3)]
    student, *others = copy.deepcopy(expected)
    by_a_loop(expected, trained, batches, tau, lr=0.1)

    mentors = [
        (LearningMentor if place in trained else Mentor)(network, f"mentor {place}")
        for place, network in enumerate(others, start=1)
    ]
    networks = [student, *others]
    method = create_method("dml", temperature=tau)
    optimizer = torch.optim.SGD([p for k in trained for p in networks[k].parameters()], lr=0.1)
    for images, target in batches:
        optimizer.zero_grad()
        batch = Batch(images, target, torch.arange(B))
        step(student, mentors, method, batch).loss.backward()
        optimizer.step()
    assert not torch.equal(student[1].weight, tiny(0)[1].weight)
    for ours, theirs in zip(networks, expected, strict=True):
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


# --------------------------------------------------------------------------------------------- KDCL


def ensemble_by_loops(networks, kind):
    logits = torch.zeros(B, C, dtype=torch.float64)
    for i, label in enumerate(TARGET.tolist()):
        rows = [network.logits[i].detach() for network in networks]
        if kind == "minlogit":
            for c in range(C):
                logits[i, c] = min((row[c] - row[label]).item() for row in rows)
        else:
            logits[i] = max(rows, key=lambda row, k=label: F.softmax(row, 0)[k].item())
    return logits


@pytest.mark.parametrize("ensemble", ["minlogit", "naive"])
@pytest.mark.parametrize("options", [{}, {"temperature": 1.5, "weight": 0.4}])
def test_kdcl(ensemble, options):
    student, mentors = cohort()
    method = create_method("kdcl", ensemble=ensemble, **options)
    tau, weight = options.get("temperature", 3.0), options.get("weight", 1.0)
    target = soft(ensemble_by_loops((student, *mentors), ensemble), tau)

    def loss(network):
        return F.cross_entropy(network.logits, TARGET) + weight * kl(target, network.logits, tau)

    lesson = method(student, mentors, TARGET)
    torch.testing.assert_close(lesson.loss, loss(student))
    assert_same_gradients(lesson.loss, loss(student), student, *mentors)
    peers = method.peer_loss(student, mentors, [0, 2], TARGET)
    torch.testing.assert_close(peers, loss(mentors[0]) + loss(mentors[2]))
    assert_same_gradients(peers, loss(mentors[0]) + loss(mentors[2]), student, *mentors)


def test_the_least_logits_are_sure_of_nothing_that_a_network_doubts():
    student, mentors = cohort()
    method = create_method("kdcl")
    logits = torch.stack([n.logits.detach() for n in (student, *mentors)])
    ensemble = method.ensemble(logits, TARGET)
    place = torch.arange(B)
    best = logits.softmax(-1)[:, place, TARGET].amax(0)
    assert (ensemble.softmax(-1)[place, TARGET] >= best).all()
    assert (ensemble[place, TARGET] == 0).all()


# ------------------------------------------------------------------------------------------- OKDDip


def peers_targets(method, mentors, tau):
    """``t_a`` in probabilities, predictions detached: a list of ``[B, C]``."""
    asked = [method.query[f"{m.features['pooled'].shape[1]}"].weight for m in mentors]
    known = [method.key[f"{m.features['pooled'].shape[1]}"].weight for m in mentors]
    targets = []
    for a, mentor in enumerate(mentors):
        question = mentor.features["pooled"] @ asked[a].T
        energy = torch.stack(
            [(question * (m.features["pooled"] @ known[b].T)).sum(1) for b, m in enumerate(mentors)]
        )
        alpha = energy.softmax(0)
        targets.append(
            sum(alpha[b].unsqueeze(1) * soft(m.logits.detach(), tau) for b, m in enumerate(mentors))
        )
    return targets


@pytest.mark.parametrize("options", [{}, {"temperature": 2.0, "weight": 0.3}])
def test_okddip(options):
    student, mentors = cohort()
    method = ready("okddip", student, mentors, **options)
    tau, weight = options.get("temperature", 3.0), options.get("weight", 1.0)
    mean = torch.stack([soft(m.logits.detach(), tau) for m in mentors]).mean(0)
    leader = F.cross_entropy(student.logits, TARGET) + weight * kl(mean, student.logits, tau)
    lesson = method(student, mentors, TARGET)
    torch.testing.assert_close(lesson.loss, leader)
    assert_same_gradients(lesson.loss, leader, student, *mentors, method=method)

    peers = sum(
        F.cross_entropy(m.logits, TARGET) + weight * kl(t, m.logits, tau)
        for m, t in zip(mentors, peers_targets(method, mentors, tau), strict=True)
    )
    ours = method.peer_loss(student, mentors, [0, 1, 2], TARGET)
    torch.testing.assert_close(ours, peers)
    assert_same_gradients(ours, peers, student, *mentors, method=method)


def test_okddips_maps_are_trained_by_the_peers_alone():
    student, mentors = cohort()
    method = ready("okddip", student, mentors)
    maps = dict(method.named_parameters())
    assert {name: p.shape for name, p in maps.items()} == {
        f"{side}.{width}.weight": (2, width) for side in ("query", "key") for width in (16, 24)
    }
    method(student, mentors, TARGET).loss.backward()
    assert student.logits.grad.any()
    assert all(m.logits.grad is None and m.features["pooled"].grad is None for m in mentors)
    assert all(p.grad is None for p in maps.values())
    method.peer_loss(student, mentors, [0, 1, 2], TARGET).backward()
    assert all(p.grad.any() for p in maps.values())


def test_a_frozen_mentor_is_in_the_targets_and_takes_no_gradient():
    student, mentors = cohort()
    method = ready("okddip", student, mentors)
    tau = method.temperature
    loss = method.peer_loss(student, mentors, [0, 2], TARGET)
    targets = peers_targets(method, mentors, tau)
    expected = sum(
        F.cross_entropy(mentors[a].logits, TARGET) + kl(targets[a], mentors[a].logits, tau)
        for a in (0, 2)
    )
    torch.testing.assert_close(loss, expected)
    assert not any(g.any() for g in gradients(loss, student, mentors[1]))
    assert_same_gradients(loss, expected, mentors[0], mentors[2], method=method)


def test_equal_attention_averages_the_mentors():
    student, mentors = cohort()
    method = ready("okddip", student, mentors)
    for parameter in method.parameters():
        nn.init.zeros_(parameter)
    mean = torch.stack([soft(m.logits, 3.0) for m in mentors]).mean(0)
    targets = method.log_targets(mentors, [0, 1, 2]).exp()
    torch.testing.assert_close(targets, mean.expand(3, -1, -1))


def test_attention_is_finite_where_nobody_believes_in_a_class():
    student, mentors = cohort()
    method = ready("okddip", student, mentors)
    far = [Outputs((1e5 * m.logits.detach()).requires_grad_(), m.features) for m in mentors]
    loss = method.peer_loss(student, far, [0, 1, 2], TARGET)
    assert loss.isfinite()
    assert all(g.isfinite().all() for g in gradients(loss, *far, method=method))


# ---------------------------------------------------------------------------------------------- ONE


def joint_loss(method, student, mentors, trained, tau, weight):
    """The one loss of all networks and of the gate; frozen mentors and gate inputs detached."""
    features = torch.cat([n.features["pooled"].detach() for n in (student, *mentors)], 1)
    linear, norm = method.gate[0], method.gate[1]
    x = features @ linear.weight.T
    x = (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt()
    gate = (norm.weight * x + norm.bias).relu().softmax(1)
    mentor_mask = [m.logits if k in trained else m.logits.detach() for k, m in enumerate(mentors)]
    ensemble = sum(gate[:, k : k + 1] * z for k, z in enumerate([student.logits, *mentor_mask]))
    target = soft(ensemble.detach(), tau)
    return F.cross_entropy(ensemble, TARGET) + sum(
        F.cross_entropy(n.logits, TARGET) + weight * kl(target, n.logits, tau)
        for n in (student, *(mentors[k] for k in trained))
    )


@pytest.mark.parametrize("options", [{}, {"temperature": 2.0, "weight": 0.3}])
@pytest.mark.parametrize("trained", [[0, 1, 2], [0, 2], []])
def test_one_gives_every_gradient_of_the_joint_loss_once(trained, options):
    student, mentors = cohort()
    method = ready("one", student, mentors, **options)
    expected = joint_loss(
        method, student, mentors, trained,
        options.get("temperature", 3.0), options.get("weight", 1.0),
    )  # fmt: skip
    lesson = method(student, mentors, TARGET)
    loss = lesson.loss
    if trained:
        loss = loss + method.peer_loss(student, mentors, trained, TARGET)
    assert_same_gradients(loss, expected, student, *mentors, method=method)
    assert all(p.grad_fn is None and g.any() for p, g in zip(
        method.parameters(), gradients(loss, method=method), strict=True
    ))  # fmt: skip
    alone = joint_loss(
        method, student, mentors, [],
        options.get("temperature", 3.0), options.get("weight", 1.0),
    )  # fmt: skip
    torch.testing.assert_close(lesson.loss, alone)


def test_the_gate_wants_a_batch_and_its_own_networks():
    student, mentors = cohort()
    method = ready("one", student, mentors)
    with pytest.raises(RuntimeError, match="no gate for these networks: call method.setup"):
        method(student, mentors[:2], TARGET)

    def first(outputs):
        return Outputs(outputs.logits[:1], {"pooled": outputs.features["pooled"][:1]})

    with pytest.raises(ValueError, match="one normalises over the batch: give it 2 samples"):
        method(first(student), [first(m) for m in mentors], TARGET[:1])


# --------------------------------------------------------------------------------------------- all


@pytest.mark.parametrize("name", ["okddip", "one"])
def test_parts_that_setup_builds_are_missed(name):
    student, mentors = cohort()
    with pytest.raises(RuntimeError, match=r"call method.setup\(student, mentors\)"):
        create_method(name).peer_loss(student, mentors, [0], TARGET)


@pytest.mark.parametrize("name", ENSEMBLES)
def test_what_an_ensemble_teaches_is_shared_out_evenly(name):
    student, mentors = cohort()
    lesson = ready(name, student, mentors, weight=0.6)(student, mentors, TARGET)
    assert lesson.mentor_loss.sum() > 0.01
    torch.testing.assert_close(lesson.mentor_loss, lesson.mentor_loss[:1].expand(3, -1))
    torch.testing.assert_close(lesson.weight, torch.full_like(lesson.weight, 0.2))
    assert (lesson.temperature == 3).all()


@pytest.mark.parametrize("name", ENSEMBLES)
def test_without_mentors_the_task_is_all(name):
    student, _ = cohort()
    lesson = ready(name, student, [])(student, [], TARGET)
    times = 2 if name == "one" else 1  # the ensemble of one has a cross-entropy, too
    torch.testing.assert_close(lesson.loss, times * F.cross_entropy(student.logits, TARGET))
    assert lesson.mentor_loss.shape == (0, B)


@pytest.mark.parametrize("name", ["okddip", "one"])
def test_ramp(name):
    student, mentors = cohort()
    method = ready(name, student, mentors)
    full = method(student, mentors, TARGET)
    peers_full = method.peer_loss(student, mentors, [0, 1], TARGET)
    bare = ready(name, student, mentors, weight=0.0)
    peers_bare = bare.peer_loss(student, mentors, [0, 1], TARGET)
    for epoch, share in ((0, math.exp(-5)), (4, math.exp(-5 / 4)), (8, 1.0), (29, 1.0)):
        method.begin_epoch(epoch, 30)  # the ramp ends at 30 * 80 / 300
        lesson = method(student, mentors, TARGET)
        torch.testing.assert_close(lesson.mentor_loss, share * full.mentor_loss)
        torch.testing.assert_close(lesson.task_loss, full.task_loss)
        torch.testing.assert_close(
            method.peer_loss(student, mentors, [0, 1], TARGET),
            peers_bare + share * (peers_full - peers_bare),
        )
    method = ready(name, student, mentors, ramp_share=0.0)
    method.begin_epoch(0, 30)
    torch.testing.assert_close(method(student, mentors, TARGET).loss, full.loss)


def test_ramp_up_has_no_length_to_divide_by():
    assert ramp_up(0, 0) == 1
