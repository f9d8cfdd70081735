"""The benchmark: the variants do the same work, and the numbers are what they are called."""

import json
from dataclasses import replace

import pytest
import torch
import typer
from torch import nn
from typer.testing import CliRunner

from benchmarks import pieces, speed
from benchmarks.pieces import FAST, _Epochs
from benchmarks.speed import GOALS, run_benchmark
from benchmarks.textbook import textbook_loss
from benchmarks.variants import (
    TITLES,
    Settings,
    build_loader,
    build_mentors,
    build_textbook_variants,
    build_variants,
)
from classroomkd.core import classroom_loss
from classroomkd.engine.precision import autocast
from classroomkd.errors import ClassroomError
from classroomkd.mentors import Mentor
from classroomkd.methods import create_method
from classroomkd.models import build_model
from tests.steps import step

CPU = torch.device("cpu")
TINY = Settings(
    "resnet8",
    ("resnet8", "ShuffleNetV2"),
    batch_size=4,
    classes=5,
    rounds=2,
    steps=2,
    counts=(0, 1, 3),
    tuned=False,
    loss=(2, 8, 5),
    stored=10,
)


def test_the_textbook_loss_is_the_classroom_loss():
    torch.manual_seed(0)
    student = torch.randn(32, 7, requires_grad=True)
    mentors, target = list(2 * torch.randn(3, 32, 7)), torch.randint(0, 7, (32,))
    lesson = classroom_loss(student, mentors, target)
    assert 0 < lesson.active.float().mean() < 1
    loss = textbook_loss(student, mentors, target)
    torch.testing.assert_close(loss, lesson.loss, rtol=1e-5, atol=1e-5)
    (one,), (other,) = (torch.autograd.grad(value, student) for value in (loss, lesson.loss))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", ["classroom", "none"])
def test_both_loops_compute_the_same_loss_on_a_batch(method):
    torch.manual_seed(0)
    student, *networks = (build_model("resnet8", 5) for _ in range(3))
    mentors = [Mentor(network, "peer") for network in networks if method == "classroom"]
    batch = next(iter(build_loader(TINY, CPU, channels_last=False)))
    lesson = step(student, mentors, create_method(method), batch)
    loss = textbook_loss(student(batch.images), [m(batch.images) for m in mentors], batch.target)
    torch.testing.assert_close(loss, lesson.loss, rtol=1e-5, atol=1e-5)


def test_every_variant_tells_each_step_its_loss(tmp_path):
    ticks = {name: [] for name in TITLES}
    mentors = build_mentors(TINY, CPU)
    loops = {**build_variants(TINY, mentors, CPU, tmp_path), **build_textbook_variants(TINY, CPU)}
    assert loops.keys() == TITLES.keys()
    for name, variant in loops.items():
        variant(ticks[name].append)
    assert {len(told) for told in ticks.values()} == {TINY.steps + 1}
    losses = {name: getattr(told[0], "loss", told[0]) for name, told in ticks.items()}
    first = {name: torch.as_tensor(loss).item() for name, loss in losses.items()}
    assert first["engine"] == first["trainer"]
    assert first["textbook"] == pytest.approx(first["engine"], rel=0.05)  # bfloat16
    assert first["textbook_alone"] == pytest.approx(first["engine_alone"], rel=0.05)


def test_the_numbers_are_written_as_json(tmp_path):
    told = []
    result = run_benchmark(tmp_path / "new" / "speed.json", say=told.append, settings=TINY)
    stored = json.loads((tmp_path / "new" / "speed.json").read_text())
    assert stored == json.loads(json.dumps(result))
    assert stored["images_per_second"].keys() == stored["rounds"].keys() == TITLES.keys()
    assert all(value > 0 for value in stored["images_per_second"].values())
    assert all(len(values) == TINY.rounds for values in stored["rounds"].values())
    ratios = dict(stored["ratios"])
    assert ratios.pop("trainer_overhead_percent") > -100
    assert ratios.keys() == {
        *("engine_vs_textbook", "engine_vs_alone", "banked_vs_alone", "alone_vs_textbook_alone"),
        *("banked_most_vs_least", "loss_percent_of_student", "bank_vs_fastest_student"),
    }
    assert stored["goals"].keys() < stored["spans"].keys() == result["ratios"].keys()
    assert all(
        low <= stored["ratios"][name] <= high for name, (low, high) in stored["spans"].items()
    )
    assert stored["bank"]["samples_per_second"].keys() == {"bank", *FAST}
    assert stored["bank"]["fastest"] in FAST
    assert stored["scaling"]["live"].keys() == {*map(str, TINY.counts)}
    assert stored["scaling"]["banked"].keys() == {*map(str, TINY.counts)} - {"0"}
    assert min(row["rate"] for row in stored["roofline"]["networks"].values()) > 0
    assert stored["peak_memory"] > 1e7
    assert all(value > 0 for value in ratios.values())
    assert stored["shares"].keys() == {"student", "mentors", "loss", "data"}
    assert all(value > 0 for value in stored["milliseconds"].values())
    assert sum(stored["shares"].values()) == pytest.approx(1)
    assert stored["environment"]["threads"] == torch.get_num_threads()
    text = "\n".join(told)
    assert "medians of 2 rounds of 2 steps" in text
    assert text.index("ratios") < text.index("images a second, medians") < text.index("share of")
    assert text.count("goal >= ") + text.count("goal <= ") == len(GOALS)
    assert "2 mentors, 8 x 5 logits" in text


@pytest.mark.parametrize(
    "line_up", [("resnet9", ("resnet8",)), ("resnet8", ("vgg8", "timm/vgg11"))]
)
def test_models_are_of_the_zoo(line_up):
    told = []
    with pytest.raises(ClassroomError, match="unknown model '(resnet9|timm/vgg11)'"):
        run_benchmark(say=told.append, settings=Settings(*line_up))
    assert not told


def test_the_line_up_is_an_option(monkeypatch):
    asked = []
    monkeypatch.setattr(
        speed, "run_benchmark", lambda out, **given: asked.append(given["settings"])
    )
    given = ["--student", "resnet8", "--mentor", "wrn_16_2", "--mentor", "resnet14"]
    app = typer.Typer()
    app.command()(speed.main)
    assert CliRunner().invoke(app, []).exit_code == 0
    assert CliRunner().invoke(app, [*given, "--no-tuned"]).exit_code == 0
    assert asked == [Settings(), Settings("resnet8", ("wrn_16_2", "resnet14"), tuned=False)]


def test_more_mentors_are_the_same_ones_in_turn():
    mentors = build_mentors(TINY.with_mentors(3), CPU)
    assert [m.name for m in mentors] == ["resnet8", "ShuffleNetV2", "resnet8"]
    again, images = build_mentors(TINY, CPU), torch.rand(2, 3, 32, 32)
    assert torch.equal(mentors[1](images), again[1](images))
    assert not torch.equal(mentors[2](images), again[0](images))  # its weights are its own


def test_mentors_are_tuned_as_in_a_long_run(monkeypatch):
    calls = []
    monkeypatch.setattr(
        Mentor, "speed_up", lambda self, example, compiled: calls.append((len(example), compiled))
    )
    assert len(build_mentors(replace(TINY, tuned=True), CPU)) == 2
    assert calls == [(4, True)] * 2


def test_what_is_timed_of_a_bank_is_all_of_it(tmp_path):
    epochs = _Epochs(TINY, CPU, tmp_path)
    recalled = []
    hear = epochs.mentor_outputs.__call__
    for _ in range(2):
        epochs()
    assert [m.name for m in epochs.mentor_outputs.banked] == list(TINY.mentors)
    for batch in epochs.batches:
        recalled.append(torch.stack([said.logits for said in hear(batch)]))
    assert torch.cat(recalled, dim=1).shape == (2, TINY.stored, TINY.classes)
    assert torch.cat([b.index for b in epochs.batches]).sort().values.equal(torch.arange(10))


def test_the_loss_that_is_timed_has_the_shape_asked_for(monkeypatch):
    shapes = []

    class Watched(torch.nn.Module):
        def forward(self, student, mentors, target):
            shapes.append((len(mentors), *student.shape, *target.shape))
            return classroom_loss(student.float(), [m.float() for m in mentors], target)

    monkeypatch.setattr(pieces, "create_method", lambda _: Watched())
    seconds = pieces.measure_loss(TINY, CPU)
    assert set(shapes) == {(2, 8, 5, 8)}
    assert len(shapes) == (TINY.rounds + 1) * TINY.steps
    assert [len(values) for values in seconds.values()] == [TINY.rounds] * 2


@pytest.mark.parametrize(("stride", "side"), [(2, 8), (1, 2), (1, 8)])
def test_bf16_depthwise_gradients_are_right_and_cheap(stride, side):
    torch.manual_seed(0)
    layer = nn.Conv2d(6, 6, 3, stride, 1, groups=6)
    images = torch.randn(4, 6, side, side, requires_grad=True)
    wanted = [images, *layer.parameters()]
    exact = torch.autograd.grad(layer(images).square().sum(), wanted)
    with autocast(CPU, "bf16"):
        out = layer(images)
        with torch.no_grad():
            frozen = layer(images)
    assert out.dtype == frozen.dtype == torch.bfloat16
    slow = stride > 1 or side < 3
    in_float32 = "Convolution" not in out.grad_fn.name()  # but a cast of its output
    assert in_float32 == slow
    for one, other in zip(
        torch.autograd.grad(out.float().square().sum(), wanted), exact, strict=True
    ):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=0.05, atol=0.2)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_goals_are_met():
    ratios = run_benchmark()["ratios"]
    assert ratios["engine_vs_textbook"] >= 2
    assert ratios["trainer_overhead_percent"] <= 5
    assert ratios["loss_percent_of_student"] <= 3
    assert ratios["bank_vs_fastest_student"] >= 5
