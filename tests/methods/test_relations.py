"""PKT, SP, CC and RKD against torchdistill in float64, and on cases worked by hand."""

import math

import pytest
import torch

from classroomkd.methods import Outputs, create_method
from classroomkd.methods.contrib.cc import gaussian
from classroomkd.methods.relations import geometry, similarities
from tests.methods.scenes import io, random, term, torchdistill_losses

B, C = 5, 4
TARGET = torch.tensor([0, 3, 1, 2, 2])
NAMES = ["pkt", "sp", "cc", "rkd"]
POOLED = ["pkt", "cc", "rkd"]


def says(width, seed=0, batch=B):
    """Logits, one map of a stage, and its mean as the pooled feature."""
    feature = random(batch, width, 3, 3, seed=seed)
    pooled = feature.mean((2, 3))
    return Outputs(random(batch, C, seed=seed), {"stage1": feature, "pooled": pooled})


def lesson_of(name, student, mentor, **options):
    return create_method(name, **options)(student, [mentor], TARGET[: len(student.logits)])


def given(*rows):
    """Samples with these pooled features, which are a stage's one-pixel map, too."""
    pooled = torch.tensor(rows, dtype=torch.float64)
    maps = {"stage1": pooled[:, :, None, None], "pooled": pooled}
    return Outputs(torch.zeros(len(rows), C, dtype=torch.float64), maps)


def test_pkt_is_torchdistills():
    student, mentor = says(6), says(9, seed=1)
    oracle = torchdistill_losses().PKTLoss("pooled", "output", "pooled", "output")
    expected = 3e4 * oracle(io(student.features), io(mentor.features))
    torch.testing.assert_close(term(lesson_of("pkt", student, mentor)), expected, rtol=1e-5, atol=0)


def test_sp_by_loops():
    student, mentor = says(6), says(9, seed=1)
    matrices = []
    for rows in (f.features["stage1"].flatten(1) for f in (student, mentor)):
        gram = [[(a @ c).item() for c in rows] for a in rows]
        matrices.append([[v / math.hypot(*row) for v in row] for row in gram])
    total = sum((matrices[0][i][j] - matrices[1][i][j]) ** 2 for i in range(B) for j in range(B))
    assert term(lesson_of("sp", student, mentor)).item() == pytest.approx(3000 * total / B**2)


def test_sps_rows_are_torchdistills():
    """But for their length: `normalize(gram, 1)` of 1.1.5 makes their absolute values sum to 1."""
    feature = says(6).features["stage1"]
    rows = torchdistill_losses().SPKDLoss("", "", "batchmean").matmul_and_normalize(feature)
    torch.testing.assert_close(rows.abs().sum(1), torch.ones(B, dtype=torch.float64))
    torch.testing.assert_close(similarities(feature), rows / rows.norm(dim=1, keepdim=True))


@pytest.mark.parametrize("options", [{}, {"gamma": 1.0, "order": 4, "weight": 2.0}])
def test_cc_is_torchdistills(options):
    """Its loss is the root of ours, over B^2, of features that it takes as they are."""
    student, mentor = says(6), says(9, seed=1)
    kernel = {"type": "gaussian", "gamma": options.get("gamma", 0.4)}
    kernel["max_p"] = options.get("order", 2)
    oracle = torchdistill_losses().CCKDLoss("pooled", "pooled", kernel, "batchmean")
    unit = [{"pooled": o.features["pooled"]} for o in (student, mentor)]
    unit = [{k: v / v.norm(dim=1, keepdim=True) for k, v in f.items()} for f in unit]
    root = oracle(*map(io, unit)) * B**2
    expected = options.get("weight", 100.0) * root**2 / B**2
    torch.testing.assert_close(term(lesson_of("cc", student, mentor, **options)), expected)


def test_ccs_series_is_that_of_the_gaussian():
    x = random(6, 4)
    unit = x / x.norm(dim=1, keepdim=True)
    exact = (-0.4 * torch.cdist(unit, unit).square()).exp()
    torch.testing.assert_close(gaussian(x, 0.4, 20), exact)
    torch.testing.assert_close(gaussian(x, 0.4, 2), exact, atol=0.06, rtol=0)


@pytest.mark.parametrize(
    "options", [{}, {"weight": 2.0, "distance_weight": 1.0, "angle_weight": 0}]
)
def test_rkd_is_torchdistills(options):
    student, mentor = says(6), says(9, seed=1)
    oracle = torchdistill_losses().RKDLoss(
        "pooled", "pooled", options.get("distance_weight", 25), options.get("angle_weight", 50),
        "mean",
    )  # fmt: skip
    expected = options.get("weight", 1.0) * oracle(io(student.features), io(mentor.features))
    torch.testing.assert_close(term(lesson_of("rkd", student, mentor, **options)), expected)


def pkt_of_two():
    """Rows (2, 1) / 3 of orthogonal features, and (1, 1) / 2 of equal ones, the mentor's."""
    return 3e4 * (0.5 * math.log(0.5 / (2 / 3)) + 0.5 * math.log(0.5 / (1 / 3))) / 2


def cc_of_two():
    return 100 * 2 * (math.exp(-0.8) * (0.8 + 0.32)) ** 2 / 4


@pytest.mark.parametrize(
    ("name", "options", "student", "mentor", "expected"),
    [
        ("pkt", {}, [[1, 0], [0, 2]], [[3, 0], [1, 0]], pkt_of_two()),
        # The Gram matrices' rows: (1, 0), (0, 1) and (1, 1) / sqrt 2 twice.
        ("sp", {}, [[1, 0], [0, 2]], [[3, 0], [3, 0]], 3000 * ((1 - 0.5**0.5) ** 2 + 0.5) / 2),
        ("cc", {}, [[1, 0], [0, 2]], [[3, 0], [1, 0]], cc_of_two()),
        # Three points in line against an equilateral triangle, scaled and moved: distances 3/4,
        # 3/4, 3/2 against 1; cosines 1, -1, 1 against 1/2.
        ("rkd", {"angle_weight": 0}, [[0, 0], [1, 0], [2, 0]], [[1, 1], [9, 1], [5, 1 + 48**0.5]],
         25 * 2 * (2 * 0.25**2 / 2 + 0.5**2 / 2) / 9),
        ("rkd", {"distance_weight": 0}, [[0, 0], [1, 0], [2, 0]], [[1, 1], [9, 1], [5, 1 + 48**0.5]],
         50 * 2 * (2 * 0.5**2 / 2 + (1.5 - 0.5)) / 27),
        ("rkd", {}, [[0, 0], [1, 0]], [[5, 5], [9, 9]], 0.0),
    ],
)  # fmt: skip
def test_by_hand(name, options, student, mentor, expected):
    lesson = lesson_of(name, given(*student), given(*mentor), **options)
    assert term(lesson).item() == pytest.approx(expected, rel=1e-5, abs=1e-9)
    assert lesson.mentor_loss.shape == (1,)


@pytest.mark.parametrize("name", NAMES)
def test_what_does_not_matter(name):
    """The order of samples and the features' scale; for RKD their place as well."""
    student, mentor = says(6), says(9, seed=1)
    plain = term(lesson_of(name, student, mentor))
    order = torch.tensor([3, 0, 4, 1, 2])

    def changed(outputs, scale, shift=0.0):
        maps = {k: (scale * v + shift)[order] for k, v in outputs.features.items()}
        return Outputs(outputs.logits[order], maps)

    shift = 2.0 if name == "rkd" else 0.0
    method = create_method(name)
    other = term(method(changed(student, 3.0, shift), [changed(mentor, 0.5)], TARGET[order]))
    torch.testing.assert_close(other, plain, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_equal_features_teach_nothing(name):
    student = says(6)
    for feature in student.features.values():
        feature.requires_grad_()
    lesson = lesson_of(name, student, student, weight=1.0)
    assert lesson.mentor_loss.abs().max() < 1e-8
    gradients = torch.autograd.grad(lesson.loss, [*student.features.values()], allow_unused=True)
    assert all(g is None or g.abs().max() < 1e-6 for g in gradients)


@pytest.mark.parametrize("name", NAMES)
def test_samples_without_a_difference(name):
    """Equal samples, and features that are all 0: finite, and so are the gradients."""
    for value in (0.0, 1.0):
        pooled = torch.full((B, 6), value, requires_grad=True)
        student = Outputs(torch.zeros(B, C), {"stage1": pooled[:, :, None, None], "pooled": pooled})
        mentor = Outputs(torch.zeros(B, C), {k: v.float() for k, v in says(6).features.items()})
        lesson = lesson_of(name, student, mentor)
        assert lesson.loss.isfinite()
        lesson.loss.backward()
        assert pooled.grad.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_no_parameters(name):
    method = create_method(name)
    method.setup(says(6), [says(9, seed=1)])
    assert not method.state_dict()


def test_one_sample():
    one = says(6, batch=1), says(9, seed=1, batch=1)
    for name in ("pkt", "sp", "cc"):
        assert term(lesson_of(name, *one)).abs() < 1e-9
    with pytest.raises(ValueError, match="rkd relates samples to each other: a batch needs two"):
        lesson_of("rkd", *one)


def test_distances_have_mean_one():
    distance, cosine = geometry(random(6, 3))
    assert distance.sum().item() == pytest.approx(6 * 5)
    assert (distance.diagonal() == 0).all()
    assert (cosine.abs() <= 1 + 1e-9).all()


@pytest.mark.parametrize("size", [1e-25, 1e20])
def test_the_size_of_features_does_not_matter(size):
    """Deep networks that were never trained may give features as small as that."""
    x = random(6, 3).float()
    for own, other in zip(geometry(x), geometry(size * x), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", POOLED)
def test_the_pooled_feature_is_asked_for(name):
    here = says(6)
    there = Outputs(here.logits, {"stage1": here.features["stage1"]})
    with pytest.raises(ValueError, match=f"{name} needs the feature 'pooled'"):
        create_method(name).setup(here, [there])


@pytest.mark.parametrize("options", [{}, {"weight": 2.0, "dim": 7}])
def test_the_benchmarks_cc_by_loops(options):
    student, mentor = says(6), says(9, seed=1)
    student.features["pooled"].requires_grad_()
    torch.manual_seed(0)
    method = create_method("cc_benchmark", **options)
    method.setup(student, [mentor])
    method.double()
    dim = options.get("dim", 128)
    assert [tuple(e.weight.shape) for e in method.embeddings] == [(dim, 6), (dim, 9)]
    lesson = method(student, [mentor], TARGET)
    apart = []
    for pair in zip(student.features["pooled"], mentor.features["pooled"], strict=True):
        own, other = (e.weight @ x + e.bias for e, x in zip(method.embeddings, pair, strict=True))
        apart.append((own - other).abs())
    products = [(apart[b] * apart[b + 1]).sum() for b in range(B - 1)]
    expected = options.get("weight", 0.02) * sum(products) / (B - 1)
    torch.testing.assert_close(term(lesson), expected)
    wanted = [student.features["pooled"], *method.parameters()]
    for own, other in zip(
        torch.autograd.grad(term(lesson), wanted, retain_graph=True),
        torch.autograd.grad(expected, wanted),
        strict=True,
    ):
        torch.testing.assert_close(own, other)


def test_the_benchmarks_cc_relates_two_samples():
    one = says(6, batch=1), says(9, seed=1, batch=1)
    method = create_method("cc_benchmark")
    method.setup(one[0], [one[1]])
    with pytest.raises(ValueError, match="cc_benchmark relates samples .* a batch needs two"):
        method.double()(one[0], [one[1]], TARGET[:1])


def test_the_benchmarks_cc_is_set_up():
    with pytest.raises(RuntimeError, match="cc_benchmark has no embeddings yet"):
        create_method("cc_benchmark")(says(6), [says(9)], TARGET)
