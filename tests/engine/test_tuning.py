"""How mentors are tuned depends on how long the run is."""

from typing import Any

import pytest
import torch

from classroomkd.engine import tuning
from classroomkd.mentors import Mentor
from classroomkd.mentors.tuning import Choice, Timing, Variant, list_variants
from classroomkd.models import build_model

BEST = Variant("bf16", channels_last=True, folded=True)
COMPILED = Variant("bf16", channels_last=True, compiled=True, folded=True)
OTHER = Variant("bf16", compiled=True, folded=True)


@pytest.fixture
def asked(monkeypatch):
    """What `choose_variant` is asked; the later a candidate, the slower, but compiled ones win."""
    calls: list[dict[str, Any]] = []

    def answer(network, example, candidates, steps_expected=0):
        calls.append({"candidates": list(candidates), "steps": steps_expected})
        order = [BEST, *(v for v in candidates if v != BEST)]
        times = [Timing(v, 0.5 if v == COMPILED else 1.0 + n) for n, v in enumerate(order)]
        best = min(times, key=lambda timing: timing.milliseconds).variant
        return Choice(best, tuple(times), {Variant(): f"reason {len(calls)}"}, cached=True)

    monkeypatch.setattr(tuning, "choose_variant", answer)
    return calls


def choose(steps, device="cpu"):
    mentor = Mentor(build_model("resnet8", 5), "mentor")
    return tuning.choose(mentor, torch.rand(2, 3, 32, 32, device=device), "bf16", steps)


def test_a_short_run_compiles_nothing(asked):
    assert choose(tuning.COMPILABLE["cpu"] - 1).variant == BEST
    assert [call["candidates"] for call in asked] == [list_variants("bf16")]


def test_in_a_long_run_the_fastest_is_measured_against_itself_compiled(asked):
    choice = choose(50_000)
    assert choice.variant == COMPILED
    assert asked[1] == {"candidates": [BEST, COMPILED, OTHER], "steps": 50_000}
    assert len({t.variant for t in choice.timings}) == len(choice.timings) == 8 + 2
    assert [t.milliseconds for t in choice.timings] == sorted(
        t.milliseconds for t in choice.timings
    )
    assert choice.rejected == {Variant(): "reason 2"}
    assert choice.cached


def test_a_gpu_s_compiler_must_have_more_steps(asked):
    assert not choose(tuning.COMPILABLE["cpu"], device="meta").variant.compiled
    assert choose(tuning.COMPILABLE_ELSEWHERE, device="meta").variant.compiled
