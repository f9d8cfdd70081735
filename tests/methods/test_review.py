"""ReviewKD against torchdistill, against a loop written from the formulas, and by hand."""

import warnings

import pytest
import torch
import torch.nn.functional as F

from classroomkd.methods import Outputs, create_method
from classroomkd.methods.review import Fusion, hierarchical_context
from tests.methods.scenes import random, term, torchdistill_losses
from tests.methods.test_activations import (
    FAMILIES,
    TARGET,
    B,
    assert_teaches_all_families,
    lesson_of,
    one_epoch,
    says,
    teach_in_epoch,
)

SMALL = (5, 8, 8), (6, 4, 4), (7, 2, 2)
LARGE = (8, 16, 16), (9, 4, 4), (10, 3, 3)


def torchdistill_fusion():
    torchdistill_losses()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapper = pytest.importorskip("torchdistill.models.wrapper")
    return wrapper.AttentionBasedFusion


def normalised(x):
    """Batch normalisation with the batch's statistics, scale 1 and shift 0."""
    x = x - x.mean((0, 2, 3), keepdim=True)
    return x / (x.square().mean((0, 2, 3), keepdim=True) + 1e-5).sqrt()


def nearest(x, height, width):
    """A map resized by its nearest pixels, by indices."""
    rows = [i * x.shape[2] // height for i in range(height)]
    columns = [j * x.shape[3] // width for j in range(width)]
    return x[:, :, rows][:, :, :, columns]


def context(one, other):
    """The weighted mean over levels of a pair's mean squared error, for each sample."""
    height = one.shape[2]
    values, weights = [((one - other) ** 2).mean((1, 2, 3))], [1.0]
    for level in (4, 2, 1):
        if level < height:
            a, b = (F.adaptive_avg_pool2d(x, level) for x in (one, other))
            values.append(((a - b) ** 2).mean((1, 2, 3)))
            weights.append(weights[-1] / 2)
    return sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)


def review_by_loop(method, student, mentor, suffix=""):
    """The sum over pairs, from the deepest up, for each sample."""
    stages = ["stage1", "stage2", "stage3", "pooled"]
    total, handed = torch.zeros(B, dtype=torch.float64), None
    for i in (3, 2, 1, 0):
        part = method.adapters[i]
        if i == 3:
            s, t = (o.features["pooled"][:, :, None, None] for o in (student, mentor))
        else:
            s, t = student.features[stages[i] + suffix], mentor.features[f"{stages[i]}_preact"]
        x = normalised(torch.einsum("od,bdhw->bohw", part.narrow[0].weight[:, :, 0, 0], s))
        if handed is not None:
            y = nearest(handed, *x.shape[2:])
            both = torch.cat([x, y], 1)
            z = torch.einsum("od,bdhw->bohw", part.attend.weight[:, :, 0, 0], both)
            z = 1 / (1 + torch.exp(-(z + part.attend.bias[:, None, None])))
            x = z[:, 0:1] * x + z[:, 1:2] * y
        handed = nearest(x, *t.shape[2:])
        predicted = normalised(F.conv2d(handed, part.predict[0].weight, padding=1))
        total = total + context(predicted, t)
    return total


@pytest.mark.parametrize("student", FAMILIES)
def test_pairs_of_different_architectures(student):
    assert_teaches_all_families("reviewkd", student)


@pytest.mark.parametrize(
    ("options", "suffix"),
    [({}, ""), ({"preactivations": True}, "_preact")],
    ids=["after", "before"],
)
def test_reviewkd_by_loop(options, suffix):
    """The student's maps are those after the ReLU, the teacher's those before it."""
    student, mentor = says(*SMALL), says(*LARGE, seed=9)
    read = [f"stage{i}{suffix}" for i in (1, 2, 3)]
    leaves = [student.features[name].requires_grad_() for name in (*read, "pooled")]
    method, lesson = lesson_of("reviewkd", student, mentor, weight=0.6, **options)
    teachers = ["stage1_preact", "stage2_preact", "stage3_preact", "pooled"]
    assert method.names(student, mentor) == list(zip([*read, "pooled"], teachers, strict=True))
    expected = 0.6 * review_by_loop(method, student, mentor, suffix)
    torch.testing.assert_close(lesson.mentor_loss[0], expected.detach())
    learnt = [*leaves, *(p for p in method.parameters() if p.ndim == 4)]  # of convolutions
    found, gradients = (torch.autograd.grad(v, learnt) for v in (lesson.loss, expected.mean()))
    torch.testing.assert_close(found, gradients)


def test_defaults_are_the_benchmarks_on_cifar():
    method = create_method("reviewkd")
    assert (method.weight, method.warmup_epochs, method.preactivations) == (5.0, 20.0, False)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8])
def test_contexts_are_torchdistills(size):
    losses = torchdistill_losses()
    one, other = random(B, 3, size, size), random(B, 3, size, size, seed=1)
    oracle = losses.HierarchicalContextLoss("s", "output", "t", "output")
    expected = oracle({"s": {"output": (one, None)}}, {"t": {"output": other}})
    torch.testing.assert_close(hierarchical_context(one, other).mean(), expected)


def test_weights_of_the_levels_by_hand():
    # A checkerboard of 1 and -1 with mean 0.5: at full size and at 4 x 4, 2 x 2 and 1 pixels.
    board = torch.tensor([1.0, -1.0]).repeat(1, 1, 8, 4)
    difference = board + 0.5
    pooled = 0.25  # the mean of every block is 0.5
    full = (1.5**2 + 0.5**2) / 2
    expected = (full + pooled * (1 / 2 + 1 / 4 + 1 / 8)) / (1 + 1 / 2 + 1 / 4 + 1 / 8)
    found = hierarchical_context(difference, torch.zeros_like(difference))
    torch.testing.assert_close(found, torch.tensor([expected]))
    # 4 x 4: the level of 4 pixels is the map itself, and is not used.
    small = difference[:, :, :4, :4]
    expected = (full + pooled * (1 / 2 + 1 / 4)) / (1 + 1 / 2 + 1 / 4)
    found = hierarchical_context(small, torch.zeros_like(small))
    torch.testing.assert_close(found, torch.tensor([expected]))
    one = torch.full((1, 1, 1, 1), 3.0)
    torch.testing.assert_close(hierarchical_context(one, 0 * one), torch.tensor([9.0]))


def copy_into(oracle, part):
    oracle.conv1.load_state_dict(part.narrow.state_dict())
    oracle.conv2.load_state_dict(part.predict.state_dict())
    if part.attend is not None:
        oracle.attention_conv[0].load_state_dict(part.attend.state_dict())
    return oracle


@pytest.mark.parametrize("fuses", [True, False])
def test_fusion_is_torchdistills(fuses):
    """Where the student's map has the size of the teacher's, which it takes for granted."""
    part = Fusion(5, 6, 8, fuses=fuses).double()
    oracle = copy_into(torchdistill_fusion()(5, 6, 8, fuses).double(), part)
    x, deeper = random(B, 5, 8, 8), random(B, 6, 4, 4, seed=1) if fuses else None
    found = part(x, deeper, torch.Size((8, 8)))
    for one, other in zip(found, oracle(x, deeper, 8), strict=True):
        torch.testing.assert_close(one, other)


def test_deep_stages_teach_shallow_ones():
    student, mentor = says(*SMALL), says(*LARGE, seed=9)
    pooled = student.features["pooled"].requires_grad_()
    method, _ = lesson_of("reviewkd", student, mentor)
    maps = method.maps(student, mentor)
    shallowest = method.distances(maps)[-1]
    (gradient,) = torch.autograd.grad(shallowest.sum(), pooled)
    assert gradient.any()


def test_the_width_is_bounded():
    wide = says((5, 4, 4), (600, 2, 2))
    method, _ = lesson_of("reviewkd", wide, says(*LARGE[:2], seed=9))
    assert [part.narrow[0].out_channels for part in method.adapters] == [512] * 3
    method, _ = lesson_of("reviewkd", says(*SMALL), says(*LARGE, seed=9))
    assert [part.narrow[0].out_channels for part in method.adapters] == [7] * 4


def test_the_weight_rises():
    student, mentor = says(*SMALL), says(*LARGE, seed=9)
    method, lesson = lesson_of("reviewkd", student, mentor)
    full = term(lesson)
    for epoch, share in [(0, 0.05), (9, 0.5), (19, 1.0), (100, 1.0)]:
        scores = teach_in_epoch(method, student, mentor, epoch, 240)
        torch.testing.assert_close(term(scores), share * full)
        torch.testing.assert_close(scores.task_loss, lesson.task_loss)
    method, _ = lesson_of("reviewkd", student, mentor, warmup_epochs=0)
    torch.testing.assert_close(term(teach_in_epoch(method, student, mentor, 0, 240)), full)


def test_pairs_by_hand():
    student, mentor = says(*SMALL), says(*LARGE, seed=9)
    for suffix in ("", "_preact"):
        pairs = [(f"stage{i}{suffix}", f"stage{i}_preact") for i in (1, 2, 3)]
        method, lesson = lesson_of("reviewkd", student, mentor, pairs=pairs)
        assert method.names(student, mentor) == [*pairs, ("pooled", "pooled")]
        found = lesson_of("reviewkd", student, mentor, preactivations=bool(suffix))[1]
        assert torch.equal(lesson.loss, found.loss)


def test_samples_are_taught_one_by_one():
    student, mentor = says(*SMALL), says(*LARGE, seed=9)
    method, _ = lesson_of("reviewkd", student, mentor)
    method.eval()
    whole = method(student, [mentor], TARGET).mentor_loss
    for i in range(B):
        here, there = (
            Outputs(o.logits[i : i + 1], {k: v[i : i + 1] for k, v in o.features.items()})
            for o in (student, mentor)
        )
        alone = method(here, [there], TARGET[i : i + 1]).mentor_loss
        torch.testing.assert_close(alone[:, 0], whole[:, i])


def test_what_is_missing_is_named():
    student, mentor = says(*SMALL), says(*LARGE, seed=9)
    bare = create_method("reviewkd")
    maps = {k: v for k, v in student.features.items() if k != "pooled"}
    with pytest.raises(ValueError, match="reviewkd needs the feature 'pooled'.*forward_stages"):
        bare.setup(Outputs(student.logits, maps), [mentor])
    with pytest.raises(RuntimeError, match=r"reviewkd has no adapters yet: call method\.setup"):
        bare(student, [mentor], TARGET)
    one = Outputs(student.logits[:1], {k: v[:1] for k, v in student.features.items()})
    method, _ = lesson_of("reviewkd", student, mentor)
    with pytest.raises(ValueError, match="two samples in a batch"):
        method(one, [one], TARGET[:1])


def test_a_run_on_digits(digits_recipe, tmp_path):
    one_epoch({"name": "reviewkd"}, digits_recipe, tmp_path)
