"""MMKD: its loss against plain PyTorch in float64, its outer gradient against real SGD steps."""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from classroomkd.engine.run import train
from classroomkd.methods import Outputs, create_method
from classroomkd.methods.contrib.mmkd import HardSamples, masked_softmax
from classroomkd.tasks.classification.recipe import Recipe
from tests.methods.scenes import random

B, C = 5, 4
MAPS = [(6, 4, 4), (7, 2, 2), (5, 8, 8)]
TARGET = torch.tensor([0, 3, 1, 2, 3])


class Tiny(nn.Module):
    """A network with a map that it pools."""

    def __init__(self, width=6, seed=0, stride=2):
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(3, width, 3, stride=stride, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.classifier = nn.Linear(width, C)
        self.double()

    def forward_stages(self, images):
        head = torch.tanh(self.norm(self.conv(images)))
        pooled = head.mean((2, 3))
        return {"head": head, "pooled": pooled, "logits": self.classifier(pooled)}


def says(network, images):
    features = network.forward_stages(images)
    return Outputs(features.pop("logits"), features)


MENTORS = [Tiny(7, seed=1).eval(), Tiny(5, seed=2, stride=1).eval()]


def ask(images):
    with torch.no_grad():
        return [says(mentor, images) for mentor in MENTORS]


def set_up(student, mentors, **options):
    torch.manual_seed(0)
    method = create_method("mmkd", **{"batch_size": 8} | options)
    method.setup(student, mentors)
    return method.double()


def spoken(count=3):
    student = Outputs(random(B, C).requires_grad_(), {"head": random(B, 4, 4, 4).requires_grad_()})
    mentors = [
        Outputs(2 * random(B, C, seed=k), {"head": random(B, *shape, seed=k)})
        for k, shape in enumerate(MAPS[:count], 1)
    ]
    return student, mentors


def two_layers(network, inputs):
    (w1, b1), (w2, b2) = ((network[k].weight.detach(), network[k].bias.detach()) for k in (0, 2))
    return (inputs @ w1.T + b1).clamp_min(0) @ w2.T + b2


def regressed(regressor, x):
    for conv, norm, _ in zip(*[iter(regressor)] * 3, strict=True):
        x = F.conv2d(x, conv.weight, padding=conv.weight.shape[2] // 2)
        mean = x.mean((0, 2, 3), keepdim=True)
        x = (x - mean) / ((x - mean).square().mean((0, 2, 3), keepdim=True) + 1e-5).sqrt()
        x = (x * norm.weight.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1)).clamp_min(0)
    return x


def oracle(method, student, mentors, target, silent=(), blind=(), shown=None, **options):
    """Matching loss and cross-entropy, means over samples.

    ``silent`` and ``blind`` are pairs (m, i); ``shown`` is what the networks see of the student.
    """
    o = {"temperature": 4.0, "weight": 1.0, "feature_weight": 100.0} | options
    tau, size = o["temperature"], method.batch_size
    nets, count, shown = method.matching.weighing, len(target), shown or student
    grams = [
        torch.einsum("idhw,jdhw->ij", f.detach(), f.detach())
        for f in [*(m.features["head"] for m in mentors), shown.features["head"]]
    ]
    maps = []
    for regressor, mentor in zip(method.matching.regressors, mentors, strict=True):
        here, there = student.features["head"], mentor.features["head"].detach()
        extent = [min(a, b) for a, b in zip(here.shape[2:], there.shape[2:], strict=True)]
        here, there = (F.adaptive_avg_pool2d(f, extent) for f in (here, there))
        maps.append((regressed(regressor, here), there))
    total, zeros = 0, torch.zeros(size - count, dtype=torch.float64)
    for i in range(count):
        asked = torch.cat([*(m.logits[i] for m in mentors), shown.logits[i]]).detach()
        by_logits = two_layers(nets["logits"], asked)
        rows = torch.cat([torch.cat([gram[i], zeros]) for gram in grams])
        by_maps = two_layers(nets["features"], rows)
        mentor_mask = [m for m in range(len(mentors)) if (m, i) not in silent]
        seen = [m for m in mentor_mask if (m, i) not in blind]
        for m, mentor in enumerate(mentors):
            if m in mentor_mask:
                w = torch.softmax(by_logits[mentor_mask], 0)[mentor_mask.index(m)]
                p = F.softmax(mentor.logits[i].detach() / tau, 0)
                kl = (p * (p.log() - F.log_softmax(student.logits[i] / tau, 0))).sum()
                total = total + o["weight"] * w * tau**2 * kl
            if m in seen:
                v = torch.softmax(by_maps[seen], 0)[seen.index(m)]
                total = total + o["feature_weight"] * v * F.mse_loss(maps[m][0][i], maps[m][1][i])
    return total / count, F.cross_entropy(student.logits, target)


@pytest.mark.parametrize(
    "options",
    [{}, {"temperature": 2.0, "weight": 0.5, "feature_weight": 3.0, "task_weight": 0.2}],
)
def test_values_and_gradients(options):
    student, mentors = spoken()
    method = set_up(student, mentors, **options)
    lesson = method(student, mentors, TARGET)
    numbers = dict(options)
    task_weight = numbers.pop("task_weight", 1.0)
    matching, task = oracle(method, student, mentors, TARGET, **numbers)
    expected = matching + task_weight * task
    torch.testing.assert_close(lesson.loss, expected)
    alpha = options.get("weight", 1.0)
    torch.testing.assert_close(lesson.weight.sum(0), torch.full((B,), alpha).double())
    assert lesson.weight.std(0).max() > 0.01
    parts = [student.logits, student.features["head"], *method.matching.regressors.parameters()]
    ours, theirs = (torch.autograd.grad(v, parts) for v in (lesson.loss, expected))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_mentor_that_says_nothing_finite_about_a_sample(bad):
    student, mentors = spoken()
    method = set_up(student, mentors)
    said, shown = mentors[0].logits.clone(), mentors[2].features["head"].clone()
    zeros = Outputs(said.clone(), mentors[0].features), Outputs(mentors[2].logits, {"head": shown})
    zeros[0].logits[1], zeros[1].features["head"][2] = 0, 0  # what the two networks see of it
    matching, task = oracle(
        method, student, [zeros[0], mentors[1], zeros[1]], TARGET, {(0, 1)}, {(2, 2)}
    )
    shown = shown.clone()
    said[1, 0], shown[2, 0, 0, 0] = bad, bad
    mentors[0] = Outputs(said, mentors[0].features)
    mentors[2] = Outputs(mentors[2].logits, {"head": shown})
    lesson = method(student, mentors, TARGET)
    torch.testing.assert_close(lesson.loss, matching + task)
    assert (lesson.weight[0, 1], lesson.active[0, 1].item()) == (0, False)
    parts = [student.logits, student.features["head"], *method.matching.regressors.parameters()]
    gradients = torch.autograd.grad(lesson.loss, parts)
    torch.testing.assert_close(gradients, torch.autograd.grad(matching + task, parts))


def test_a_softmax_over_who_is_heard():
    score = torch.tensor([[1.0, 2.0, -1e30], [1.0, 5.0, 7.0], [1.0, 2.0, 8.0]])
    mentor_mask = torch.tensor([[True, True, False], [True, False, False], [True, True, False]])
    third = 1 / 3
    expected = torch.tensor([[third, 0.5, 0], [third, 0, 0], [third, 0.5, 0]])
    torch.testing.assert_close(masked_softmax(score, mentor_mask), expected)


def after_three_steps(method, student, images, target, shown):
    """The loss of a copy of the student that has really taken the steps, and what it said."""
    student, method = deepcopy((student, method))
    parts = [*student.parameters(), *method.matching.regressors.parameters()]
    sgd = torch.optim.SGD(parts, lr=method.inner_rate)
    said = []
    for matched, seen in zip((True, True, False), shown or [None] * 3, strict=True):
        said.append(says(student, images))
        matching, task = oracle(
            method, said[-1], ask(images), target, shown=seen, feature_weight=3.0
        )
        sgd.zero_grad()
        (matching if matched else task).backward()
        sgd.step()
    return F.cross_entropy(says(student, images).logits, target).item(), said


def test_the_outer_gradient_is_that_of_real_steps():
    """What the networks see of the student is as it is without the change of their parameter."""
    student, images = Tiny(), random(B, 3, 6, 6)
    method = set_up(says(student, images), ask(images), inner_rate=0.3, feature_weight=3.0)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    gradient = method.hypergradient(student, ask(images), images, TARGET)
    networks = dict(method.matching.weighing.named_parameters())
    assert gradient.keys() == networks.keys()
    _, shown = after_three_steps(method, student, images, TARGET, None)
    for name, value in networks.items():
        place = gradient[name].abs().argmax()
        assert gradient[name].flatten()[place] != 0, name
        losses = []
        for step in (1e-5, -1e-5):
            value.data.view(-1)[place] += step
            losses.append(after_three_steps(method, student, images, TARGET, shown)[0])
            value.data.view(-1)[place] -= step
        expected = (losses[0] - losses[1]) / 2e-5
        assert gradient[name].flatten()[place].item() == pytest.approx(expected, rel=1e-5)
    assert all(torch.equal(before[name], value) for name, value in student.state_dict().items())
    assert all(p.grad is None for p in student.parameters())


def test_an_outer_step_is_adams_on_hard_samples():
    student, images = Tiny(), random(B, 3, 6, 6)
    method = set_up(says(student, images), ask(images), meta_every=3, buffer_size=B)
    networks = method.matching.weighing
    start = deepcopy(networks)
    logits = says(student, images).logits
    order = torch.randperm(B, generator=torch.Generator().manual_seed(5))
    gradient = method.hypergradient(student, ask(images[order]), images[order], TARGET[order])
    torch.manual_seed(5)
    method.outer_step(student, ask, images, TARGET, logits)
    copies = [p.requires_grad_() for p in start.parameters()]
    adam = torch.optim.Adam(copies, lr=1e-3, weight_decay=1e-4)
    for (name, _), copy in zip(networks.named_parameters(), copies, strict=True):
        copy.grad = gradient[name]
    adam.step()
    for ours, theirs in zip(networks.parameters(), copies, strict=True):
        torch.testing.assert_close(ours, theirs.detach())
        assert ours.grad is None
        assert not ours.requires_grad
    scores = [p.clone() for p in networks.parameters()]
    for _ in range(2):  # not due
        method.outer_step(student, ask, images, TARGET, logits)
    assert all(torch.equal(*pair) for pair in zip(scores, networks.parameters(), strict=True))
    method.outer_step(student, ask, images, TARGET, logits)
    assert not torch.equal(scores[0], next(iter(networks.parameters())))


def test_the_buffer_fills_and_then_keeps_what_is_wrong():
    hard = HardSamples(6)
    images = torch.arange(20.0).view(20, 1, 1, 1).expand(20, 3, 2, 2)
    target = torch.arange(20) % C
    right = F.one_hot(target, C).double()
    for start in (0, 4):  # four, then two of the next four
        hard.put(*(part[start : start + 4] for part in (images, target, right)))
    assert hard.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]
    hard.put(images[8:12], target[8:12], right[8:12])
    assert hard.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5], "all were right"
    wrong = right[12:16].clone()
    wrong[1] = wrong[1].roll(1)
    hard.put(images[12:16], target[12:16], wrong)
    kept = hard.images[:, 0, 0, 0].tolist()
    assert len({*kept} & {0, 1, 2, 3, 4, 5}) == 5
    assert 13 in kept
    assert [int(i) % C for i in kept] == hard.target.tolist()
    drawn, label = hard.draw(4)
    assert drawn[:, 0, 0, 0].unique().numel() == 4
    assert (drawn[:, 0, 0, 0] % C == label).all()
    assert len(hard.draw(99)[0]) == 6


def test_what_is_missing_is_named():
    student, mentors = spoken()
    with pytest.raises(RuntimeError, match="mmkd has networks for 0 mentors instead of 3: call me"):
        create_method("mmkd")(student, mentors, TARGET)
    with pytest.raises(
        ValueError, match=r"batches of up to 4 samples.* has 5: set method\.batch_s"
    ):
        set_up(student, mentors, batch_size=4)(student, mentors, TARGET)


def test_a_resumed_method_goes_on_as_it_would_have():
    student, images = Tiny(), random(B, 3, 6, 6)
    outputs, said = says(student, images), ask(images)
    first = set_up(outputs, said, meta_every=1)
    first.outer_step(student, ask, images, TARGET, outputs.logits)
    second = set_up(outputs, said, meta_every=1)
    second.load_state_dict(first.state_dict())
    for method in (first, second):
        torch.manual_seed(1)
        method.outer_step(student, ask, images.flip(0), TARGET.flip(0), outputs.logits)
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(first.hard.images, second.hard.images)
    assert first.steps == second.steps == 2


def test_a_run_learns_the_weights_and_keeps_what_resuming_needs(digits_recipe, tmp_path):
    method = {"name": "mmkd", "batch_size": 128, "meta_every": 6, "buffer_size": 64}
    recipe: Recipe = digits_recipe(method=method, train={"epochs": 1})
    train(recipe, tmp_path / "run", progress=False, say=lambda _: None)
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    extra = torch.load(last, weights_only=True)["state_dict"]["method._extra_state"]
    assert extra["steps"] > 6
    assert len(extra["hard"]["target"]) == 64
    moments = [moment["exp_avg"] for moment in extra["adam"]["state"].values()]
    assert len(moments) == 8
    assert all(m.isfinite().all() for m in moments)
    assert any(m.any() for m in moments)
