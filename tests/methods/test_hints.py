"""FitNets-MKD against plain PyTorch in float64, a mentor and a sample at a time."""

import pytest
import torch
import torch.nn.functional as F

from classroomkd.methods import Outputs, create_method
from tests.methods.scenes import EQUAL, LARGE, SMALL, TARGET, B, says

SHAPES = [EQUAL, SMALL, LARGE]


def leaf(outputs):
    maps = {name: value.clone().requires_grad_() for name, value in outputs.features.items()}
    return Outputs(outputs.logits.clone().requires_grad_(), maps)


def set_up(student, mentors, **options):
    torch.manual_seed(0)
    method = create_method("fitnets_mkd", **options)
    method.setup(student, mentors)
    return method.double()


def regressed(regressor, feature):
    """A 1x1 convolution and normalisation by the batch."""
    out = torch.einsum("od,bdhw->bohw", regressor[0].weight[:, :, 0, 0], feature)
    mean = out.mean((0, 2, 3), keepdim=True)
    variance = (out - mean).square().mean((0, 2, 3), keepdim=True)
    scale, shift = (v.view(1, -1, 1, 1) for v in (regressor[1].weight, regressor[1].bias))
    return (out - mean) / (variance + 1e-5).sqrt() * scale + shift


def oracle(method, student, mentors, stage, mentor_mask=None, taught=None, **options):
    """The loss, where ``mentor_mask`` (logits) and ``taught`` (maps) ``[M][B]`` say who counts."""
    o = {"temperature": 4.0, "weight": 1.0, "feature_weight": 100.0, "task_weight": 1.0} | options
    tau = o["temperature"]
    mentor_mask = mentor_mask or [[True] * B for _ in mentors]
    taught = taught or mentor_mask
    predictions = []
    for hint, mentor in zip(method.hints, mentors, strict=True):
        here, there = student.features[stage], mentor.features[stage].detach()
        size = [min(a, b) for a, b in zip(here.shape[2:], there.shape[2:], strict=True)]
        here, there = (F.adaptive_avg_pool2d(f, size) for f in (here, there))
        predictions.append((regressed(hint.adapters[0], here), there))
    total = 0
    for i, y in enumerate(TARGET):
        total = total - o["task_weight"] * F.log_softmax(student.logits[i], 0)[y]
        for m, mentor in enumerate(mentors):
            if mentor_mask[m][i]:
                here = F.log_softmax(student.logits[i] / tau, 0)
                there = F.softmax(mentor.logits[i].detach() / tau, 0)
                kl = (there * (there.log() - here)).sum()
                total = total + o["weight"] * tau**2 * kl / sum(row[i] for row in mentor_mask)
            if taught[m][i]:
                predicted, there = predictions[m]
                distance = F.mse_loss(predicted[i], there[i])
                total = total + o["feature_weight"] * distance / sum(row[i] for row in taught)
    return total / B


@pytest.mark.parametrize(
    ("options", "stage"),
    [
        ({}, "stage2"),
        ({"hint": 1, "feature_weight": 3.0}, "stage1"),
        ({"temperature": 2.0, "weight": 0.5, "task_weight": 0.1}, "stage2"),
    ],
)
def test_values_and_gradients(options, stage):
    student = leaf(says(*EQUAL))
    mentors = [says(*shape, seed=10 + k) for k, shape in enumerate(SHAPES)]
    method = set_up(student, mentors, **options)
    lesson = method(student, mentors, TARGET)
    expected = oracle(method, student, mentors, stage, **options)
    torch.testing.assert_close(lesson.loss, expected)
    parts = [student.logits, student.features[stage], *method.parameters()]
    ours, theirs = (torch.autograd.grad(v, parts) for v in (lesson.loss, expected))
    torch.testing.assert_close(ours, theirs)
    assert all(gradient.any() for gradient in ours), "the regressors are trained"
    whole = (lesson.task_loss + lesson.mentor_loss.sum(0)).mean()
    torch.testing.assert_close(whole, lesson.loss.detach())


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_mentor_that_says_nothing_finite_about_a_sample(bad):
    student = leaf(says(*EQUAL))
    mentors = [says(*shape, seed=10 + k) for k, shape in enumerate(SHAPES)]
    method = set_up(student, mentors)
    mentor_mask = [[True, False, True], [True] * 3, [True] * 3]  # its logits on sample 1
    taught = [[True, False, True], [True] * 3, [True, True, False]]  # another's map on sample 2
    expected = oracle(method, student, mentors, "stage2", mentor_mask, taught)
    said, shown = mentors[0].logits.clone(), mentors[2].features["stage2"].clone()
    said[1, 0], shown[2, 0, 0, 0] = bad, bad
    mentors[0] = Outputs(said, mentors[0].features)
    mentors[2] = Outputs(mentors[2].logits, {**mentors[2].features, "stage2": shown})
    lesson = method(student, mentors, TARGET)
    assert lesson.active.tolist() == mentor_mask
    torch.testing.assert_close(lesson.loss, expected)
    parts = [student.logits, student.features["stage2"], *method.parameters()]
    ours, theirs = (torch.autograd.grad(v, parts) for v in (lesson.loss, expected))
    torch.testing.assert_close(ours, theirs)


def test_without_mentors_the_task_is_all():
    student = leaf(says(*EQUAL))
    lesson = set_up(student, [])(student, [], TARGET)
    torch.testing.assert_close(lesson.loss, F.cross_entropy(student.logits, TARGET))


def test_what_is_missing_is_named():
    student, mentor = says(*EQUAL), says(*EQUAL, seed=5)
    with pytest.raises(RuntimeError, match="fitnets_mkd has regressors for 0 mentors instead of 1"):
        create_method("fitnets_mkd")(student, [mentor], TARGET)
    with pytest.raises(ValueError, match="hint: there are 2 pairs of stages, got 4"):
        set_up(student, [mentor], hint=4)
