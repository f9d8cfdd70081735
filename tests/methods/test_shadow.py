"""SHAKE against plain PyTorch in float64, written from its formula."""

import pytest
import torch
import torch.nn.functional as F

from classroomkd.methods import Outputs, create_method
from classroomkd.methods.shadow import fused_maps
from tests.methods.scenes import TARGET, B, C, random

STAGES = [(4, 8, 8), (5, 4, 4), (6, 2, 2)]
ODD = [(4, 6, 6), (5, 5, 5), (7, 5, 5), (6, 2, 2)]  # the classifier's width comes last


def teacher(shapes, seed=3, width=6):
    maps = {f"stage{k}": random(B, *shape, seed=seed + k) for k, shape in enumerate(shapes, 1)}
    torch.manual_seed(seed)
    classifier = torch.nn.Linear(width, C).double()
    return Outputs(random(B, C, seed=seed), {"stem": random(B, 2, 8, 8), **maps}, classifier)


def set_up(mentor, **options):
    torch.manual_seed(0)
    method = create_method("shake", **options)
    student = random(B, C, seed=1).requires_grad_()
    method.setup(Outputs(student), [mentor])
    return method.double(), student


def layer(parts, feature, stride, padding):
    out = F.conv2d(feature, parts[0].weight, None, stride, padding)
    mean = out.mean((0, 2, 3), keepdim=True)
    variance = (out - mean).square().mean((0, 2, 3), keepdim=True)
    scale, shift = (v.view(1, -1, 1, 1) for v in (parts[1].weight, parts[1].bias))
    return ((out - mean) / (variance + 1e-5).sqrt() * scale + shift).clamp_min(0)


def proxy_logits(method, maps, strides):
    p, classifier = method.proxy, method.classifier
    first, second, third = (m.detach() for m in maps)
    pool = F.adaptive_avg_pool2d
    here, there = layer(p.shallow, first, strides[0], 1), layer(p.second, second, 1, 0)
    fused = pool(here, there.shape[2:]) + there
    here, there = layer(p.middle, fused, strides[1], 1), layer(p.third, third, 1, 0)
    fused = layer(p.deep, pool(here, there.shape[2:]) + there, 1, 1)
    return fused.mean((2, 3)) @ classifier.weight.detach().T + classifier.bias.detach()


def normal(z, scale):
    mean = z.mean(1, keepdim=True)
    return scale * (z - mean) / ((z - mean).square().mean(1, keepdim=True) + 1e-7).sqrt()


def kl(guide, learner, tau):
    log_guide, log_learner = (F.log_softmax(z / tau, 1) for z in (guide, learner))
    return tau**2 * (log_guide.exp() * (log_guide - log_learner)).sum(1).mean()


@pytest.mark.parametrize(
    ("shapes", "fused", "strides"),
    [(STAGES, (1, 2, 3), (2, 2)), (ODD, (2, 3, 4), (1, 2))],
)
@pytest.mark.parametrize(
    "options",
    [{}, {"temperature": 2.0, "alpha": 0.3, "beta": 0.7, "task_weight": 0.5, "scale": 2.0}],
)
def test_values_and_gradients(options, shapes, fused, strides):
    o = {"temperature": 4.0, "alpha": 0.0, "beta": 1.0, "task_weight": 1.0, "scale": 3.1415}
    o |= options
    mentor = teacher(shapes)
    method, student = set_up(mentor, **options)
    lesson = method(Outputs(student), [mentor], TARGET)
    maps = [mentor.features[f"stage{k}"] for k in fused]
    q, p, t = (
        normal(z, o["scale"]) for z in (student, proxy_logits(method, maps, strides), mentor.logits)
    )
    tau = o["temperature"]
    learnt = kl(p.detach(), q, tau) + kl(q.detach(), p, tau) + F.cross_entropy(p, TARGET)
    learnt = learnt + (p - t).square().mean()
    task = o["task_weight"] * F.cross_entropy(q, TARGET)
    expected = task + o["alpha"] * kl(t, q, tau) + o["beta"] * learnt
    torch.testing.assert_close(lesson.loss, expected)
    torch.testing.assert_close(lesson.task_loss.mean(), task.detach())
    parts = [student, *method.proxy.parameters()]
    ours, theirs = (
        torch.autograd.grad(v, parts, retain_graph=True) for v in (lesson.loss, expected)
    )
    torch.testing.assert_close(ours, theirs)
    right = q.detach().softmax(1)[torch.arange(B), TARGET]
    torch.testing.assert_close(lesson.student_score, right)


def test_the_student_learns_from_the_proxy_and_the_proxy_from_all():
    mentor = teacher(STAGES)
    method, student = set_up(mentor, beta=0.0)
    loss = method(Outputs(student), [mentor], TARGET).loss
    gradients = torch.autograd.grad(loss, [student, *method.proxy.parameters()])
    assert gradients[0].any()
    assert not any(g.any() for g in gradients[1:]), "no beta, no proxy"
    assert not any(p.requires_grad for p in method.classifier.parameters())


def test_what_is_missing_is_named():
    mentor = teacher(STAGES)
    with pytest.raises(RuntimeError, match="shake has no proxy yet: call method.setup"):
        create_method("shake")(random(B, C), [mentor], TARGET)
    with pytest.raises(ValueError, match=r"shake uses the classifier of a mentor"):
        set_up(Outputs(mentor.logits, mentor.features))
    with pytest.raises(ValueError, match=r"fuses three stages of its mentor, which shows 2 \(its"):
        fused_maps({"stage1": random(1, 2, 3, 3), "stage2": random(1, 2, 3, 3)}, 2)
