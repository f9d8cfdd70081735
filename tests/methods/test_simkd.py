"""SimKD against float64 NumPy, and the student that it leaves: trained, kept, read, resumed."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from classroomkd.engine.build import build_classroom
from classroomkd.engine.evaluate_run import evaluate_run
from classroomkd.engine.run import train
from classroomkd.engine.runs import RunFolder
from classroomkd.engine.step import training_step
from classroomkd.engine.trainer import fit
from classroomkd.errors import ClassroomError
from classroomkd.methods import Outputs, create_method
from classroomkd.methods.heads import Projector
from classroomkd.models import StudentFile, build_model, deployable, load_student, save_student
from classroomkd.models.reused import ReusedClassifier

B, C = 3, 5
TARGET = torch.tensor([0, 4, 1])
SIMKD = {"name": "simkd"}


def says(shape, seed):
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    return Outputs(
        torch.randn(B, C, generator=generator, dtype=torch.float64),
        {"head": torch.randn(B, *shape, generator=generator, dtype=torch.float64)},
        torch.nn.Linear(shape[0], C).double(),
    )


def set_up(student, mentor, **options):
    torch.manual_seed(0)
    method = create_method("simkd", **options)
    method.setup(student, [mentor])
    return method.double()


# ----------------------------------------------------------------------------------- the formula


def convolved(x, weight):
    """A convolution without bias that keeps the size, pixel by pixel."""
    half = weight.shape[2] // 2
    padded = np.pad(x, ((0, 0), (0, 0), (half, half), (half, half)))
    out = np.zeros((len(x), len(weight), *x.shape[2:]))
    for i in range(x.shape[2]):
        for j in range(x.shape[3]):
            window = padded[:, :, i : i + weight.shape[2], j : j + weight.shape[3]]
            out[:, :, i, j] = np.einsum("bdhw,odhw->bo", window, weight)
    return out


def projected(projector, x):
    """Three times a convolution, batch normalisation by the batch, and ReLU."""
    for conv in (layer for layer in projector if isinstance(layer, torch.nn.Conv2d)):
        x = convolved(x, conv.weight.detach().numpy())
        mean, variance = (f(x, axis=(0, 2, 3), keepdims=True) for f in (np.mean, np.var))
        x = np.maximum((x - mean) / np.sqrt(variance + 1e-5), 0)
    return x


def pooled(maps, size):
    b, d, h, w = maps.shape
    return maps.reshape(b, d, size, h // size, size, w // size).mean((3, 5))


@pytest.mark.parametrize("sizes", [(4, 4), (4, 2), (2, 4)])
@pytest.mark.parametrize("options", [{}, {"weight": 3.0, "factor": 4}])
def test_formula(sizes, options):
    student, mentor = says((6, sizes[0], sizes[0]), 1), says((8, sizes[1], sizes[1]), 2)
    method = set_up(student, mentor, **options)
    lesson = method(student, [mentor], TARGET)
    maps = projected(method.projector, student.features["head"].numpy())
    size = min(sizes)
    difference = pooled(maps, size) - pooled(mentor.features["head"].numpy(), size)
    term = options.get("weight", 1.0) * (difference**2).mean((1, 2, 3))
    np.testing.assert_allclose(lesson.mentor_loss[0], term, rtol=1e-9)
    assert lesson.loss.item() == pytest.approx(term.mean())
    assert not lesson.task_loss.any()
    weight, bias = (v.detach().numpy() for v in mentor.classifier.parameters())
    odds = np.exp(maps.mean((2, 3)) @ weight.T + bias)
    scores = (odds / odds.sum(1, keepdims=True))[range(B), TARGET]
    np.testing.assert_allclose(lesson.student_score, scores, rtol=1e-9)
    assert method.projector.bottleneck == 8 // options.get("factor", 2)


def test_the_student_follows_and_the_classifier_stays():
    student, mentor = says((6, 4, 4), 1), says((8, 4, 4), 2)
    feature = student.features["head"].requires_grad_()
    method = set_up(student, mentor)
    before = [p.clone() for p in method.classifier.parameters()]
    optimizer = torch.optim.SGD([feature, *method.parameters()], lr=0.5, weight_decay=0.1)
    losses = []
    for _ in range(30):
        lesson = method(student, [mentor], TARGET)
        losses.append(lesson.loss.item())
        optimizer.zero_grad()
        lesson.loss.backward()
        assert feature.grad.any()
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]
    assert all(map(torch.equal, before, method.classifier.parameters()))
    assert all(map(torch.equal, before, mentor.classifier.parameters()))


def test_what_is_missing_is_named():
    student, mentor = says((6, 4, 4), 1), says((8, 4, 4), 2)
    bare = Outputs(mentor.logits, mentor.features)
    with pytest.raises(ValueError, match=r"simkd uses the classifier.*network\.classifier"):
        set_up(student, bare)
    method = create_method("simkd")
    with pytest.raises(RuntimeError, match=r"simkd has no projector yet: call method\.setup"):
        method(student, [mentor], TARGET)
    with pytest.raises(RuntimeError, match="no projector yet"):
        deployable(build_model("resnet8", C), method)


# ---------------------------------------------------------------------------- the student it leaves


def reused(backbone, width=9, **options):
    torch.manual_seed(3)
    network = build_model(backbone, C, mean=(0.1, 0.2, 0.3), **options)
    projector = Projector(network.classifier.in_features, width, width // 2)
    return network, ReusedClassifier(network, projector, torch.nn.Linear(width, C))


@pytest.mark.parametrize("name", ["resnet8", "wrn_16_1", "vgg8", "MobileNetV2", "ShuffleNetV2"])
def test_a_reused_classifier_is_a_network(name):
    backbone, network = reused(name)
    images = torch.rand(2, 3, 32, 32)
    backbone.eval(), network.eval()
    with torch.no_grad():
        own = backbone.forward_stages(images, preactivations=True)
        seen = network.forward_stages(images, preactivations=True)
        assert list(seen) == list(own)
        assert network.stage_names == backbone.stage_names
        for key in own.keys() - {"head", "pooled", "logits"}:
            assert torch.equal(own[key], seen[key]), key
        torch.testing.assert_close(seen["head"], network.projector(own["head"]))
        logits = network.classifier(seen["head"].mean((2, 3)))
        torch.testing.assert_close(network(images), logits)
    assert network.normalize is backbone.normalize
    assert (network.name, network.num_classes) == (backbone.name, C)
    assert not any("backbone.classifier" in key for key in network.state_dict())
    assert "classifier" in dict(backbone.named_children()), "the student keeps what it has"


def test_it_shares_the_students_layers_and_mode():
    backbone, network = reused("resnet8")
    assert network.training
    assert network.eval().backbone.training is False
    assert not backbone.conv1.training
    _, quiet = reused("resnet8")
    assert not ReusedClassifier(backbone.eval(), quiet.projector, quiet.classifier).training
    backbone.conv1.weight.data.zero_()
    assert not network.state_dict()["backbone.conv1.weight"].any()


INFO = StudentFile("resnet8", tuple("abcde"), "letters", 3, None)


@pytest.mark.parametrize("bias", [True, False])
def test_files(tmp_path, bias):
    backbone, network = reused("resnet8")
    classifier = torch.nn.Linear(9, C, bias=bias)
    network = ReusedClassifier(backbone, network.projector, classifier).eval()
    save_student(network, INFO, tmp_path)
    again, info = load_student(tmp_path)
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(again(images), network(images))
    assert info.head == {"kind": "reused", "width": 9, "bottleneck": 4, "bias": bias}
    assert not any(p.requires_grad for p in again.classifier.parameters())
    save_student(again, info, tmp_path)
    assert load_student(tmp_path)[1] == info
    save_student(backbone, info, tmp_path)  # the head is the network's, whatever the file said
    assert load_student(tmp_path)[1] == INFO


@pytest.mark.parametrize(
    "head",
    [
        {"kind": "gated"}, {}, [], "reused", {"kind": "reused"}, {"kind": "reused", "width": "9"},
        {"kind": "reused", "width": -9, "bottleneck": 4, "bias": True},
    ],
)  # fmt: skip
def test_heads_that_cannot_be_built(tmp_path, head):
    save_student(build_model("resnet8", C), INFO, tmp_path)
    path = tmp_path / "student.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"head": head}))
    with pytest.raises(ClassroomError, match=r"student\.json cannot be read: "):
        load_student(tmp_path)


# --------------------------------------------------------------------------------------- whole runs


def run(recipe, folder, **options):
    return train(recipe, folder, progress=False, say=lambda _: None, **options)


@pytest.fixture
def simkd(digits_recipe, tmp_path):
    """A run of one epoch: its recipe, its folder, its summary."""
    recipe = digits_recipe(method=SIMKD, train={"epochs": 1})
    return recipe, tmp_path / "run", run(recipe, tmp_path / "run")


def test_the_run_keeps_the_projector_and_the_teachers_classifier_alone(simkd):
    recipe, folder, _ = simkd
    weights = load_file(folder / "student.safetensors")
    backbone = build_model("resnet8", 10).state_dict().keys()
    inner = {k for k in backbone if not k.startswith(("normalize.", "classifier."))}
    projector = Projector(64, 64, 32).state_dict().keys()
    assert weights.keys() == (
        (backbone - inner)
        | {f"backbone.{k}" for k in inner}
        | {f"projector.{k}" for k in projector}
    )
    teacher, _ = load_student(recipe.mentors[0].run)
    assert torch.equal(weights["classifier.weight"], teacher.classifier.weight)
    assert torch.equal(weights["classifier.bias"], teacher.classifier.bias)


def test_what_is_judged_is_what_is_kept(simkd):
    _, folder, summary = simkd
    student, info = load_student(folder)
    assert isinstance(student, ReusedClassifier)
    assert (info.model, info.epoch) == ("resnet8", 0)
    assert evaluate_run(folder)[1]["top1"] == pytest.approx(summary["best"]["test_top1"], abs=1e-3)
    dev = RunFolder(folder).read_csv("metrics.csv")[0]["dev_top1"]
    assert evaluate_run(folder, "dev")[1]["top1"] == pytest.approx(dev, abs=1e-3)


def test_the_command_line_judges_it_in_a_process_of_its_own(simkd):
    _, folder, summary = simkd
    code = "from classroomkd.cli import main; main()"
    command = [sys.executable, "-c", code, "eval", str(folder), "--json"]
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(out.stdout)["top1"] == pytest.approx(summary["best"]["test_top1"], abs=1e-3)


def test_it_learns_to_be_read_by_a_teacher_that_knows(digits_recipe, tmp_path):
    alone = {"method": {"name": "none"}, "mentors": []}
    schooled = {"epochs": 6, "optimizer": {"name": "sgd", "lr": 0.1}}
    run(digits_recipe(student={"model": "resnet14"}, train=schooled, **alone), tmp_path / "teacher")
    teacher = evaluate_run(tmp_path / "teacher")[1]["top1"]
    mentors = [{"run": str(tmp_path / "teacher"), "role": "teacher"}]
    recipe = digits_recipe(method=SIMKD, mentors=mentors, train=schooled)
    summary = run(recipe, tmp_path / "student")
    assert teacher > 60
    assert summary["last"]["test_top1"] > 40
    rows = RunFolder(tmp_path / "student").read_csv("metrics.csv")
    assert rows[-1]["loss"] < rows[0]["loss"]


@pytest.mark.parametrize("method", ["classroom", "simkd", "ca_mkd"])
def test_the_run_can_be_a_mentor(simkd, digits_recipe, tmp_path, method):
    mentors = [{"run": str(simkd[1]), "role": "teacher"}]
    recipe = digits_recipe(mentors=mentors, method={"name": method}, train={"epochs": 1})
    run(recipe, tmp_path / "next")
    classroom = build_classroom(recipe)
    assert isinstance(classroom.mentors[0].network, ReusedClassifier)
    if method == "simkd":
        kept, _ = load_student(tmp_path / "next")
        source, _ = load_student(simkd[1])
        assert torch.equal(kept.classifier.weight, source.classifier.weight)


def test_the_classifier_comes_in_the_datas_class_order(digits_recipe, tmp_path):
    torch.manual_seed(5)
    network, order = build_model("resnet8", 10), [7, 2, 9, 0, 1, 3, 8, 4, 6, 5]
    (tmp_path / "shuffled").mkdir()
    info = StudentFile("resnet8", tuple(str(k) for k in order), "digits", 0, None)
    save_student(network, info, tmp_path / "shuffled")
    mentors = [{"run": str(tmp_path / "shuffled"), "role": "teacher"}]
    run(digits_recipe(method=SIMKD, mentors=mentors, train={"epochs": 1}), tmp_path / "run")
    kept, info = load_student(tmp_path / "run")
    assert info.classes == tuple("0123456789")
    for place, digit in enumerate(order):
        assert torch.equal(kept.classifier.weight[digit], network.classifier.weight[place])


@pytest.mark.parametrize("ema", [None, 0.9])
def test_resuming_is_exact(digits_recipe, tmp_path, ema):
    recipe = digits_recipe(method=SIMKD, train={"epochs": 2, "ema": ema})
    whole = run(recipe, tmp_path / "whole")

    def cut(line):
        if line.startswith("epoch 2/"):
            raise KeyboardInterrupt  # before the state of the second epoch is saved

    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "cut", progress=False, say=cut)
    assert run(recipe, tmp_path / "cut", resume=True) == whole
    one, other = (load_file(tmp_path / n / "student.safetensors") for n in ("cut", "whole"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[k], other[k]) for k in one)


def test_the_averaged_projector_graduates_with_the_averaged_student(digits_recipe):
    recipe = digits_recipe(method=SIMKD, train={"epochs": 1, "ema": 0.5})
    names = {"student.conv1.weight": "backbone.conv1.weight"}
    names |= {f"method.projector.{k}.weight": f"projector.{k}.weight" for k in (0, 1, 3, 6)}
    plain = build_classroom(digits_recipe(method=SIMKD, train={"epochs": 1}))

    def scores():
        parts = {"student": plain.student, "method": plain.method}
        state = {f"{p}.{k}": v for p, m in parts.items() for k, v in m.state_dict().items()}
        return {name: state[name].clone() for name in names}

    history = []
    fit(
        plain,
        on_lesson=lambda _: history.append(scores()),
        on_epoch=lambda *_: None,
        progress=False,
    )
    history = [*history[1:], scores()]  # a lesson comes before its step
    average = history[0]
    for state in history[1:]:
        average = {k: 0.5 * v + 0.5 * state[k] for k, v in average.items()}
    seen = []
    fit(
        build_classroom(recipe), on_lesson=lambda _: None, progress=False,
        on_epoch=lambda number, student, lr: seen.append(
            {k: v.clone() for k, v in student.state_dict().items()}
        ),
    )  # fmt: skip
    for name, exported in names.items():
        torch.testing.assert_close(seen[0][exported], average[name], msg=name)


def test_training_goes_on_after_a_student_was_judged(digits_recipe):
    """Judging switches the shared layers to eval mode and back."""
    classroom = build_classroom(digits_recipe(method=SIMKD))
    student = deployable(classroom.student, classroom.method)
    mode = {name: part.training for name, part in classroom.student.named_modules()}
    student.eval()
    student.train(True)
    assert mode == {name: part.training for name, part in classroom.student.named_modules()}
    assert all(part.training for part in classroom.method.modules())


def test_in_a_classroom_the_student_keeps_its_own_classifier(digits_recipe):
    recipe = digits_recipe(method={"name": "classroom", "also": "simkd"})
    classroom = build_classroom(recipe)
    batch = next(iter(classroom.train))
    lesson = training_step(classroom, batch)
    lesson.loss.backward()
    assert classroom.student.classifier.weight.grad.any()
    assert deployable(classroom.student, classroom.method) is classroom.student
