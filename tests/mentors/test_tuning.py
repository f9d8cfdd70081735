"""Tuning a frozen network changes its speed and nothing else."""

import json
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from classroomkd.engine.precision import autocast
from classroomkd.mentors import Mentor
from classroomkd.mentors.tuning import (
    Timing,
    TuningCache,
    Variant,
    apply_folds,
    cache_path,
    choose_variant,
    find_folds,
    fold_batch_norm,
    keep_freed_memory,
    list_variants,
    pick,
    tuned,
)
from classroomkd.mentors.tuning.cache import circumstances
from classroomkd.mentors.tuning.fold import answers, relative_error
from classroomkd.mentors.tuning.trial import Trial, difference
from classroomkd.models import build_model, list_models

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def images(count=2, seed=0, size=32):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def lived_in(network, seed=0) -> Any:
    """In eval mode, with statistics and scales of its own, as after training."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if type(module) in NORMS:
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(module.bias, 0, 0.3, generator=generator)
    return network.eval()


def zoo(name, classes=10):
    torch.manual_seed(0)
    return lived_in(build_model(name, classes))


def norms(network):
    return [name for name, module in network.named_modules() if isinstance(module, NORMS)]


def snapshot(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def assert_alike(network, other, batch, tolerance=1e-4, least=1):
    given, wanted = answers(other, batch), answers(network, batch)
    assert len(given) == len(wanted) >= least
    for a, b in zip(given, wanted, strict=True):
        assert a.shape == b.shape
        assert relative_error(a, b) <= tolerance


# Folding


def foldable(name, network):
    """How many of a zoo network's norms follow a convolution: all, but in pre-activation blocks."""
    return [n for n in norms(network) if not name.startswith("wrn") or n.endswith(".bn2")]


@pytest.mark.parametrize("name", list_models())
def test_the_zoo_folds(name):
    network = zoo(name)
    before = snapshot(network)
    folds = find_folds(network, images(1))
    assert sorted(fold.norm for fold in folds) == sorted(foldable(name, network))
    folded = apply_folds(network, folds)
    assert len(norms(folded)) == len(norms(network)) - len(folds)
    assert_alike(network, folded, images(1, seed=99), least=11)  # logits and stages, in three ways
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "efficientnet_b0"])
def test_torchvision_folds(name):
    torch.manual_seed(0)
    network = lived_in(getattr(torchvision.models, name)(num_classes=10))
    folded = fold_batch_norm(network, images())
    assert norms(network)
    assert not norms(folded)
    assert_alike(network, folded, images(seed=99, size=64))


class Block(nn.Module):
    """A convolution and its norm; subclasses say what else happens."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.bn = nn.BatchNorm2d(3)

    def forward(self, x):
        return self.bn(self.conv(x))


class UsedTwice(Block):
    def forward(self, x):
        out = self.conv(x)
        return self.bn(out) + out


class ChangedInPlace(Block):
    def forward(self, x):
        return self.bn(self.conv(x).relu_())


class Shown(Block):
    def forward(self, x):
        out = self.conv(x)
        return {"logits": self.bn(out), "map": out}


class ShownAsView(Block):
    def forward(self, x):
        out = self.conv(x)
        view = out.flatten(1)
        return {"logits": self.bn(out), "map": view}


class ConvCalledTwice(Block):
    def forward(self, x):
        return self.bn(self.conv(self.conv(x)))


class NormCalledTwice(Block):
    def forward(self, x):
        return self.bn(self.bn(self.conv(x)))


class NormReadElsewhere(Block):
    def forward(self, x):
        return self.bn(self.conv(x)) * self.bn.weight.sum()


class Staged(Block):
    """Folding would leave the logits alone, but not what `forward_stages` shows."""

    def forward_stages(self, x):
        out = self.conv(x)
        return {"stem": out, "logits": self.bn(out)}


@pytest.mark.parametrize(
    "block",
    [
        UsedTwice, ChangedInPlace, Shown, ShownAsView, ConvCalledTwice, NormCalledTwice,
        NormReadElsewhere, Staged,
    ],
)  # fmt: skip
def test_what_may_not_be_folded(block):
    network = lived_in(block())
    assert find_folds(network, images()) == ()
    assert_alike(network, fold_batch_norm(network, images()), images(seed=9), tolerance=0)


def test_a_norm_shared_by_two_convolutions_stays():
    norm = nn.BatchNorm2d(3)
    network = lived_in(nn.Sequential(nn.Conv2d(3, 3, 1), norm, nn.Conv2d(3, 3, 1), norm))
    assert find_folds(network, images()) == ()


def test_linear_layers_fold_where_their_channels_are_normalised():
    flat = nn.Sequential(nn.Linear(8, 5), nn.BatchNorm1d(5))
    tokens = nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5))  # normalises the tokens
    assert len(find_folds(lived_in(flat), torch.rand(4, 8))) == 1
    assert find_folds(lived_in(tokens), torch.rand(4, 5, 5)) == ()
    assert_alike(flat, fold_batch_norm(flat, torch.rand(4, 8)), torch.rand(6, 8))


class Standardised(nn.Conv2d):
    """A convolution that computes its weights at each call: folded ones would be undone."""

    def forward(self, x):
        return self._conv_forward(x, self.weight / self.weight.std(), self.bias)


def test_a_fold_that_fails_is_undone_and_the_others_are_kept():
    layers = []
    for kind in (nn.Conv2d, Standardised, nn.Conv2d, nn.Conv2d, Standardised):
        layers += [kind(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU()]
    network = lived_in(nn.Sequential(*layers))
    assert [fold.norm for fold in find_folds(network, images())] == ["1", "7", "10"]
    assert_alike(network, fold_batch_norm(network, images()), images(seed=9))


def test_a_network_in_training_mode_is_left_in_it():
    network = build_model("resnet8", 10).train()
    before = snapshot(network)
    assert not fold_batch_norm(network, images()).training
    assert all(module.training for module in network.modules())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())


# Variants


@pytest.mark.parametrize("name", ["wrn_16_2", "resnet8", "ShuffleNetV2"])
@pytest.mark.parametrize("variant", list_variants("bf16"), ids=str)
def test_variants_answer_alike(name, variant):
    network = zoo(name)
    before, batch = snapshot(network), images(4, seed=3)
    fast = tuned(network, variant, images())
    assert_alike(network, fast, batch, 1e-4 if variant.precision == "fp32" else 5e-2)
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key]), key
        assert value.dtype == before[key].dtype
    assert all(p.requires_grad for p in network.parameters())


def test_bfloat16_weights_are_what_autocast_makes_of_them():
    network = zoo("resnet20")
    fast = tuned(network, Variant("bf16"), images())
    assert fast.network.get_submodule("conv1").weight.dtype == torch.bfloat16
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fast(images(seed=2)), network(images(seed=2)))


def test_precision_does_not_depend_on_the_autocast_around():
    network = zoo("resnet8")
    fast = tuned(network, Variant("fp32", folded=True), images())
    with torch.autocast("cpu", torch.bfloat16):
        inside = fast(images())
    assert inside.dtype == torch.float32
    assert torch.equal(inside, fast(images()))


def test_a_tuned_network_is_still_a_mentor():
    network = zoo("resnet8")
    fast = tuned(network, Variant("bf16", channels_last=True, folded=True), images())
    mentor = Mentor(fast, "fast", class_map=torch.tensor([1, 0, *range(2, 10)]))
    assert mentor.classifier is not None
    assert mentor.classifier.weight.dtype == torch.float32
    assert torch.equal(mentor.classifier.weight[1], network.classifier.weight[0])
    assert mentor(images()).shape == (2, 10)
    stages = mentor.forward_stages(images(), preactivations=True)
    assert list(stages) == list(network.forward_stages(images(), preactivations=True))
    assert fast.stage_names == network.stage_names
    assert not any(p.requires_grad for p in fast.parameters())
    adapter = nn.Linear(64, 3)
    adapter(stages["pooled"].float()).sum().backward()  # no inference tensors
    assert adapter.weight.grad is not None


def test_a_network_without_stages_gets_none():
    fast = tuned(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), Variant(), images(size=2))
    assert not hasattr(fast, "forward_stages")
    assert not hasattr(fast, "classifier")
    with pytest.raises(AttributeError):
        fast.forward_stages(images())


def test_a_copy_of_a_tuned_network_answers_for_itself():
    fast = tuned(zoo("resnet8"), Variant("fp32"), images())
    answer = fast(images())
    copy: Any = deepcopy(fast)
    nn.init.zeros_(copy.network.classifier.weight)
    nn.init.zeros_(copy.network.classifier.bias)
    assert not copy(images()).any()
    assert torch.equal(fast(images()), answer)


def small(width=4, seed=0):
    torch.manual_seed(seed)
    layers = nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU()
    return lived_in(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()))


COMPILED = Variant(compiled=True, folded=True)


def test_compiled_networks_do_not_compete_for_the_compiler(monkeypatch):
    seen = []
    monkeypatch.setattr(torch, "compile", lambda run, **_: seen.append(run) or run)
    networks = [tuned(small(), Variant(compiled=True), images()) for _ in range(3)]
    for network in networks:
        network(images())
        network(images())
    assert len({id(run.__code__) for run in seen}) == len(seen) == 3


def test_another_shape_is_answered_without_the_compiler(monkeypatch):
    shapes = []

    def compile_(run, **_):
        return lambda batch: shapes.append(batch.shape) or run(batch)

    monkeypatch.setattr(torch, "compile", compile_)
    network = lived_in(small())
    fast = tuned(network, COMPILED, images())
    for count in (4, 3, 4, 1, 2):
        assert_alike(network, fast, images(count, seed=count))
    assert shapes == [(4, 3, 32, 32)] * 2


def test_weights_are_constants_while_it_is_compiled(monkeypatch):
    from torch._inductor import config

    seen = []
    monkeypatch.setattr(
        torch, "compile", lambda run, **_: lambda batch: seen.append(config.freezing) or run(batch)
    )
    tuned(small(), COMPILED, images())(images())
    assert seen == [True]
    assert not config.freezing


def test_where_nothing_can_be_compiled_a_network_runs_as_it_is(monkeypatch):
    calls = []

    def broken(run, **_):
        def fail(batch):
            calls.append(batch)
            raise RuntimeError("no C++ compiler\nand more")

        return fail

    monkeypatch.setattr(torch, "compile", broken)
    network = small()
    fast = tuned(network, COMPILED, images())
    with pytest.warns(UserWarning, match="uncompiled, .* RuntimeError: no C\\+\\+ compiler$"):
        first = fast(images())
    assert torch.equal(fast(images()), first)
    assert_alike(network, fast, images())
    assert len(calls) == 1
    strict = tuned(network, COMPILED, images(), strict=True)
    with pytest.raises(RuntimeError, match="compiler"):
        strict(images())


def test_modes_do_not_reach_into_a_tuned_network():
    class Doubling(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            return 2 * out if func is torch.conv2d else out

    network = lived_in(small())
    fast, wanted = tuned(network, Variant(folded=True), images()), network(images())
    with Doubling():
        assert not torch.allclose(network(images()), wanted)
        assert torch.allclose(fast(images()), wanted, atol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # those of the compiler are its own affair
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["resnet8", "wrn_16_2", "ShuffleNetV1", "ShuffleNetV2"])
def test_compiled_networks_answer_alike(name, precision):
    tolerance = 1e-4 if precision == "fp32" else 5e-2
    network = zoo(name)
    variant = Variant(precision, channels_last=True, compiled=True, folded=True)
    fast = tuned(network, variant, images(), strict=True)
    with autocast(torch.device("cpu"), precision):
        answer = fast(images(4))
        assert_alike(network, fast, images(4, seed=3), tolerance)
        assert_alike(network, fast, images(3, seed=3), tolerance)  # a smaller last batch
        assert torch.equal(fast(images(4)), answer)
    assert torch.equal(fast(images(4)), answer)


# Choosing


class FakeTime:
    """A clock that only a `Timed` network moves."""

    def __init__(self):
        self.seconds = 0.0
        self.passes = 0

    def __call__(self):
        return self.seconds


class Timed(nn.Module):
    """Takes 5 ms for contiguous images and 2 ms for others, and 1 ms less in bfloat16."""

    def __init__(self, time, spoil=0.0):
        super().__init__()
        self.time, self.spoil = [time], spoil
        self.linear = nn.Linear(12, 4)
        nn.init.normal_(self.linear.weight, generator=torch.Generator().manual_seed(0))

    def __deepcopy__(self, memo):
        copy = type(self)(self.time[0], self.spoil)
        copy.load_state_dict(self.state_dict())
        return copy

    def forward(self, x):
        self.time[0].passes += 1
        self.time[0].seconds += 0.005 if x.is_contiguous() else 0.002
        out = self.linear(x.flatten(1))
        if out.dtype == torch.bfloat16:
            self.time[0].seconds -= 0.001
            out = out + self.spoil * out.abs().amax()
        return out


PLAIN, LAST = Variant(), Variant(channels_last=True)
HALF = Variant("bf16", channels_last=True)


def choose(time, tmp_path, candidates=(PLAIN, LAST, HALF), network=None, **options):
    return choose_variant(
        network or Timed(time), images(4, size=2), list(candidates),
        cache=TuningCache(tmp_path / "tuning.json"), clock=time, **options,
    )  # fmt: skip


def test_the_fastest_is_chosen(tmp_path):
    choice = choose(FakeTime(), tmp_path)
    assert choice.variant == HALF
    times = {t.variant: t.milliseconds for t in choice.timings}
    assert times == pytest.approx({HALF: 1.0, LAST: 2.0, PLAIN: 5.0})
    assert list(times) == [HALF, LAST, PLAIN]
    assert not choice.cached
    assert not choice.rejected
    assert all(t.peak_bytes is None and t.compile_seconds == 0 for t in choice.timings)


def test_the_budget_bounds_the_rounds(tmp_path):
    def passes(budget):
        time = FakeTime()
        choose(time, tmp_path / str(budget), candidates=[PLAIN], budget_seconds=budget)
        return time.passes

    three_rounds = passes(0.0)
    assert passes(0.048) == three_rounds + 7  # ten rounds of 5 ms
    assert passes(1e9) == three_rounds + 27


@pytest.mark.parametrize("spoil", [0.2, float("nan")])
def test_a_candidate_with_other_results_is_rejected(tmp_path, spoil):
    time = FakeTime()
    choice = choose(time, tmp_path, network=Timed(time, spoil=spoil))
    assert choice.variant == LAST
    assert "differ" in choice.rejected[HALF]
    assert HALF not in [t.variant for t in choice.timings]


def test_a_candidate_that_raises_is_rejected(tmp_path):
    class Picky(Timed):
        def forward(self, x):
            if not x.is_contiguous():
                raise RuntimeError("view size is not compatible\nand more")
            return super().forward(x)

    time = FakeTime()
    choice = choose(time, tmp_path, network=Picky(time))
    assert choice.variant == PLAIN
    assert choice.rejected[LAST] == "RuntimeError: view size is not compatible"
    assert set(choice.rejected) == {LAST, HALF}


def test_a_timing_is_remembered_but_results_are_checked_again(tmp_path):
    first = choose(FakeTime(), tmp_path)
    time = FakeTime()
    again = choose(time, tmp_path)
    assert again.cached
    assert again.variant == HALF
    assert again.timings == first.timings
    assert time.passes == 4  # two batches, float32 and the chosen one
    spoilt = choose(time, tmp_path, network=Timed(time, spoil=0.2))
    assert spoilt.cached
    assert spoilt.variant == LAST
    assert list(spoilt.rejected) == [HALF]


def test_other_circumstances_are_measured_anew(tmp_path):
    choose(FakeTime(), tmp_path)
    assert not choose(FakeTime(), tmp_path, candidates=[PLAIN, LAST]).cached
    assert choose(FakeTime(), tmp_path).cached
    here = circumstances(small(), images())
    assert here != circumstances(small(width=5), images())
    assert here != circumstances(small(), images(3))
    assert here == circumstances(small(seed=1), images(seed=1))
    assert {"device", "threads", "torch"} < set(here)


def test_compiled_ones_must_earn_their_compilation():
    eager, compiled = Timing(PLAIN, 10.0), Timing(Variant(compiled=True), 8.0, compile_seconds=20)
    assert pick([eager, compiled], 0) == PLAIN
    assert pick([eager, compiled], 9_999) == PLAIN
    assert pick([eager, compiled], 10_001) == compiled.variant
    assert pick([Timing(PLAIN, 10.0), Timing(LAST, 9.0)], 0) == LAST


def test_compile_time_counts(tmp_path, monkeypatch):
    time, fast = FakeTime(), Variant(compiled=True, folded=True)

    def compile_(run, **_):
        time.seconds += 20

        def quick(*args, **options):
            answer = run(*args, **options)
            time.seconds -= 0.004
            return answer

        return quick

    monkeypatch.setattr(torch, "compile", compile_)
    choice = choose(time, tmp_path, candidates=[PLAIN, fast], steps_expected=1000)
    assert choice.variant == PLAIN
    assert {t.variant: t.compile_seconds for t in choice.timings}[fast] == pytest.approx(
        20, rel=0.01
    )
    later = choose(time, tmp_path, candidates=[PLAIN, fast], steps_expected=10_000)
    assert later.cached
    assert later.variant == fast


def test_a_compiler_that_fails_is_no_obstacle(tmp_path, monkeypatch):
    def broken(run, **_):
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(torch, "compile", broken)
    time, fast = FakeTime(), Variant(compiled=True)
    choice = choose(time, tmp_path, candidates=[fast], steps_expected=10**9)
    assert choice.variant == PLAIN
    assert choice.rejected == {fast: "RuntimeError: no C++ compiler"}
    assert not (tmp_path / "tuning.json").exists()


def test_top_classes_must_agree_but_for_ties():
    wanted = torch.zeros(100, 10)
    wanted[:, 0], wanted[:, 1] = 10.0, 9.8
    flipped = wanted.clone()
    flipped[:6, 1] = 10.2
    assert difference([flipped], [wanted], 5e-2) == "only 94 % of the images keep their top class"
    wanted[:, 1] = 9.95
    assert difference([flipped], [wanted], 5e-2) is None


def test_stages_count_as_results():
    class Shaky(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(12, 4)

        def forward(self, x):
            return self.linear(x.flatten(1))

        def forward_stages(self, x):
            odd = 1.0 if x.is_contiguous() else 1.5
            return {"stem": odd * x, "logits": self(x)}

    trial = Trial(Shaky(), images(4, size=2))
    assert trial.holds(PLAIN)
    assert not trial.holds(LAST)
    assert "differ" in trial.rejected[LAST]


# The cache


def test_the_cache_is_where_the_user_says(tmp_path, monkeypatch):
    monkeypatch.setenv("CLASSROOMKD_CACHE", str(tmp_path))
    assert cache_path() == tmp_path / "tuning.json"
    monkeypatch.delenv("CLASSROOMKD_CACHE")
    assert cache_path().parts[-3:] == (".cache", "classroomkd", "tuning.json")
    monkeypatch.setenv("CLASSROOMKD_CACHE", str(tmp_path))
    candidates, time = [PLAIN], FakeTime()
    assert not choose_variant(Timed(time), images(size=2), candidates, clock=time).cached
    assert choose_variant(Timed(time), images(size=2), candidates, clock=time).cached


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", '{"x": 3}', "\x00\xff"])
def test_a_damaged_cache_is_replaced(tmp_path, text):
    path = tmp_path / "tuning.json"
    path.write_text(text)
    assert not choose(FakeTime(), tmp_path).cached
    assert choose(FakeTime(), tmp_path).cached
    json.loads(path.read_text())


@pytest.mark.parametrize("value", [3, "abc", [3], [{}], [{"variant": {"speed": 1}}], {"a": 1}])
def test_an_entry_of_another_shape_is_replaced(tmp_path, value):
    choose(FakeTime(), tmp_path)
    path = tmp_path / "tuning.json"
    entries = json.loads(path.read_text())
    for entry in entries.values():
        entry["value"] = value
    path.write_text(json.dumps(entries))
    assert not choose(FakeTime(), tmp_path).cached
    assert choose(FakeTime(), tmp_path).cached


def test_writers_do_not_lose_each_others_entries(tmp_path):
    def write(number):
        TuningCache(tmp_path / "tuning.json").put({"number": number}, number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(40)))
    cache = TuningCache(tmp_path / "tuning.json")
    assert [cache.get({"number": number}) for number in range(40)] == list(range(40))
    assert not list(tmp_path.glob("*.part"))


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path):
    (tmp_path / "file").write_text("")
    cache = TuningCache(tmp_path / "file" / "tuning.json")
    cache.put({"a": 1}, 1)
    assert cache.get({"a": 1}) is None


# Memory


FAULTS = """
import resource, torch
from classroomkd.mentors.tuning import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(16, 2**20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

mapped = faults()
assert keep_freed_memory()
faults()
print(mapped, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator alone is tuned")
def test_freed_memory_is_kept():
    """In a process of its own, for it lasts as long as that: pages are mapped once."""
    done = subprocess.run(
        [sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True
    )
    mapped, kept = map(int, done.stdout.split())
    assert kept < mapped / 10


def test_other_c_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert keep_freed_memory() is False


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu(tmp_path):
    network, batch = zoo("resnet8").cuda(), images(64).cuda()
    cache = TuningCache(tmp_path / "tuning.json")
    choice = choose_variant(network, batch, list_variants("bf16"), cache=cache)
    assert not choice.rejected
    assert all((timing.peak_bytes or 0) > batch.nbytes for timing in choice.timings)
    assert_alike(network, tuned(network, choice.variant, batch), batch, 5e-2)
