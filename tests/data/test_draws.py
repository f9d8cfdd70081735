import multiprocessing
import os
import subprocess
import sys
from hashlib import blake2b

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from classroomkd.data import Draws, permutation

N = 100_000
PINNED = [[1893481938, 608130135], [481533050, 898286812]]
PINNED_ORDER = [5, 2, 6, 0, 1, 4, 3, 7]
INDEX = torch.arange(N)


def reference_bits(seed, epoch, index, stream, column):
    """The same hash in Python's unbounded integers, one number at a time."""
    golden, top = 0x9E3779B97F4A7C15, 2**64

    def key(text):
        return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")

    def mix(z):
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % top
        z = (z ^ z >> 27) * 0x94D049BB133111EB % top
        return z ^ z >> 31

    sample = mix((index * golden + key(f"{seed}/{epoch}")) % top)
    return mix((sample + column * golden + key(stream)) % top)


@given(
    seed=st.integers(-(2**70), 2**70),
    epoch=st.integers(0, 10_000),
    index=st.integers(0, 2**62),
    stream=st.text(max_size=8),
)
def test_equals_the_reference(seed, epoch, index, stream):
    draws = Draws(seed, epoch, torch.tensor([index]))
    uniform, integers = draws.uniform(stream, 3)[0], draws.integers(stream, -5, 1000, 3)[0]
    for column in range(3):
        bits = reference_bits(seed, epoch, index, stream, column)
        assert uniform[column].item() == (bits >> 40) / 2**24
        assert integers[column].item() == ((bits >> 32) * 1005 >> 32) - 5


def test_numbers_never_change():
    """Stored mentor outputs are keyed by views: a new release must draw the same numbers."""
    draws = Draws(7, 3, torch.tensor([0, 49_999]))
    assert draws.integers("crop", 0, 2**31, 2).tolist() == PINNED
    assert permutation(8, seed=7, epoch=3).tolist() == PINNED_ORDER


@given(rows=st.lists(st.integers(0, 999), min_size=1, max_size=50))
def test_a_sample_draws_alike_in_any_batch(rows):
    whole = Draws(1, 2, torch.arange(1000))
    part = Draws(1, 2, torch.tensor(rows))
    assert torch.equal(part.uniform("x", 2), whole.uniform("x", 2)[rows])
    assert torch.equal(part.integers("x", 3, 9), whole.integers("x", 3, 9)[rows])


def test_more_columns_do_not_change_the_first():
    draws = Draws(1, 2, torch.arange(10))
    assert torch.equal(draws.uniform("x", 5)[:, :2], draws.uniform("x", 2))


def test_independent_of_the_global_generator():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = Draws(1, 2, torch.arange(10)).uniform("x")
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(Draws(1, 2, torch.arange(10)).uniform("x"), first)


def _draw(seed):
    return Draws(seed, 0, torch.arange(5)).uniform("x").flatten().tolist()


def test_same_numbers_in_a_forked_process():
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(_draw, [1, 2, 3]) == [_draw(1), _draw(2), _draw(3)]


def test_same_numbers_in_a_new_process_with_another_hash_seed():
    code = (
        "import torch; from classroomkd.data.draws import Draws;"
        "print(Draws(1, 0, torch.arange(5)).uniform('x').flatten().tolist())"
    )
    environment = os.environ | {"PYTHONHASHSEED": "12345", "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == str(_draw(1))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_same_numbers_on_the_gpu():
    cpu, gpu = Draws(1, 2, INDEX), Draws(1, 2, INDEX.cuda())
    assert torch.equal(gpu.uniform("x", 2).cpu(), cpu.uniform("x", 2))
    assert torch.equal(gpu.integers("x", 0, 9).cpu(), cpu.integers("x", 0, 9))


@pytest.mark.parametrize("seed", [0, 1, -1, 2**63])
@pytest.mark.parametrize("epoch", [0, 1, 199])
def test_uniform_is_uniform(seed, epoch):
    values = Draws(seed, epoch, INDEX).uniform("x")[:, 0].double()
    assert values.min() >= 0
    assert values.max() < 1
    assert values.mean().item() == pytest.approx(0.5, abs=5 * (1 / 12 / N) ** 0.5)
    assert values.var().item() == pytest.approx(1 / 12, abs=5 * (1 / 180 / N) ** 0.5)
    counts = torch.histc(values, bins=256, min=0, max=1)
    chi_square = ((counts - N / 256) ** 2 / (N / 256)).sum().item()
    assert abs(chi_square - 255) < 5 * (2 * 255) ** 0.5


def test_integers_are_uniform_within_their_bounds():
    values = Draws(0, 0, INDEX).integers("x", -4, 5)[:, 0]
    counts = torch.bincount(values + 4, minlength=9).double()
    assert len(counts) == 9
    assert abs(((counts - N / 9) ** 2 / (N / 9)).sum().item() - 8) < 5 * 16**0.5


def pairs():
    base = Draws(0, 0, INDEX)
    x = base.uniform("x")[:, 0]
    yield "neighbours", x[:-1], x[1:]
    yield "epochs", x, Draws(0, 1, INDEX).uniform("x")[:, 0]
    yield "seeds", x, Draws(1, 0, INDEX).uniform("x")[:, 0]
    yield (
        "seed and epoch swapped",
        Draws(1, 2, INDEX).uniform("x")[:, 0],
        Draws(2, 1, INDEX).uniform("x")[:, 0],
    )
    yield "streams", x, base.uniform("y")[:, 0]
    yield "columns", *base.uniform("x", 2).unbind(1)
    # Index and column advance by the same constant before mixing; that must not show.
    yield "diagonal", base.uniform("x", 2)[:-1, 1], x[1:]


@pytest.mark.parametrize(("a", "b"), [pytest.param(a, b, id=name) for name, a, b in pairs()])
def test_unrelated_numbers(a, b):
    assert abs(torch.corrcoef(torch.stack([a, b]).double())[0, 1]) < 5 / N**0.5
    cells = torch.bincount((a * 16).long() * 16 + (b * 16).long(), minlength=256).double()
    expected = len(a) / 256
    assert abs(((cells - expected) ** 2 / expected).sum().item() - 255) < 5 * 510**0.5


@pytest.mark.parametrize(("low", "high"), [(0, 0), (3, 2), (0, 2**31 + 1)])
def test_impossible_bounds(low, high):
    with pytest.raises(ValueError, match="cannot draw integers"):
        Draws(0, 0, torch.arange(2)).integers("x", low, high)


@pytest.mark.parametrize("index", [torch.zeros(2), torch.zeros(2, 2, dtype=torch.int64)])
def test_wrong_index(index):
    with pytest.raises(ValueError, match=r"index must be int64 \[B\]"):
        Draws(0, 0, index)


@given(n=st.integers(0, 300), seed=st.integers(0, 99), epoch=st.integers(0, 99))
def test_permutation_holds_every_number_once(n, seed, epoch):
    order = permutation(n, seed, epoch)
    assert order.dtype == torch.int64
    assert torch.equal(order.sort().values, torch.arange(n))
    assert torch.equal(order, permutation(n, seed, epoch))


def test_permutations_differ():
    orders = [permutation(1000, s, e, t) for s in (0, 1) for e in (0, 1) for t in ("order", "x")]
    for i, a in enumerate(orders):
        for b in orders[:i]:
            assert (a == b).sum() < 10
