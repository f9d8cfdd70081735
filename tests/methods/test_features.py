"""Feature pairs on the whole zoo; FitNets, AT, NST, VID and FSP against torchdistill, against loops
in float64 written from the formulas, and on cases worked by hand."""

import math
import warnings
from functools import cache

import pytest
import torch

from classroomkd.methods import Outputs, create_method, list_methods, method_class
from classroomkd.methods.features import mean_kernel
from classroomkd.methods.flow import flow
from classroomkd.methods.pairs import Regressor, same_size, stage_pairs
from classroomkd.models import build_model, list_models

B, C = 3, 4
TARGET = torch.tensor([0, 3, 1])
FEATURE_METHODS = [n for n in list_methods() if method_class(n).needs_features]
FAMILIES = ["resnet20", "resnet8x4", "wrn_16_2", "vgg8", "MobileNetV2", "ShuffleNetV1"]
FAMILIES += ["ShuffleNetV2", "ResNet50"]


def torchdistill_losses():
    """torchdistill's losses, or a skipped test where it is not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what another package warns of at import is not ours
        return pytest.importorskip(
            "torchdistill.losses.mid_level", reason="torchdistill is the oracle of this test"
        )


def io(features):
    return {name: {"output": value} for name, value in features.items()}


def at(path):
    return {"io": "output", "path": path}


def random(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def says(*shapes, seed=0):
    """Logits, and maps ``[B, *shape]`` named stem, stage1, ... like a network's."""
    names = ["stem", *(f"stage{i}" for i in range(1, len(shapes)))]
    maps = {n: random(B, *s, seed=seed + i) for i, (n, s) in enumerate(zip(names, shapes))}  # noqa: B905
    return Outputs(random(B, C, seed=seed), maps)


def teach(name, student, mentor, **options):
    """A method set up in float64, and its lesson."""
    torch.manual_seed(0)
    method = create_method(name, **options)
    method.setup(student, [mentor])
    method.double()
    return method, method(student, [mentor], TARGET)


def term(lesson):
    """The mentor's term of a loss: a number."""
    return lesson.loss - lesson.task_loss.mean()


SMALL = (5, 4, 4), (6, 4, 4), (7, 2, 2)
EQUAL = (8, 4, 4), (9, 4, 4), (10, 2, 2)
LARGE = (8, 8, 8), (9, 4, 4), (3, 4, 4)


# ------------------------------------------------------------------------------------- pairs


@cache
def zoo_features(name):
    with torch.device("meta"):
        return build_model(name, 100).eval().forward_stages(torch.empty(2, 3, 32, 32))


@pytest.mark.parametrize("stem", [True, False])
@pytest.mark.parametrize("student", list_models())
def test_pairs_of_the_whole_zoo(student, stem):
    for mentor in list_models():
        here, there = zoo_features(student), zoo_features(mentor)
        depth = [
            [n for n in f if n.startswith("stage") or (stem and n == "stem")] for f in (here, there)
        ]
        pairs = stage_pairs(here, there, stem=stem)
        assert len(pairs) == min(map(len, depth))
        assert pairs[-1] == (depth[0][-1], depth[1][-1])
        for side in (0, 1):
            ranks = [depth[side].index(pair[side]) for pair in pairs]
            assert ranks == sorted(set(ranks))
        if len(depth[0]) == len(depth[1]):
            assert pairs == list(zip(*depth, strict=True))
        assert [p[::-1] for p in pairs] == stage_pairs(there, here, stem=stem)


def numbered(*pairs):
    return [(f"stage{a}", f"stage{b}") for a, b in pairs]


@pytest.mark.parametrize(
    ("student", "mentor", "expected"),
    [
        ("resnet8", "resnet110", numbered((1, 1), (2, 2), (3, 3))),
        ("MobileNetV2", "vgg13", numbered((1, 1), (2, 2), (3, 3), (4, 4))),
        # 32, 16, 8 pixels and 16, 8, 4, 4: the last together, the others by what is nearest.
        ("resnet20", "vgg13", numbered((1, 1), (2, 2), (3, 4))),
        ("MobileNetV2", "wrn_40_2", numbered((1, 1), (2, 2), (4, 3))),
        # 16, 8, 4 and 32, 16, 8, 4: a pixel-true pair for each.
        ("ShuffleNetV1", "ResNet50", numbered((1, 2), (2, 3), (3, 4))),
    ],
)
def test_pairs_by_resolution(student, mentor, expected):
    assert stage_pairs(zoo_features(student), zoo_features(mentor), stem=False) == expected


def test_networks_without_maps_are_named():
    maps = {"stage1": torch.empty(1, 2, 4, 4)}
    with pytest.raises(ValueError, match=r"the student shows no feature maps \(its features: pool"):
        stage_pairs({"pooled": torch.empty(1, 2)}, maps)
    with pytest.raises(ValueError, match="the mentor shows no feature maps.*forward_stages"):
        stage_pairs(maps, {})


@pytest.mark.parametrize("name", [n for n in FEATURE_METHODS if n in ("at", "nst", "sp")])
def test_pairs_by_hand(name):
    student, mentor = says(*SMALL), says(*LARGE, seed=9)
    by_hand = [["stage1", "stem"], ["stage2", "stage1"]]
    both = term(teach(name, student, mentor, pairs=by_hand)[1])
    each = [term(teach(name, student, mentor, pairs=[pair])[1]) for pair in by_hand]
    torch.testing.assert_close(both, sum(each))


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (("stage7", "stage1"), "pairs: unknown feature of the student 'stage7'.*'stage[12]'"),
        (("stage1", "stge1"), "pairs: unknown feature of the mentor 'stge1': did you mean 'stage1"),
        (("pooled", "stage1"), "pairs: 'pooled' of the student is no map"),
    ],
)
def test_pairs_by_hand_that_are_not_there(pair, message):
    student = says(*SMALL)
    student = Outputs(student.logits, {**student.features, "pooled": random(B, 7)})
    method = create_method("at", pairs=[pair])
    with pytest.raises(ValueError, match=message):
        method.setup(student, [says(*LARGE)])
    with pytest.raises(ValueError, match="pairs"):
        create_method("at", pairs=[])


def test_the_larger_map_is_pooled():
    one, other = random(2, 3, 8, 4), random(2, 5, 4, 8)
    a, b = same_size(one, other)
    torch.testing.assert_close(a, one.unflatten(2, (4, 2)).mean(3))
    torch.testing.assert_close(b, other.unflatten(3, (4, 2)).mean(4))
    assert same_size(one, one)[0] is one


# ----------------------------------------------------------------------------------- all methods


@pytest.mark.parametrize("name", FEATURE_METHODS)
@pytest.mark.parametrize("student", FAMILIES)
def test_pairs_of_different_architectures(name, student):
    """Shapes agree for every pair of families (on the meta device, at the sizes of CIFAR)."""
    for mentor in FAMILIES:
        here, there = (
            Outputs(f["logits"], {k: v for k, v in f.items() if k != "logits"})
            for f in (zoo_features(student), zoo_features(mentor))
        )
        with torch.device("meta"):
            method = create_method(name)
            method.setup(here, [there])
            lesson = method(here, [there], torch.zeros(2, dtype=torch.long))
        assert lesson.loss.shape == ()
        assert lesson.mentor_loss.shape in ((1,), (1, 2))
        assert all(p.device.type == "meta" for p in method.parameters())


@pytest.mark.parametrize("name", FEATURE_METHODS)
def test_logits_alone_are_refused(name):
    with pytest.raises(ValueError, match="forward_stages"):
        create_method(name)(random(B, C), [random(B, C)], TARGET)


@pytest.mark.parametrize("name", [n for n in FEATURE_METHODS if method_class(n).kind == "feature"])
def test_samples_are_taught_one_by_one(name):
    """What a sample's lesson is does not depend on its company (adapters in eval mode)."""
    student, mentor = says(*SMALL), says(*LARGE, seed=9)
    method, _ = teach(name, student, mentor)
    method.eval()
    whole = method(student, [mentor], TARGET)
    assert whole.mentor_loss.shape == (1, B)

    def one(outputs, i):
        maps = {k: v[i : i + 1] for k, v in outputs.features.items()}
        return Outputs(outputs.logits[i : i + 1], maps)

    for i in range(B):
        alone = method(one(student, i), [one(mentor, i)], TARGET[i : i + 1])
        torch.testing.assert_close(alone.mentor_loss[:, 0], whole.mentor_loss[:, i])


@pytest.mark.parametrize("name", ["at", "nst", "fsp", "sp"])
def test_equal_maps_teach_nothing(name):
    student = says(*EQUAL)
    student.features["stage2"].requires_grad_()
    _, lesson = teach(name, student, student)
    assert lesson.mentor_loss.abs().max() < 1e-10
    (gradient,) = torch.autograd.grad(lesson.loss, student.features["stage2"])
    assert gradient.abs().max() < 1e-10


@pytest.mark.parametrize("name", ["fitnets", "vid", "fsp"])
def test_adapters_belong_to_the_method(name):
    student, mentor = says(*SMALL), says(*LARGE, seed=9)
    bare = create_method(name)
    with pytest.raises(RuntimeError, match=f"{name} has no adapters yet: call method.setup"):
        bare(student, [mentor], TARGET)
    method, lesson = teach(name, student, mentor)
    parameters = dict(method.named_parameters())
    assert parameters.keys() <= method.state_dict().keys()
    lesson.loss.backward()
    assert all(p.grad.any() for p in parameters.values())
    bare.setup(student, [mentor])
    bare.double().load_state_dict(method.state_dict())
    method.eval(), bare.eval()
    lessons = [m(student, [mentor], TARGET).loss for m in (bare, method)]
    assert torch.equal(*lessons)


# ------------------------------------------------------------------------------------------ each


@pytest.mark.parametrize("options", [{}, {"hint": 1, "weight": 3.0}])
def test_fitnets(options):
    student, mentor = says(*SMALL), says(*LARGE, seed=9)
    method, lesson = teach("fitnets", student, mentor, **options)
    stage = f"stage{options.get('hint', 2)}"
    conv, _ = method.adapters[0]
    here, there = same_size(student.features[stage], mentor.features[stage])
    x = torch.einsum("od,bdhw->bohw", conv.weight[:, :, 0, 0], here)
    x = x - x.mean((0, 2, 3), keepdim=True)
    x = x / (x.square().mean((0, 2, 3), keepdim=True) + 1e-5).sqrt()
    expected = options.get("weight", 100.0) * (x - there).square().mean()
    torch.testing.assert_close(term(lesson), expected)


def test_fitnets_hint_beyond_the_stages():
    student = says(*SMALL)
    with pytest.raises(ValueError, match="hint: there are 2 pairs of stages, got 3"):
        teach("fitnets", student, student, hint=3)


def test_regressor():
    adapter = Regressor(3, 5)
    assert adapter(torch.rand(2, 3, 4, 4)).shape == (2, 5, 4, 4)
    assert sum(p.numel() for p in adapter.parameters()) == 3 * 5 + 2 * 5


def test_at_is_torchdistills():
    losses = torchdistill_losses()
    student, mentor = says(*SMALL), says(*EQUAL, seed=9)
    pairs = {s: {"student": at(s), "teacher": at(s), "weight": 1} for s in ("stage1", "stage2")}
    expected = losses.ATLoss(pairs, mode="code")(io(student.features), io(mentor.features))
    torch.testing.assert_close(term(teach("at", student, mentor)[1]), 1000 * expected)


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0])
def test_at_by_loops(p):
    student, mentor = says((5, 2, 3), (6, 2, 3)), says((8, 2, 3), (4, 2, 3), seed=9)
    total = 0.0
    for b in range(B):
        maps = []
        for f in (student.features["stage1"][b], mentor.features["stage1"][b]):
            pixels = [
                sum(abs(f[d, i, j].item()) ** p for d in range(len(f))) / len(f)
                for i in range(2)
                for j in range(3)
            ]
            length = math.sqrt(sum(v * v for v in pixels))
            maps.append([v / length for v in pixels])
        total += sum((a - c) ** 2 for a, c in zip(*maps, strict=True)) / 6
    lesson = teach("at", student, mentor, p=p, weight=7)[1]
    assert term(lesson).item() == pytest.approx(7 * total / B)


def one_map(*rows):
    """One sample, of a channel a row."""
    maps = {"stage1": torch.tensor(rows, dtype=torch.float64).reshape(1, len(rows), 1, -1)}
    return Outputs(torch.zeros(1, C, dtype=torch.float64), maps)


@pytest.mark.parametrize(
    ("name", "student", "mentor", "expected"),
    [
        ("at", [[5, 0]], [[0, 2]], 1000.0),  # (1 + 1) / 2 pixels
        ("at", [[3, 0]], [[1, 1]], 1000 * ((1 - 0.5**0.5) ** 2 + 0.5) / 2),
        ("nst", [[5, 0]], [[0, 2]], 100.0),  # 50 (1 + 1 - 0)
        ("nst", [[1, 0], [0, 1]], [[1, 0]], 25.0),  # 50 (1 + 2/4 - 2 (1 + 0) / 2)
        ("nst", [[1, 1]], [[4, 0], [0, 4]], 25.0),  # 50 (2/4 + 1 - 2 (1/2 + 1/2) / 2)
    ],
)
def test_by_hand(name, student, mentor, expected):
    lesson = create_method(name)(one_map(*student), [one_map(*mentor)], torch.tensor([0]))
    assert term(lesson).item() == pytest.approx(expected)


@pytest.mark.parametrize("size", [(2, 1), (4, 4)])  # fewer pixels than channels, and more
def test_nst_by_loops(size):
    student, mentor = says((5, *size), (6, *size)), says((8, *size), (4, *size), seed=9)
    total = 0.0
    for b in range(B):
        sets = [f.features["stage1"][b].flatten(1) for f in (student, mentor)]
        here, there = ([v / v.norm() for v in points] for points in sets)

        def mean(one, other):
            return sum((a @ c).item() ** 2 for a in one for c in other) / (len(one) * len(other))

        total += mean(there, there) + mean(here, here) - 2 * mean(here, there)
    assert term(teach("nst", student, mentor)[1]).item() == pytest.approx(50 * total / B)


def test_both_ways_of_the_kernel_agree():
    one, other = random(B, 6, 6), random(B, 7, 6, seed=1)
    products = (one @ other.mT).square().mean((1, 2))
    torch.testing.assert_close(mean_kernel(one, other), products)
    wide = mean_kernel(one[:, :, :5], other[:, :, :5])
    torch.testing.assert_close(wide, (one[:, :, :5] @ other[:, :, :5].mT).square().mean((1, 2)))


def test_vid_is_torchdistills():
    losses = torchdistill_losses()
    student, mentor = says(*SMALL), says(*EQUAL, seed=9)
    method, lesson = teach("vid", student, mentor)
    predicted = {}
    for (stage, feature), adapter in zip(
        list(student.features.items())[1:], method.adapters, strict=True
    ):
        variance = adapter.variance
        torch.testing.assert_close(variance, torch.full_like(variance, 5.0))
        predicted[stage] = (adapter.mean(feature), variance)
    pairs = {s: {"student": at(s), "teacher": at(s), "weight": 1} for s in ("stage1", "stage2")}
    expected = losses.VIDLoss(pairs)(io(predicted), io(mentor.features))
    torch.testing.assert_close(term(lesson), expected)


def test_vid_by_hand():
    student, mentor = one_map([1.0, 2.0]), one_map([3.0, 1.0])
    method = create_method("vid", variance=2.0, weight=3)
    method.setup(student, [mentor])
    method.double()
    torch.nn.init.zeros_(method.adapters[0].mean[-1].weight)  # the mean is 0
    lesson = method(student, [mentor], torch.tensor([0]))
    assert term(lesson).item() == pytest.approx(3 * 0.5 * (5 / 2.0 + math.log(2.0)), rel=1e-6)


def test_vids_variances_are_learnt():
    student, mentor = says(*SMALL), says(*EQUAL, seed=9)
    method, _ = teach("vid", student, mentor)
    optimizer = torch.optim.SGD(method.parameters(), lr=1.0)
    before = method.adapters[0].variance.detach().clone()
    losses = []
    for _ in range(20):
        loss = term(method(student, [mentor], TARGET))
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (method.adapters[0].variance < before).all()
    assert losses[-1] < losses[0]


def test_flows_are_torchdistills():
    matrix = torchdistill_losses().FSPLoss.compute_fsp_matrix
    torch.testing.assert_close(
        flow(random(B, 5, 4, 4), random(B, 3, 4, 4, seed=1)),
        matrix(random(B, 5, 4, 4), random(B, 3, 4, 4, seed=1)),
    )


def test_fsp_by_loops():
    student, mentor = says(*EQUAL), says(*EQUAL, seed=9)
    method, lesson = teach("fsp", student, mentor)
    assert not list(method.parameters())  # equal widths need no adapters
    total = 0.0
    for first, second in (("stem", "stage1"), ("stage1", "stage2")):
        for b in range(B):
            grams = []
            for f in (student, mentor):
                one, other = same_size(f.features[first], f.features[second])
                pixels = [(i, j) for i in range(one.shape[2]) for j in range(one.shape[3])]
                grams.append(
                    torch.tensor([
                        [sum((one[b, d, i, j] * other[b, e, i, j]).item() for i, j in pixels) / len(pixels)
                         for e in range(other.shape[1])]
                        for d in range(one.shape[1])
                    ], dtype=torch.float64)
                )  # fmt: skip
            total += (grams[0] - grams[1]).square().mean().item() / B
    assert term(lesson).item() == pytest.approx(50 * total)


def test_fsp_adapts_where_widths_differ():
    student, mentor = says((8, 4, 4), (6, 4, 4)), says((8, 4, 4), (9, 4, 4), seed=9)
    method, _ = teach("fsp", student, mentor)
    assert [type(a).__name__ for a in method.adapters] == ["Identity", "Regressor"]


def test_fsp_needs_two_maps():
    with pytest.raises(ValueError, match="fsp needs two pairs of maps"):
        teach("fsp", one_map([1.0]), one_map([1.0]))[1]
