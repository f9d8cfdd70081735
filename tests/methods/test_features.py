"""FitNets, AT, NST, VID and FSP against torchdistill, against loops
in float64 written from the formulas, and on cases worked by hand."""

import math

import pytest
import torch

from classroomkd.methods import Outputs, create_method
from classroomkd.methods.features import mean_kernel
from classroomkd.methods.flow import flow
from classroomkd.methods.pairs import Regressor, same_size
from tests.methods.scenes import (
    EQUAL,
    LARGE,
    SMALL,
    TARGET,
    B,
    C,
    at,
    io,
    lesson_of,
    random,
    says,
    term,
    torchdistill_losses,
)

# ------------------------------------------------------------------------------------------ each


@pytest.mark.parametrize("options", [{}, {"hint": 1, "weight": 3.0}])
def test_fitnets(options):
    student, mentor = says(*SMALL), says(*LARGE, seed=9)
    method, lesson = lesson_of("fitnets", student, mentor, **options)
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
        lesson_of("fitnets", student, student, hint=3)


def test_regressor():
    adapter = Regressor(3, 5)
    assert adapter(torch.rand(2, 3, 4, 4)).shape == (2, 5, 4, 4)
    assert sum(p.numel() for p in adapter.parameters()) == 3 * 5 + 2 * 5


def test_at_is_torchdistills():
    losses = torchdistill_losses()
    student, mentor = says(*SMALL), says(*EQUAL, seed=9)
    pairs = {s: {"student": at(s), "teacher": at(s), "weight": 1} for s in ("stage1", "stage2")}
    expected = losses.ATLoss(pairs, mode="code")(io(student.features), io(mentor.features))
    torch.testing.assert_close(term(lesson_of("at", student, mentor)[1]), 1000 * expected)


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
    lesson = lesson_of("at", student, mentor, p=p, weight=7)[1]
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
    assert term(lesson_of("nst", student, mentor)[1]).item() == pytest.approx(50 * total / B)


def test_both_ways_of_the_kernel_agree():
    one, other = random(B, 6, 6), random(B, 7, 6, seed=1)
    products = (one @ other.mT).square().mean((1, 2))
    torch.testing.assert_close(mean_kernel(one, other), products)
    wide = mean_kernel(one[:, :, :5], other[:, :, :5])
    torch.testing.assert_close(wide, (one[:, :, :5] @ other[:, :, :5].mT).square().mean((1, 2)))


def test_vid_is_torchdistills():
    losses = torchdistill_losses()
    student, mentor = says(*SMALL), says(*EQUAL, seed=9)
    method, lesson = lesson_of("vid", student, mentor)
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
    method, _ = lesson_of("vid", student, mentor)
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
    method, lesson = lesson_of("fsp", student, mentor)
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
    assert term(lesson).item() == pytest.approx(total)


def test_fsp_by_formula():
    """Values of each sample and gradients, from sums over pixels, with the maps pooled by hand."""
    student, mentor = says(*EQUAL), says(*EQUAL, seed=9)
    leaves = [value.requires_grad_() for value in student.features.values()]

    def flows(outputs):
        stem, first, second = outputs.features.values()  # of 4, 4 and 2 x 2 pixels
        pooled = first.unflatten(3, (2, 2)).unflatten(2, (2, 2)).mean((3, 5))
        yield torch.einsum("bdhw,behw->bde", stem, first) / 16
        yield torch.einsum("bdhw,behw->bde", pooled, second) / 4

    expected = torch.zeros(B, dtype=torch.float64)
    for here, there in zip(flows(student), flows(mentor), strict=True):
        expected = expected + 3 * ((here - there) ** 2).sum((1, 2)) / here[0].numel()
    _, lesson = lesson_of("fsp", student, mentor, weight=3)
    torch.testing.assert_close(lesson.mentor_loss[0], expected.detach())
    found, gradients = (torch.autograd.grad(v, leaves) for v in (lesson.loss, expected.mean()))
    torch.testing.assert_close(found, gradients)


def test_fsp_adapts_where_widths_differ():
    student, mentor = says((8, 4, 4), (6, 4, 4)), says((8, 4, 4), (9, 4, 4), seed=9)
    method, _ = lesson_of("fsp", student, mentor)
    assert [type(a).__name__ for a in method.adapters] == ["Identity", "Regressor"]


def test_fsp_needs_two_maps():
    with pytest.raises(ValueError, match="fsp needs two pairs of maps"):
        lesson_of("fsp", one_map([1.0]), one_map([1.0]))[1]
