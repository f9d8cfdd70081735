"""Mentors that train along, through the engine: they learn, are resumed, and are never exported;
frozen ones beside them stay as they are."""

import sys

import pytest
import torch
from safetensors.torch import load_file

from classroomkd.cli import main
from classroomkd.doctor import examine
from classroomkd.engine.build import build_classroom
from classroomkd.engine.run import train
from classroomkd.engine.step import training_step
from classroomkd.engine.trainer import fit
from classroomkd.errors import RecipeError
from classroomkd.methods import list_methods, method_class
from classroomkd.models import build_model
from tests.engine.test_step import Readings

ONLINE = [n for n in list_methods() if method_class(n).kind == "online"]
METHODS = ["classroom", *ONLINE]
PEER = {"model": "resnet14", "train": True}


@pytest.fixture
def recipe(digits_recipe):
    """A function from changes to a recipe with a frozen mentor and one that trains along."""
    frozen = {"run": str(digits_recipe().mentors[0].run)}

    def make(method="dml", mentors=(frozen, PEER), **changes):
        changes["data"] = {"dev": 0.6} | changes.pop("data", {})
        return digits_recipe(method={"name": method}, mentors=list(mentors), **changes)

    return make


def copied(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def trained(recipe, **options):
    """A classroom after its training."""
    classroom = build_classroom(recipe)
    usual = {"on_lesson": lambda _: None, "on_epoch": lambda *_: None, "progress": False}
    fit(classroom, **(usual | options))
    return classroom


def test_the_online_methods():
    assert {"dml", "kdcl", "okddip", "one"} <= set(ONLINE)
    assert all(method_class(name).mutual for name in METHODS)


@pytest.mark.parametrize("method", METHODS)
def test_peers_learn_and_frozen_mentors_do_not(recipe, method):
    given = recipe(method, train={"epochs": 1})
    before = [copied(mentor.network) for mentor in build_classroom(given).mentors]
    classroom = trained(given)
    frozen, peer = classroom.mentors
    assert (frozen.learns, peer.learns) == (False, True)
    assert equal(copied(frozen.network), before[0])
    assert all(p.grad is None for p in frozen.network.parameters())
    after = copied(peer.network)
    still = [name for name in after if torch.equal(after[name], before[1][name])]
    assert still == ["normalize.mean", "normalize.std"]


@pytest.mark.parametrize("method", METHODS)
def test_the_student_is_exported_alone(recipe, method, tmp_path):
    train(recipe(method, train={"epochs": 1}), tmp_path / "run", progress=False, say=lambda _: None)
    weights = load_file(tmp_path / "run" / "student.safetensors")
    assert weights.keys() == build_model("resnet8", 10).state_dict().keys()
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    stored = [name for name in state["state_dict"] if name.startswith("peers.")]
    assert stored == [f"peers.0.{name}" for name in build_model("resnet14", 10).state_dict()]


@pytest.mark.parametrize("method", METHODS)
def test_a_step_never_waits_for_the_device(recipe, method):
    classroom = build_classroom(recipe(method))
    batch = next(iter(classroom.train))
    with Readings() as readings:
        training_step(classroom, batch).loss.backward()
    assert readings.names == []


class Cut(Exception):
    """The end of a run that was not its end."""


@pytest.mark.parametrize(
    ("method", "ema"),
    [("dml", None), ("dml", 0.9), ("classroom", None), ("okddip", None), ("one", 0.9)],
)
def test_resuming_is_exact(recipe, tmp_path, method, ema):
    given = recipe(method, train={"epochs": 2, "ema": ema})
    steps = len(build_classroom(given).train)
    whole, seen = trained(given), []

    def cut(lesson):
        seen.append(lesson)
        if len(seen) == steps + 2:  # in the second epoch
            raise Cut

    checkpoint = tmp_path / "last.ckpt"
    with pytest.raises(Cut):
        trained(given, on_lesson=cut, checkpoint=checkpoint)
    resumed = trained(given, checkpoint=checkpoint, resume=True)
    assert equal(copied(resumed.student), copied(whole.student))
    assert equal(copied(resumed.mentors[1].network), copied(whole.mentors[1].network))
    assert equal(copied(resumed.method), copied(whole.method))


def test_equal_seeds_give_equal_cohorts(recipe):
    given = recipe(train={"epochs": 1})
    one, other = trained(given), trained(given)
    apart = trained(recipe(train={"epochs": 1}, seed=1))
    for place in (0, 1):
        networks = [c.mentors[place].network for c in (one, other)]
        assert equal(*map(copied, networks))
    assert equal(copied(one.student), copied(other.student))
    assert not equal(copied(one.student), copied(apart.student))
    assert not equal(copied(one.mentors[1].network), copied(apart.mentors[1].network))


def test_averaged_weights_of_the_student(recipe):
    plain, averaged = recipe(train={"epochs": 1}), recipe(train={"epochs": 1, "ema": 0.5})
    history, classroom = [], build_classroom(plain)
    fit(
        classroom, on_epoch=lambda *_: None, progress=False,
        on_lesson=lambda _: history.append(classroom.student.classifier.weight.detach().clone()),
    )  # fmt: skip
    average = history[1]
    for weight in [*history[2:], classroom.student.classifier.weight.detach()]:
        average = 0.5 * average + 0.5 * weight
    torch.testing.assert_close(trained(averaged).student.classifier.weight, average)


@pytest.mark.parametrize("method", ["dml", "okddip"])
def test_a_peer_with_weights_starts_from_them(recipe, digits_recipe, method):
    run = digits_recipe().mentors[1].run
    given = recipe(method, mentors=[{"run": str(run), "train": True}])
    [peer] = build_classroom(given).mentors
    assert peer.learns
    assert peer.network.training
    assert all(p.requires_grad for p in peer.network.parameters())
    weights = load_file(run / "student.safetensors")
    assert equal(copied(peer.network), weights)  # running statistics included


def test_the_student_starts_the_same_whatever_the_mentors(recipe):
    starts = [
        copied(build_classroom(recipe(method, mentors=mentors)).student)
        for method, mentors in (
            ("dml", [PEER]), ("dml", [PEER, PEER]), ("one", [PEER]), ("none", []),
        )
    ]  # fmt: skip
    assert all(equal(starts[0], start) for start in starts[1:])


def test_a_peer_that_starts_from_nothing_normalises_as_the_student_does(recipe):
    classroom = build_classroom(recipe())
    own, others = (copied(n.normalize) for n in (classroom.student, classroom.mentors[1].network))
    assert equal(own, others)
    given = recipe(mentors=[PEER | {"mean": (0.1, 0.2, 0.3)}])
    normalize = build_classroom(given).mentors[0].network.normalize
    torch.testing.assert_close(normalize.mean.flatten(), torch.tensor([0.1, 0.2, 0.3]))
    torch.testing.assert_close(normalize.std, classroom.student.normalize.std)


def test_peers_that_start_from_nothing_differ(recipe):
    one, other = build_classroom(recipe(mentors=[PEER, PEER])).mentors
    assert not torch.equal(one.network.classifier.weight, other.network.classifier.weight)


@pytest.mark.parametrize("method", ["kd", "fitnets", "none"])
def test_methods_whose_mentors_cannot_train_along(recipe, method):
    with pytest.raises(RecipeError) as error:
        recipe(method)
    assert (
        f"mentors[1].train: mentors cannot train along with the method '{method}': "
        "use one of logits that learns from many, such as dml"
    ) in error.value.mistakes


def test_a_classroom_with_a_second_method_does_not_train_its_mentors(digits_recipe):
    with pytest.raises(RecipeError, match="cannot train along with the method 'classroom'"):
        digits_recipe(method={"name": "classroom", "also": "at"}, mentors=[PEER])


def test_a_peer_needs_a_model(recipe):
    with pytest.raises(RecipeError, match=r"mentors\[0\]: give .*run .* with model"):
        recipe(mentors=[{"train": True}])


def test_the_command_line_says_so_with_code_2(recipe, tmp_path, monkeypatch, capsys):
    path = tmp_path / "online.yaml"
    path.write_text(recipe().to_yaml())
    monkeypatch.setattr(sys, "argv", ["classroomkd", "train", str(path), "method.name=kd"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert "such as dml" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["classroom", "dml", "one"])
def test_the_doctor_does_not_judge_who_trains_along(recipe, method):
    findings = examine(recipe(method, mentors=[PEER | {"name": n} for n in ("left", "right")]))
    peers = [f for f in findings if "left" in f.subject or "right" in f.subject]
    assert [(f.verdict, f.subject) for f in peers] == [("ok", "left"), ("ok", "right")]
    assert all(f.text == "peer, trains along: nothing to check before" for f in peers)
    assert any(f.subject == "loss" for f in findings)


def test_the_doctor_still_judges_frozen_mentors(recipe):
    verdicts = {f.subject: f.verdict for f in examine(recipe())}
    assert verdicts["resnet8"] == "wrong"
    assert verdicts["resnet14"] == "ok"
