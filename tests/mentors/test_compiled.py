"""A compiled network answers as the network does, or the network answers itself."""

import pytest
import torch
from torch import nn

from classroomkd.engine.precision import autocast
from classroomkd.mentors import Mentor
from classroomkd.mentors.compiled import Compiled
from classroomkd.mentors.fold import relative_error, tensors_of

from .test_fold import images, lived_in, zoo


def small():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()
    return lived_in(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()))


def test_compiled_networks_do_not_compete_for_the_compiler(monkeypatch):
    seen = []
    monkeypatch.setattr(torch, "compile", lambda run, **_: seen.append(run) or run)
    networks = [Compiled(small()) for _ in range(3)]
    for network in networks:
        network(images())
        network(images())
    assert len({id(run.__code__) for run in seen}) == len(seen) == 3


@torch.no_grad()
def test_another_shape_or_precision_is_answered_without_the_compiler(monkeypatch):
    shapes = []

    def compile_(run, **_):
        return lambda batch: shapes.append(tuple(batch.shape)) or run(batch)

    monkeypatch.setattr(torch, "compile", compile_)
    network = small()
    fast = Compiled(network)
    for count in (4, 3, 4, 1, 2):
        assert torch.equal(fast(images(count)), network(images(count)))
    with autocast(torch.device("cpu"), "bf16"):
        assert torch.equal(fast(images(4)), network(images(4)))
    assert shapes == [(4, 3, 32, 32)] * 3  # the first is checked


def test_weights_are_constants_while_it_is_compiled(monkeypatch):
    from torch._inductor import config

    seen = []
    monkeypatch.setattr(
        torch, "compile", lambda run, **_: lambda batch: seen.append(config.freezing) or run(batch)
    )
    fast = Compiled(small())
    fast(images())
    assert seen[0] is True
    assert not config.freezing


def broken(run, **_):
    def fail(batch):
        raise RuntimeError("no C++ compiler\nand more")

    return fail


def wrong(run, **_):
    return lambda batch: 1.01 * run(batch)


@pytest.mark.parametrize(
    ("compiler", "why"),
    [(broken, "RuntimeError: no C\\+\\+ compiler$"), (wrong, "results differ by 1.0e-02$")],
)
def test_a_compiler_that_fails_is_no_obstacle(monkeypatch, compiler, why):
    calls = []
    monkeypatch.setattr(
        torch, "compile", lambda run, **options: calls.append(run) or compiler(run, **options)
    )
    network = small()
    fast = Compiled(network)
    with pytest.warns(UserWarning, match=f"uncompiled, .*{why}"):
        first = fast(images())
    assert torch.equal(fast(images()), first)
    assert torch.equal(first, network(images()))
    assert len(calls) == 1


def test_a_fast_network_is_still_a_mentor(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda run, **_: run)
    network = zoo("resnet8")
    mentor = Mentor(network, "fast", class_map=torch.tensor([1, 0, *range(2, 10)]))
    plain = mentor.forward_stages(images(), preactivations=True)
    for compiled in (False, True):
        mentor.speed_up(images(), compiled=compiled)
        assert mentor.classifier is not None
        assert torch.equal(mentor.classifier.weight[1], network.classifier.weight[0])
        stages = mentor.forward_stages(images(), preactivations=True)
        assert list(stages) == list(plain)
        for name, stage in stages.items():
            torch.testing.assert_close(stage, plain[name], rtol=1e-3, atol=1e-4)
        adapter = nn.Linear(64, 3)
        adapter(stages["pooled"]).sum().backward()  # no inference tensors
        assert adapter.weight.grad is not None
    assert not any(p.requires_grad for p in mentor._frozen().parameters())
    layout = torch.channels_last
    mentor.to("cpu", layout).speed_up(images())
    weights = [p for p in mentor._frozen().parameters() if p.ndim == 4]
    assert all(w.is_contiguous(memory_format=layout) for w in weights)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # those of the compiler are its own affair
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["resnet8", "wrn_16_2", "ShuffleNetV1", "ShuffleNetV2"])
@torch.no_grad()
def test_compiled_networks_answer_alike(name, precision, recwarn):
    tolerance = 1e-4 if precision == "fp32" else 5e-2
    network = zoo(name)
    fast = Compiled(network)
    with autocast(torch.device("cpu"), precision):
        answer = fast(images(4))
        for count in (4, 3):  # a smaller last batch
            batch = images(count, seed=3)
            given, wanted = ([f(batch), f.forward_stages(batch)] for f in (fast, network))
            for one, other in zip(tensors_of(given), tensors_of(wanted), strict=True):
                assert relative_error(one, other) <= tolerance
        assert torch.equal(fast(images(4)), answer)
    assert not any("uncompiled" in str(warning.message) for warning in recwarn)
