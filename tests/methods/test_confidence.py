"""CA-MKD against float64 NumPy written from its formulas, a sample at a time."""

import numpy as np
import pytest
import torch

from classroomkd.engine.run import train
from classroomkd.methods import Outputs, create_method
from classroomkd.methods.confidence import confidence
from classroomkd.models import build_model, load_student
from classroomkd.tasks.classification.recipe import Recipe
from tests.core.oracle import softmax
from tests.methods.test_formulas import expected_kd, log_loss, scene, weighted

B, C = 6, 5
STUDENT, WIDER = (4, 4, 4), (7, 2, 2)
ALL = torch.ones(3, B, dtype=torch.bool)
SHAPES = [(6, 4, 4), WIDER, (5, 8, 8)]  # mentors' maps: of the student's size, smaller, larger


def outputs(logits, shape, seed):
    generator = torch.Generator().manual_seed(seed)
    feature = torch.randn(len(logits), *shape, generator=generator, dtype=torch.float64)
    torch.manual_seed(seed)
    return Outputs(logits, {"head": feature}, torch.nn.Linear(shape[0], C).double())


def classroom(count=3):
    """A student and mentors with maps of several sizes, the target, and their logits."""
    student, mentors, target = scene(count)
    said = [outputs(z, s, seed=10 + s[0]) for z, s in zip(mentors, SHAPES[:count], strict=True)]
    return outputs(student, STUDENT, seed=1), said, target, (student, mentors)


def set_up(student, mentors, **options):
    torch.manual_seed(0)
    method = create_method("ca_mkd", **options)
    method.setup(student, mentors)
    return method.double()


def pooled(feature, size):
    """Average pooling of a NumPy map to a size that divides its own."""
    d, h, w = feature.shape
    return feature.reshape(d, size[0], h // size[0], size[1], w // size[1]).mean((2, 4))


def shares(losses):
    """``(1 - softmax over mentors) / (M - 1)`` of ``[M, B]``."""
    return np.array([(1 - softmax(np.array(column))) / (len(column) - 1) for column in losses.T]).T


def logit_weights(mentors, target):
    labels = target.tolist()
    return shares(
        np.array(
            [[log_loss(z, y) for z, y in zip(m, labels, strict=True)] for m in mentors.numpy()]
        )
    )


def regressed(regressor, maps):
    """A 1x1 convolution and batch normalisation by the batch: ``[B, D, H, W]``."""
    weight = regressor[0].weight.detach().numpy()[:, :, 0, 0]
    out = np.einsum("od,bdhw->bohw", weight, maps)
    mean, variance = (f(out, axis=(0, 2, 3), keepdims=True) for f in (np.mean, np.var))
    return (out - mean) / np.sqrt(variance + 1e-5)


def feature_parts(method, student, mentors, target):
    """Cross-entropies of the mentors' classifiers, and distances: ``[M, B]`` each."""
    distances, losses = [], []
    for place, mentor in enumerate(mentors):
        there, here = mentor.features["head"].numpy(), student.features["head"].detach().numpy()
        size = [min(a, b) for a, b in zip(here.shape[2:], there.shape[2:], strict=True)]
        here, there = (np.array([pooled(f, size) for f in maps]) for maps in (here, there))
        predicted = regressed(method.regressors[place], here)
        distances.append([np.mean((p - t) ** 2) for p, t in zip(predicted, there, strict=True)])
        weight, bias = (v.detach().numpy() for v in mentor.classifier.parameters())
        losses.append(
            [
                log_loss(weight @ p.mean((1, 2)) + bias, y)
                for p, y in zip(predicted, target.tolist(), strict=True)
            ]
        )
    return np.array(losses), np.array(distances)


def feature_terms(method, student, mentors, target, beta):
    """``[M, B]``."""
    losses, distances = feature_parts(method, student, mentors, target)
    return beta * shares(losses) * distances


def test_logits_alone():
    student, mentors, target = scene(3)
    weights = logit_weights(mentors, target)
    np.testing.assert_allclose(weights.sum(0), 1)
    lesson = create_method("ca_mkd", feature_weight=0)(student, mentors, target)
    assert lesson.loss.item() == pytest.approx(weighted(student, mentors, target, weights))
    np.testing.assert_allclose(lesson.weight, weights)


@pytest.mark.parametrize("beta", [50.0, 3.0])
def test_logits_and_features(beta):
    student, mentors, target, (z_s, z_m) = classroom()
    method = set_up(student, mentors, **({} if beta == 50 else {"feature_weight": beta}))
    lesson = method(student, mentors, target)
    terms = feature_terms(method, student, mentors, target, beta)
    logits = weighted(z_s, z_m, target, logit_weights(z_m, target))
    assert lesson.loss.item() == pytest.approx(logits + terms.sum(0).mean())
    plain = create_method("ca_mkd", feature_weight=0)(z_s, z_m, target)
    np.testing.assert_allclose(lesson.mentor_loss - plain.mentor_loss, terms, rtol=1e-9)
    torch.testing.assert_close(lesson.weight, plain.weight)


def test_one_mentor_alone_has_the_whole_weight():
    student, mentors, target, (z_s, z_m) = classroom(1)
    method = set_up(student, mentors, feature_weight=2.0)
    predicted = method.regressors[0](student.features["head"])
    distance = (predicted - mentors[0].features["head"]).square().mean().item()
    want = expected_kd(z_s, z_m[0], target, 4.0, 1.0, 1.0) + 2 * distance
    assert method(student, mentors, target).loss.item() == pytest.approx(want)


def test_a_mentor_that_is_right_about_the_students_map_teaches_it_more():
    student, mentors, target, _ = classroom(2)
    mentors = [mentors[0], mentors[0]]  # equal maps, so that only the classifiers differ
    method = set_up(student, mentors)
    method.regressors[1].load_state_dict(method.regressors[0].state_dict())
    method.classifiers[1].weight.data.zero_()
    method.classifiers[1].bias.data.copy_(torch.linspace(5, -5, C))
    terms = method.feature_terms(student, mentors, torch.zeros_like(target), ALL[:2])
    assert (terms[1] > terms[0]).all(), "the second finds class 0 wherever it looks"


def test_weights_are_constants_to_the_gradient():
    student, mentors, target, _ = classroom(2)
    feature = student.features["head"].requires_grad_()
    method = set_up(student, mentors, feature_weight=1.0).eval()
    terms = method.feature_terms(student, mentors, target, ALL[:2])
    (gradient,) = torch.autograd.grad(terms.sum(), feature)
    expected = torch.zeros_like(feature)
    for place, mentor in enumerate(mentors):
        here = torch.nn.functional.adaptive_avg_pool2d(feature, mentor.features["head"].shape[2:])
        distance = (
            (method.regressors[place](here) - mentor.features["head"]).square().mean((1, 2, 3))
        )
        share = (terms[place] / distance).detach()
        expected += torch.autograd.grad((share * distance).sum(), feature)[0]
    torch.testing.assert_close(gradient, expected)
    assert all(p.grad is None for c in method.classifiers for p in c.parameters())


def test_confidence_of_mentors_that_are_not_heard():
    lost = torch.tensor([[torch.inf, 0, 3, 1e30], [torch.inf, torch.inf, torch.inf, 1e30],
                         [torch.inf, 1, torch.inf, 1e30]])  # fmt: skip
    share = confidence(lost)
    torch.testing.assert_close(share.sum(0), torch.tensor([0.0, 1, 1, 1]))
    right = 1 / (1 + np.exp(-1))
    torch.testing.assert_close(share[:, 1], torch.tensor([right, 0.0, 1 - right]).float())
    torch.testing.assert_close(share[:, 2], torch.tensor([1.0, 0, 0]))
    torch.testing.assert_close(share[:, 3], torch.full((3,), 1 / 3))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("what", ["logits", "features", "both"])
def test_a_mentor_that_says_nothing_finite_about_a_sample(what, bad):
    """Its sample is as if the others were there alone, in what of it is not finite."""
    student, mentors, target, (z_s, z_m) = classroom()
    z_s.requires_grad_()
    feature = student.features["head"].requires_grad_()
    method = set_up(student, mentors)
    said, shown = z_m[1].clone(), mentors[1].features["head"].clone()
    if what != "features":
        said[2, 0] = bad
    if what != "logits":
        shown[2, 0, 0, 0] = bad
    mentors[1] = Outputs(said, {"head": shown}, mentors[1].classifier)
    lesson = method(student, mentors, target)
    assert lesson.active[1, 2].item() == (what == "features")

    def kept(weights):  # of the heard, recomputed for two mentors where the second is not
        alone = shares(weights[[0, 2]])
        full = shares(weights)
        full[:, 2] = [alone[0, 2], 0, alone[1, 2]]
        return full

    labels = target.tolist()
    losses = np.array([[log_loss(z, y) for z, y in zip(m, labels, strict=True)]
                       for m in z_m.numpy()])  # fmt: skip
    weights = shares(losses) if what == "features" else kept(losses)
    np.testing.assert_allclose(lesson.weight, weights)
    clean = feature_parts(method, student, [m if k != 1 else Outputs(
        z_m[1], {"head": shown.where(shown.isfinite(), 0)}, m.classifier)
        for k, m in enumerate(mentors)], target)  # fmt: skip
    terms = 50 * kept(clean[0]) * clean[1]
    want = weighted(z_s.detach(), z_m, target, weights) + terms.sum(0).mean()
    assert lesson.loss.item() == pytest.approx(want)
    lesson.loss.backward()
    parts = [z_s, feature, *(p for p in method.parameters() if p.requires_grad)]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in parts)


def test_without_features_it_is_a_method_of_logits():
    plain, whole = create_method("ca_mkd", feature_weight=0), create_method("ca_mkd")
    assert (plain.needs_features, plain.mutual) == (False, True)
    assert (whole.needs_features, whole.mutual) == (True, False)
    student, mentors, _, _ = classroom()
    plain.setup(student, mentors)
    assert not plain.state_dict()


def test_what_is_missing_is_named():
    student, mentors, target, _ = classroom(2)
    bare = Outputs(mentors[1].logits, mentors[1].features)
    with pytest.raises(ValueError, match=r"ca_mkd uses the classifier.*network\.classifier"):
        set_up(student, [mentors[0], bare])
    with pytest.raises(RuntimeError, match="regressors for 0 mentors instead of 2: call method.se"):
        create_method("ca_mkd")(student, mentors, target)


def test_a_run_leaves_the_student_as_it_was_built(digits_recipe, tmp_path):
    recipe: Recipe = digits_recipe(method={"name": "ca_mkd"}, train={"epochs": 1})
    train(recipe, tmp_path / "run", progress=False, say=lambda _: None)
    student, info = load_student(tmp_path / "run")
    assert info.head is None
    assert student.state_dict().keys() == build_model("resnet8", 10).state_dict().keys()
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert "method.regressors.1.0.weight" in state["state_dict"]
