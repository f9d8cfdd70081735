"""What is decoded is what was encoded: the true class exactly, the others to float16 or in mass."""

import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from classroomkd.core import classroom_loss
from classroomkd.errors import ClassroomError
from classroomkd.mentors.bank import Shard, bytes_per_sample, check_range, decode, encode, rows
from classroomkd.mentors.bank.shards import read_shard, write_shard


def draw(count, classes, scale=4.0, seed=0, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, classes, generator=generator) * scale + shift
    return logits, torch.randint(classes, (count,), generator=generator)


def softmax(logits, temperature=1.0):
    """In NumPy and float64."""
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    weights = np.exp(scaled - scaled.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True)


def kl(mentor, student, temperature):
    p, q = softmax(mentor, temperature), softmax(student, temperature)
    terms = np.where(p > 0, p * (np.log(np.maximum(p, 1e-300)) - np.log(np.maximum(q, 1e-300))), 0)
    return terms.sum(1)


def assert_true_class_exact(decoded, logits, target):
    """Within 1e-6, and the rounding of float32 logits of this size and spread, relative."""
    decoded, logits = decoded.numpy(), logits.numpy()
    pick = np.arange(len(target)), target.numpy()
    found, wanted = softmax(decoded)[pick], softmax(logits)[pick]
    rounding = np.finfo(np.float32).eps * (np.abs(logits).max(1) + np.ptp(logits, axis=1))
    tiny = np.finfo(np.float32).tiny  # below it, float32 itself is less exact
    assert (np.abs(found - wanted) <= (1e-6 + rounding) * wanted + tiny).all()


cases = st.fixed_dictionaries(
    {
        "count": st.integers(1, 20),
        "classes": st.integers(2, 300),
        "scale": st.floats(1, 20),
        "seed": st.integers(0, 10_000),
        "shift": st.sampled_from([0.0, -30.0, 300.0]),
    }
)


@settings(deadline=None, max_examples=60)
@given(cases)
def test_full_round_trip(case):
    logits, target = draw(**case)
    decoded = decode(encode(logits, target), target, case["classes"])
    assert decoded.dtype == torch.float32
    assert_true_class_exact(decoded, logits, target)
    spread = logits.amax(1) - logits.amin(1)
    # half of float16's last digit, and float32's of the raw logits, for all but the true class
    bound = spread * 2.0**-11 + logits.abs().amax(1) * 2.0**-22 + 1e-6
    assert ((decoded - logits).abs() <= bound[:, None]).all()


@settings(deadline=None, max_examples=60)
@given(cases, st.sampled_from([1.0, 4.0, 13.0]))
def test_full_keeps_divergences(case, temperature):
    mentor, target = draw(**case)
    student, _ = draw(case["count"], case["classes"], case["scale"], case["seed"] + 1)
    decoded = decode(encode(mentor, target), target, case["classes"])
    live, banked = (kl(m.numpy(), student.numpy(), temperature) for m in (mentor, decoded))
    assert (np.abs(live - banked) <= 1e-3 * np.maximum(1, live)).all()


@settings(deadline=None, max_examples=60)
@given(cases, st.integers(1, 20))
def test_top_keeps_mass(case, top):
    logits, target = draw(**case)
    classes = case["classes"]
    decoded = decode(encode(logits, target, top), target, classes)
    assert_true_class_exact(decoded, logits, target)
    wanted, found = softmax(logits.numpy()), softmax(decoded.numpy())
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-12)
    for row in range(case["count"]):
        true = int(target[row])
        order = [c for c in np.argsort(-logits[row].numpy(), kind="stable") if c != true]
        kept, left = order[:top], order[top:]
        resolution = 1e-4 + 2.0**-20 * np.abs(logits[row].numpy()).max()
        np.testing.assert_allclose(
            found[row, kept].sum(), wanted[row, kept].sum(), rtol=20 * resolution
        )
        if top < classes - 1:
            np.testing.assert_allclose(
                found[row, left].sum(), wanted[row, left].sum(), rtol=20 * resolution, atol=1e-4
            )
            assert np.ptp(found[row, left]) <= 1e-12  # spread evenly


@pytest.mark.parametrize("classes", [2, 5, 256, 257, 40_000])
def test_numbers_of_classes(classes):
    logits, target = draw(8, classes, seed=classes)
    target[0] = classes - 1
    logits[1, classes - 1] = 99.0  # a place that needs all its bits
    target[1] = 0
    for top in (None, 1, 3):
        decoded = decode(encode(logits, target, top), target, classes)
        assert_true_class_exact(decoded, logits, target)
        assert int(decoded[1].argmax()) == classes - 1


def test_top_of_all_classes_is_full():
    logits, target = draw(4, 6)
    for top in (5, 6, 100):
        assert set(encode(logits, target, top)) == {"logits", "odds", "peak"}
    stored = encode(logits, target, 4)
    assert stored["value"].shape == (4, 4)
    # a single class is left: its mass is its own
    assert torch.allclose(decode(stored, target, 6), logits, atol=1e-2)


@pytest.mark.parametrize("top", [None, 3])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_samples_without_numbers_stay_silent(top, bad):
    logits, target = draw(6, 10)
    logits[1, target[1]] = bad
    logits[2, (target[2] + 1) % 10] = bad
    logits[3] = bad
    decoded = decode(encode(logits, target, top), target, 10)
    assert decoded[1:4].isnan().all()
    kept = torch.tensor([0, 4, 5])
    assert decoded[kept].isfinite().all()
    alone = decode(encode(logits[kept], target[kept], top), target[kept], 10)
    assert torch.equal(decoded[kept], alone)

    student = torch.zeros(6, 10, requires_grad=True)
    strong = decoded.clone()
    strong[kept, target[kept]] += 50  # would teach anybody
    lesson = classroom_loss(student, strong[None], target)
    assert lesson.active[0].tolist() == [True, False, False, False, True, True]
    assert lesson.loss.isfinite()


@pytest.mark.parametrize("top", [None, 3])
@pytest.mark.parametrize("scale", [0.0, 1e-30, 5_000.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_extreme_scales(top, scale, dtype):
    logits, target = draw(50, 10)
    logits = (logits.clamp(-6, 6) * scale).to(dtype)
    decoded = decode(encode(logits, target, top), target, 10)
    assert decoded.isfinite().all()
    assert_true_class_exact(decoded, logits.double(), target)


def test_confident_mentors_keep_their_odds():
    logits = torch.tensor([[60.0, 0.0, 1.0], [-60.0, 0.0, 1.0]])
    target = torch.zeros(2, dtype=torch.int64)
    for top in (None, 1):
        stored = encode(logits, target, top)
        exact = logits[:, 0].double() - logits[:, 1:].double().logsumexp(1)
        assert torch.equal(stored["odds"], exact.float())
        decoded = decode(stored, target, 3)
        assert torch.allclose(decoded.softmax(1)[1, 0].log(), exact[1].float(), rtol=1e-6)
        # 1 - p of the true class, which a float32 softmax would round to 0
        other = decoded[0, 1:].logsumexp(0) - decoded[0, 0]
        assert torch.allclose(other, -exact[0].float(), rtol=1e-6)


def test_logits_beyond_float16_are_refused():
    logits, target = torch.zeros(4, 10), torch.zeros(4, dtype=torch.int64)
    logits[:, 1] = 60_000.0
    logits[2, 2] = -60_000.0
    logits[3] = float("nan")
    with pytest.raises(ClassroomError, match="1 of 4 samples .* 65504 .* live"):
        check_range(encode(logits, target))
    decoded = decode(encode(logits, target, top=1), target, 10)  # the far class is not kept
    assert torch.allclose(decoded[:2].amax(1), torch.tensor(60_000.0))
    with pytest.raises(ClassroomError, match="1 of 1 samples"):
        check_range(encode(torch.tensor([[1e300, 0.0, 1e300]], dtype=torch.float64), target[:1]))


@pytest.mark.parametrize("top", [None, 4])
def test_several_mentors_at_once(top):
    _, target = draw(7, 12)
    stored = [encode(draw(7, 12, seed=seed)[0], target, top) for seed in range(3)]
    stacked = {name: torch.stack([each[name] for each in stored]) for name in stored[0]}
    together = decode(stacked, target, 12)
    assert torch.equal(together, torch.stack([decode(each, target, 12) for each in stored]))


@pytest.mark.parametrize("top", [None, 4])
def test_decode_reads_nothing_back(top):
    """Meta tensors have no values, so any look at one fails."""
    logits, target = draw(7, 12)
    stored = {name: tensor.to("meta") for name, tensor in encode(logits, target, top).items()}
    picked = rows(stored, torch.tensor([2, 0], device="meta"))
    assert decode(picked, target[:2].to("meta"), 12).shape == (2, 12)


@pytest.mark.parametrize("top", [None, 4])
def test_decode_leaves_what_is_stored(top):
    logits, target = draw(7, 12)
    stored = encode(logits, target, top)
    before = {name: tensor.clone() for name, tensor in stored.items()}
    first = decode(stored, target, 12)
    assert all(torch.equal(stored[name], before[name]) for name in before)
    assert torch.equal(first, decode(stored, target, 12))


@pytest.mark.parametrize("top", [None, 1, 10, 300])
@pytest.mark.parametrize("classes", [3, 100, 1000])
def test_bytes_per_sample(classes, top):
    stored = encode(*draw(5, classes), top)
    index_bytes = 8
    written = sum(tensor.nbytes for tensor in stored.values()) // 5 + index_bytes
    assert bytes_per_sample(classes, top) == written


def test_wrong_arguments():
    logits, target = draw(4, 6)
    for arguments in [(logits[0], target), (logits[:, :1], target), (logits, target[:3])]:
        with pytest.raises(ValueError, match="expected, not"):
            encode(*arguments)
    with pytest.raises(ValueError, match="top must be 1"):
        encode(logits, target, top=0)
    with pytest.raises(ValueError, match="6 classes are stored, not 7"):
        decode(encode(logits, target), target, 7)


@pytest.mark.parametrize("top", [None, 10])
def test_speed(top, tmp_path):
    count, classes = 50_000, 100
    logits, target = draw(count, classes)
    write_shard(tmp_path / "shard", Shard(torch.arange(count), encode(logits, target, top)))
    order = torch.randperm(count, generator=torch.Generator().manual_seed(1))

    def seconds():
        start = time.perf_counter()
        shard = read_shard(tmp_path / "shard")
        for batch in order.split(64):
            decode(rows(shard.stored, shard.positions(batch)), target[batch], classes)
        return time.perf_counter() - start

    assert count / min(seconds() for _ in range(3)) > 50_000
