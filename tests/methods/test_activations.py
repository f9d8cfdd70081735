"""AB and OFD against torchdistill, against loops in float64 written from the formulas, and on cases
worked by hand."""

from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from classroomkd.engine.run import train
from classroomkd.methods import Outputs, create_method
from classroomkd.methods.activations import MarginReLU
from classroomkd.methods.pairs import same_size
from classroomkd.models import build_model
from tests.methods.scenes import at, io, random, term, torchdistill_losses

B, C = 3, 4
TARGET = torch.tensor([0, 3, 1])
FAMILIES = ["resnet8", "wrn_16_1", "vgg8", "MobileNetV2", "ShuffleNetV1", "ShuffleNetV2"]
FAMILIES += ["ResNet18"]
SMALL = (5, 4, 4), (6, 4, 4), (7, 2, 2)
LARGE = (8, 8, 8), (9, 4, 4), (3, 3, 3)


def says(*shapes, seed=0):
    """Logits, stages of these shapes before and after their ReLU, and a pooled feature."""
    features = {}
    for i, shape in enumerate(shapes, start=1):
        features[f"stage{i}_preact"] = 2 * random(B, *shape, seed=seed + i)
        features[f"stage{i}"] = features[f"stage{i}_preact"].relu()
    features["pooled"] = features[f"stage{len(shapes)}"].mean((2, 3))
    return Outputs(random(B, C, seed=seed), features)


def lesson_of(name, student, mentor, **options):
    """A method set up in float64, and its lesson."""
    torch.manual_seed(0)
    method = create_method(name, **options)
    method.setup(student, [mentor])
    method.double()
    return method, method(student, [mentor], TARGET[: len(student.logits)])


def one_stage(*values):
    """A sample with a stage of one channel, a row of these values before its ReLU."""
    row = torch.tensor(values, dtype=torch.float64).view(1, 1, 1, -1)
    features = {"stage1_preact": row, "stage1": row.relu(), "pooled": row.relu().mean((2, 3))}
    return Outputs(torch.zeros(1, C, dtype=torch.float64), features)


@cache
def zoo_says(name):
    """What a network of the zoo says about two images of 32 x 32 pixels."""
    torch.manual_seed(0)
    with torch.no_grad():
        images = torch.rand(2, 3, 32, 32)
        features = build_model(name, 10).train().forward_stages(images, preactivations=True)
    return Outputs(features.pop("logits"), features)


def assert_teaches_all_families(name, student):
    """A finite lesson from two other families, which reaches the student and all parameters."""
    place = FAMILIES.index(student)
    for family in (FAMILIES[place - 1], FAMILIES[place - 3]):
        said = {k: v.clone().requires_grad_() for k, v in zoo_says(student).features.items()}
        learner, mentor = Outputs(zoo_says(student).logits, said), zoo_says(family)
        method = create_method(name)
        method.setup(learner, [mentor])
        lesson = method(learner, [mentor], torch.tensor([1, 7]))
        assert lesson.loss.isfinite()
        assert lesson.mentor_loss.shape == (1, 2)
        lesson.loss.backward()
        reached = [v.grad for v in said.values() if v.grad is not None]
        assert reached
        assert all(grad.isfinite().all() for grad in reached)
        assert any(grad.any() for grad in reached)
        assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())


def one_epoch(method, digits_recipe, folder, epochs=1):
    """The summary of a run on digits with one mentor, which is finite at its end."""
    mentors = [mentor.model_dump() for mentor in digits_recipe().mentors[:1]]
    train_options = {"epochs": epochs, "clip": 1.0}
    recipe = digits_recipe(method=method, mentors=mentors, train=train_options)
    summary = train(recipe, folder / "run", progress=False, say=lambda _: None)
    assert summary["last"]["epoch"] == epochs - 1
    assert np.isfinite(summary["last"]["test_nll"])
    return summary


def teach_in_epoch(method, student, mentor, epoch, epochs):
    method.begin_epoch(epoch, epochs)
    return method(student, [mentor], TARGET)


def pixels(tensor):
    """All places of a map ``[B, D, H, W]``."""
    return np.ndindex(*tensor.shape)


@pytest.mark.parametrize("name", ["ab", "ofd"])
@pytest.mark.parametrize("student", FAMILIES)
def test_pairs_of_different_architectures(name, student):
    assert_teaches_all_families(name, student)


@pytest.mark.parametrize("name", ["ab", "ofd"])
def test_stages_before_their_relu_are_read(name):
    student, mentor = says(*SMALL), says(*LARGE, seed=9)
    method, lesson = lesson_of(name, student, mentor)
    stages = [(f"stage{i}_preact",) * 2 for i in (1, 2, 3)]
    assert method.names(student, mentor) == stages
    by_hand, again = lesson_of(name, student, mentor, pairs=stages)
    assert torch.equal(again.loss, lesson.loss)
    after = {k: v for k, v in student.features.items() if not k.endswith("preact")}
    message = f"{name} reads the stages before their last ReLU.*preactivations=True"
    with pytest.raises(ValueError, match=message):
        method.setup(Outputs(student.logits, after), [mentor])


@pytest.mark.parametrize("name", ["ab", "ofd"])
def test_samples_are_taught_one_by_one(name):
    student, mentor = says(*SMALL), says(*LARGE, seed=9)
    method, _ = lesson_of(name, student, mentor)
    method.eval()
    whole = method(student, [mentor], TARGET).mentor_loss
    for i in range(B):
        parts = [
            Outputs(o.logits[i : i + 1], {k: v[i : i + 1] for k, v in o.features.items()})
            for o in (student, mentor)
        ]
        alone = method(parts[0], parts[1:], TARGET[i : i + 1]).mentor_loss
        torch.testing.assert_close(alone[:, 0], whole[:, i])


# ------------------------------------------------------------------------------------------- ab


@pytest.mark.parametrize(
    ("student", "mentor", "expected"),
    [
        (-2.0, -1.0, 0.0),  # off, beyond the margin
        (-0.5, -1.0, 0.25),  # off, within the margin: (-0.5 + 1)^2
        (0.5, -1.0, 2.25),  # on, and should be off
        (3.0, 2.0, 0.0),  # on, beyond the margin
        (0.25, 2.0, 0.5625),  # on, within the margin: (0.25 - 1)^2
        (-1.0, 2.0, 4.0),  # off, and should be on
        (0.5, 0.0, 2.25),  # 0 is off
    ],
)
def test_ab_in_each_region(student, mentor, expected):
    learner, teacher = one_stage(student), one_stage(mentor)
    method = create_method("ab", weight=2)
    method.setup(learner, [teacher])
    method.adapters[0] = nn.Identity()
    lesson = method(learner, [teacher], torch.tensor([0]))
    assert term(lesson).item() == pytest.approx(2 * 3e-3 * expected, abs=1e-12)


@pytest.mark.parametrize("margin", [1.0, 0.5])
def test_ab_by_loops(margin):
    student, mentor = says(*SMALL), says(*LARGE, seed=9)
    method, lesson = lesson_of("ab", student, mentor, margin=margin)
    total = np.zeros(B)
    for i, adapter in enumerate(method.adapters, start=1):
        stage = f"stage{i}_preact"
        s, t = same_size(student.features[stage], mentor.features[stage])
        s, t = adapter(s).detach().numpy(), t.numpy()
        for place in pixels(s):
            if t[place] > 0 and s[place] <= margin:
                total[place[0]] += 2 ** (i - 3) * (s[place] - margin) ** 2
            if t[place] <= 0 and s[place] > -margin:
                total[place[0]] += 2 ** (i - 3) * (s[place] + margin) ** 2
    np.testing.assert_allclose(lesson.mentor_loss[0].numpy(), 3 / 1000 * total)


def test_ab_is_torchdistills():
    losses = torchdistill_losses()
    student, mentor = says(*SMALL), says(*((d, *s[1:]) for d, s in zip((8, 9, 10), SMALL)), seed=9)  # noqa: B905
    method, lesson = lesson_of("ab", student, mentor)
    stages = [f"stage{i}_preact" for i in (1, 2, 3)]
    here = {s: a(student.features[s]) for s, a in zip(stages, method.adapters, strict=True)}
    pairs = {
        s: {"student": at(s), "teacher": at(s), "weight": w}
        for s, w in zip(stages, (0.25, 0.5, 1), strict=True)
    }
    oracle = losses.AltActTransferLoss(pairs, margin=1.0, reduction="mean")
    torch.testing.assert_close(term(lesson), 3e-3 * oracle(io(here), io(mentor.features)))


# ------------------------------------------------------------------------------------------ ofd


def simple_ofd(student, mentor, **options):
    """OFD in float64, without a connector."""
    method = create_method("ofd", **options)
    method.setup(student, [mentor])
    method.double()
    method.adapters[0].connector = nn.Identity()
    return method


def test_ofd_in_each_region():
    # The negative values -1 and -3 have the mean -2: the target is -1, -2, -2, 2, 2, 0, 0.
    mentor = one_stage(-1.0, -3.0, -2.0, 2.0, 2.0, 0.0, 0.0)
    student = one_stage(-1.5, 0.0, -2.0, 1.0, 5.0, -4.0, 0.5)
    #                   left   2^2   left  1^2  3^2  left  0.5^2
    method = simple_ofd(student, mentor, weight=10)
    lesson = method(student, [mentor], torch.tensor([0]))
    assert term(lesson).item() == pytest.approx(10 * (4 + 1 + 9 + 0.25))


def margins(maps, size=None):
    """Of each channel, the mean of all negative values, by loops: a list."""
    found = []
    for d in range(maps[0].shape[1]):
        values = [v for m in maps for v in m[:, d].flatten().tolist() if v < 0]
        found.append(sum(values) / len(values) if values else 0.0)
    return found


def test_ofd_by_loops_over_three_steps():
    """As the three cases of the public code, over margins of all that was seen so far."""
    student = says(*SMALL)
    method, seen = None, {}
    for step in range(3):
        mentor = says(*LARGE, seed=10 * (step + 1))
        if method is None:
            torch.manual_seed(0)
            method = create_method("ofd", weight=0.5)
            method.setup(student, [mentor])
            method.double()
        lesson = method(student, [mentor], TARGET)
        total = np.zeros(B)
        for i, pair in enumerate(method.adapters, start=1):
            s, t = (o.features[f"stage{i}_preact"] for o in (student, mentor))
            s, t = same_size(s, t)
            seen.setdefault(i, []).append(t)
            margin = margins(seen[i])
            s = pair.connector(s).detach().numpy()
            for place in pixels(s):
                b, m, x, y = place[0], margin[place[1]], s[place], t.numpy()[place]
                cost = 0.0
                if y <= m and x > m:
                    cost = (x - m) ** 2
                elif (m < y <= 0 and x > y) or y > 0:
                    cost = (x - y) ** 2
                total[b] += 2 ** (i - 3) * cost
        np.testing.assert_allclose(lesson.mentor_loss[0].numpy(), 0.5 * total)


def test_margins_are_the_mean_of_all_negative_values():
    relu = MarginReLU(3).double()
    steps = [random(4, 3, 5, 5, seed=s) for s in range(3)]
    for step in steps:
        step[:, 2] = step[:, 2].abs()  # a channel that is never negative
        relu(step)
    expected = torch.tensor(margins(steps), dtype=torch.float64)
    assert expected[2] == 0
    torch.testing.assert_close(relu.margin.flatten(), expected)
    bounded = relu.eval()(random(4, 3, 5, 5, seed=7))
    torch.testing.assert_close(relu.margin.flatten(), expected)
    torch.testing.assert_close(bounded.amin((0, 2, 3)), expected)


def test_margins_survive():
    student, mentor, unseen = says(*SMALL), says(*LARGE, seed=9), says(*LARGE, seed=30)
    method, _ = lesson_of("ofd", student, mentor)
    fresh = create_method("ofd")
    fresh.setup(student, [unseen])
    fresh.double().load_state_dict(method.state_dict())
    before = [pair.bound.margin for pair in method.adapters]
    assert all((margin < 0).all() for margin in before)
    for one, other in zip(before, fresh.adapters, strict=True):
        assert torch.equal(one, other.bound.margin)
    lessons = [m(student, [unseen], TARGET).loss for m in (method, fresh)]
    assert torch.equal(*lessons)
    assert "adapters.0.bound.total" in dict(method.named_buffers())


# --------------------------------------------------------------------------------------- a run


@pytest.mark.parametrize(("name", "epochs"), [("ab", 2), ("ofd", 1)])
def test_a_run_on_digits(name, epochs, digits_recipe, tmp_path):
    one_epoch({"name": name}, digits_recipe, tmp_path, epochs)
