"""OFA-KD: its loss and its branches against formulas written down anew, in float64."""

import pytest
import torch
import torch.nn.functional as F

from classroomkd.methods import Outputs, create_method
from classroomkd.methods.ofa import Branch
from classroomkd.models import build_model
from tests.methods.scenes import LARGE, TARGET, lesson_of, random, says, whole

SMALL = (5, 8, 8), (6, 8, 8), (7, 4, 4), (8, 4, 4)


def loss(logits, teacher, gamma, tau=1.0):
    """Sample by sample, class by class."""
    total = torch.zeros((), dtype=torch.float64)
    for z, t, y in zip(logits, teacher, TARGET.tolist(), strict=True):
        wanted = (t / tau).exp() / (t / tau).exp().sum()
        said = (z / tau).exp() / (z / tau).exp().sum()
        for c in range(len(z)):
            true = 1.0 if c == y else 0.0
            total = total - ((wanted[c] + true) ** gamma - true) * said[c].log()
    return total / len(logits)


def branch(state, x, halvings):
    """A branch from its weights: convolutions as PyTorch has them, statistics by hand."""
    place = 0
    if not halvings:
        x = F.conv2d(x, state["0.weight"], state["0.bias"])
        place = 1
    for _ in range(halvings):
        for first, stride in ((0, 2), (4, 1)):
            layer = f"{place}.{first}.weight"
            x = F.conv2d(x, state[layer], stride=stride, padding=1, groups=x.shape[1])
            x = F.conv2d(x, state[f"{place}.{first + 1}.weight"])
            x = x - x.mean((0, 2, 3), keepdim=True)
            x = x / (x.square().mean((0, 2, 3), keepdim=True) + 1e-5).sqrt()
            weight, bias = (state[f"{place}.{first + 2}.{k}"] for k in ("weight", "bias"))
            x = (weight.view(-1, 1, 1) * x + bias.view(-1, 1, 1)).clamp_min(0)
        place += 1
    return x.mean((2, 3)) @ state[f"{place + 2}.weight"].T + state[f"{place + 2}.bias"]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weight": 2.0, "kd_weight": 0.5, "temperature": 2.0, "gamma": [1.0, 1.2, 1.4, 1.6]},
    ],
)
def test_ofa_by_hand(options):
    student, mentor = whole(says(*SMALL)), whole(says(*LARGE, seed=9))
    student = Outputs(
        student.logits.requires_grad_(),
        {name: f.detach().requires_grad_() for name, f in student.features.items()},
    )
    method, lesson = lesson_of("ofa", student, mentor, **options)
    *gammas, last = options.get("gamma", [1.5] * 4)
    tau = options.get("temperature", 1.0)
    maps = [student.features[n] for n in ("stage1", "stage2", "head")]
    parts = [
        loss(branch(dict(part.named_parameters()), f, 2 - i), mentor.logits, gamma, tau)
        for i, (part, f, gamma) in enumerate(zip(method.branches, maps, gammas, strict=True))
    ]
    expected = options.get("kd_weight", 1.0) * loss(student.logits, mentor.logits, last, tau)
    expected = expected + options.get("weight", 1.0) * sum(parts)
    expected = expected + F.cross_entropy(student.logits, TARGET)
    torch.testing.assert_close(lesson.loss, expected)
    wanted = [student.logits, *maps, *method.parameters()]
    for own, other in zip(
        torch.autograd.grad(lesson.loss, wanted, retain_graph=True),
        torch.autograd.grad(expected, wanted),
        strict=True,
    ):
        torch.testing.assert_close(own, other, rtol=1e-6, atol=1e-9)


def test_gamma_one_is_the_cross_entropy_of_the_teacher():
    student, mentor = whole(says(*SMALL)), whole(says(*LARGE, seed=9))
    _, lesson = lesson_of("ofa", student, mentor, weight=0.0, gamma=1.0)
    expected = F.cross_entropy(student.logits, mentor.logits.softmax(1))
    torch.testing.assert_close(lesson.mentor_loss.mean(), expected)


def test_the_branches():
    """The widths double and end in the larger pooled width, as in the public code."""
    student, mentor = says((16, 8, 8), (64, 8, 8), (128, 4, 4), (256, 2, 2), (512, 1, 1)), says()
    for pooled, width in ((192, 512), (768, 768)):
        features = {"pooled": random(3, pooled)}
        method = create_method("ofa")
        method.setup(whole(student), [Outputs(mentor.logits, features)])
        sizes = [
            [tuple(m.weight.shape[:2]) for m in b.modules() if isinstance(m, torch.nn.Conv2d)]
            for b in method.branches
        ]
        assert sizes == [
            [
                (64, 1), (64, 64), (64, 1), (128, 64),
                (128, 1), (128, 128), (128, 1), (256, 128),
                (256, 1), (256, 256), (256, 1), (width, 256),
            ],
            [
                (128, 1), (128, 128), (128, 1), (256, 128),
                (256, 1), (256, 256), (256, 1), (width, 256),
            ],
            [(256, 1), (256, 256), (256, 1), (width, 256)],
            [(width, 512)],
        ]  # fmt: skip
    out = Branch(4, 2, 32, 10)
    assert [out[i](torch.rand(2, c, 9, 9)).shape[2] for i, c in ((0, 4), (1, 8))] == [5, 5]


def test_defaults_are_those_of_the_public_code():
    method = create_method("ofa")
    assert (method.weight, method.kd_weight, method.task_weight) == (1, 1, 1)
    assert (method.gamma, method.temperature) == (1.5, 1)


def test_stages_by_hand():
    student, mentor = whole(says(*SMALL)), whole(says(*LARGE, seed=9))
    method, _ = lesson_of("ofa", student, mentor, stages=["stage2", "head"], gamma=[1.0, 1.0, 1.3])
    assert [len(b) for b in method.branches] == [4, 4]
    assert isinstance(method.branches[1][0], torch.nn.Conv2d)
    with pytest.raises(ValueError, match="unknown stage of the student 'stag2'"):
        create_method("ofa", stages=["stag2"]).setup(student, [mentor])


@pytest.mark.parametrize("gamma", [0.5, [], [1.5, 0.9]])
def test_gammas_are_checked(gamma):
    with pytest.raises(ValueError, match="gamma"):
        create_method("ofa", gamma=gamma)


def test_as_many_gammas_as_stages():
    method = create_method("ofa", gamma=[1.0, 1.5])
    with pytest.raises(ValueError, match="gamma: one number, or one for each of stage1, stage2, h"):
        method.setup(whole(says(*SMALL)), [whole(says(*LARGE))])


def test_a_student_without_stages():
    with pytest.raises(ValueError, match="the student shows no stages"):
        create_method("ofa").setup(Outputs(random(3, 4)), [whole(says(*LARGE))])


@pytest.mark.parametrize("name", ["vgg8", "MobileNetV2", "ShuffleV1", "wrn_16_1"])
def test_networks_of_the_zoo(name):
    """Whatever the student's stages, and with nothing but logits from the teacher."""
    network = build_model(name, 4)
    features = network.forward_stages(torch.rand(3, 3, 32, 32))
    student = Outputs(features.pop("logits"), features)
    method = create_method("ofa")
    method.setup(student, [Outputs(torch.rand(3, 4))])
    method(student, [Outputs(torch.rand(3, 4))], TARGET).loss.backward()
    stages = [n for n in features if n.startswith("stage")]
    assert len(method.branches) == len(stages)
    assert all(p.grad is not None for p in method.parameters())
