"""Weights in files: our own, and others' in the wrappings and under the names they come in."""

import json
from argparse import Namespace
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from classroomkd.errors import ClassroomError
from classroomkd.models import StudentFile, build_model, load_student, load_weights, save_student

MEAN, STD = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)


def fresh(name="resnet8", classes=5, seed=0, **options):
    torch.manual_seed(seed)
    network = build_model(name, classes, **options)
    with torch.no_grad():
        network(images())  # moves the running statistics
    return network.eval()


def images():
    return torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def state(network, *, normalised=True):
    return OrderedDict(
        (k, v.clone())
        for k, v in network.state_dict().items()
        if normalised or not k.startswith("normalize.")
    )


def assert_same(network, source):
    assert torch.equal(network(images()), source(images()))


def prefixed(weights, prefix):
    return {prefix + name: tensor for name, tensor in weights.items()}


WRAPPINGS = {
    "bare": lambda w: w,
    "state_dict": lambda w: {"state_dict": w, "epoch": 3},
    "model": lambda w: {"model": w, "optimizer": {"lr": 0.1, "state": {0: torch.zeros(2)}}},
    "module.": lambda w: prefixed(w, "module."),
    "compiled in parallel": lambda w: prefixed(w, "module._orig_mod."),
    "nested": lambda w: {"state_dict": {"model": {"net": prefixed(w, "module.model.")}}},
    "numbers": lambda w: {**w, "epoch": 3, "note": "best", "none": None, "list": [1.5]},
    "numpy": lambda w: {
        "model": w, "epoch": np.int64(3), "best_acc": np.float64(73.2), "loss": np.float32(0.5),
    },
    "tensor beside": lambda w: {"model": w, "best_acc": torch.tensor(73.2)},
    "options": lambda w: {"model": w, "args": Namespace(lr=0.1, data="x", opt=None)},
    "any prefix": lambda w: {"state_dict": prefixed(w, "lightning.backbone.")},
    "averaged": lambda w: {"n_averaged": torch.tensor(4), **prefixed(w, "module.")},
    "half": lambda w: {k: v.half().float().half() for k, v in w.items()},
}  # fmt: skip


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_wrappings(tmp_path, wrapping, legacy):
    source, path = fresh(seed=1), tmp_path / "w.pth"
    weights = state(source)
    if wrapping == "half":
        source.load_state_dict({k: v.half() for k, v in weights.items()})
    torch.save(WRAPPINGS[wrapping](weights), path, _use_new_zipfile_serialization=not legacy)
    network = fresh()
    load_weights(network, path)
    assert_same(network, source)
    assert network.conv1.weight.dtype == torch.float32


@pytest.mark.parametrize("prefix", ["", "module."])
def test_safetensors(tmp_path, prefix):
    source, path = fresh(seed=1), tmp_path / "w.safetensors"
    save_file(prefixed(state(source), prefix), path)
    network = fresh()
    load_weights(network, path)
    assert_same(network, source)


def from_the_zoo(name, weights):
    """Weights under the names of the CRD benchmark."""
    classifier = {
        "resnet8": "fc", "wrn_16_1": "fc", "ResNet18": "linear", "ResNet50": "linear",
        "ShuffleNetV1": "linear", "ShuffleNetV2": "linear", "MobileNetV2": "classifier.0",
        "vgg8": "classifier",
    }[name]  # fmt: skip
    renamed = {}
    for key, tensor in weights.items():
        key = key.replace("classifier.", f"{classifier}.")
        renamed[key.replace("downsample", "shortcut") if name.startswith("ResNet") else key] = (
            tensor
        )
    return renamed


@pytest.mark.parametrize(
    "name",
    [
        "resnet8", "wrn_16_1", "vgg8", "ResNet18", "ResNet50",
        "ShuffleNetV1", "ShuffleNetV2", "MobileNetV2",
    ],
)  # fmt: skip
def test_names_of_the_zoo(tmp_path, name):
    source, path = fresh(name, seed=1), tmp_path / "ckpt_epoch_240.pth"
    zoo = from_the_zoo(name, state(source, normalised=False))
    torch.save({"epoch": 240, "model": zoo, "best_acc": torch.tensor(72.1)}, path)
    network = fresh(name, mean=MEAN, std=STD)
    load_weights(network, path)
    expected = fresh(name, seed=1)
    expected.normalize.load_state_dict(network.normalize.state_dict())
    assert_same(network, expected)


def test_normalisation(tmp_path):
    source, path = fresh(seed=1, mean=MEAN, std=STD), tmp_path / "w.pt"
    network = fresh()
    own = state(network.normalize)
    torch.save(state(source, normalised=False), path)
    load_weights(network, path)
    assert all(torch.equal(v, own[k]) for k, v in network.normalize.state_dict().items())
    torch.save(state(source), path)
    load_weights(network, path)
    assert network.normalize.mean.flatten().tolist() == pytest.approx(MEAN)
    assert_same(network, source)


class Evil:
    def __reduce__(self):
        return (print, ("this ran",))


@pytest.mark.parametrize("what", ["module", "inside", "evil"])
def test_pickles_are_not_run(tmp_path, capsys, what):
    path = tmp_path / "w.pt"
    network = fresh()
    holds = {"module": network, "inside": {"model": nn.Linear(2, 2)}, "evil": {"x": Evil()}}
    torch.save(holds[what], path)
    before = state(network)
    with pytest.raises(ClassroomError, match=r"w\.pt holds more than tensors.*save its state_dict"):
        load_weights(network, path)
    assert "this ran" not in capsys.readouterr().out
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
@pytest.mark.parametrize("keep", [0.0, 0.001, 0.5, 0.99])
def test_truncated_files(tmp_path, suffix, keep):
    network, path = fresh(), tmp_path / f"w.{suffix}"
    (save_file if suffix == "safetensors" else torch.save)(state(network), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(ClassroomError, match=rf"w\.{suffix} is damaged or not a file of weights"):
        load_weights(network, path)


@pytest.mark.parametrize(
    "content", [b"hello world", b"\x80\x02abc", b"<html>404</html>", b"\0" * 99]
)
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_files_of_something_else(tmp_path, content, suffix):
    path = tmp_path / f"w.{suffix}"
    path.write_bytes(content)
    with pytest.raises(ClassroomError, match=rf"w\.{suffix} is damaged or not a file of weights"):
        load_weights(fresh(), path)


@pytest.mark.parametrize("value", [[1, 2], torch.zeros(3), 7, {}, {"epoch": 3}, {"model": {}}])
def test_files_without_weights_are_named(tmp_path, value):
    torch.save(value, tmp_path / "w.pt")
    with pytest.raises(ClassroomError, match=r"w\.pt holds no "):
        load_weights(fresh(), tmp_path / "w.pt")


@pytest.mark.parametrize("save", [save_file, torch.save])
@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "w.bin", "weights"])
def test_the_content_says_what_a_file_is(tmp_path, save, name):
    network, other = fresh(seed=1), fresh()
    save(state(network), tmp_path / name)
    load_weights(other, tmp_path / name)
    assert_same(other, network)


@pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")
def test_a_program_is_no_file_of_weights(tmp_path):
    torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)).save(tmp_path / "w.pt")
    with pytest.raises(ClassroomError, match=r"is a TorchScript program.*save its state_dict"):
        load_weights(fresh(), tmp_path / "w.pt")


def test_a_prefix_that_is_a_layers_name_stays(tmp_path):
    own = fresh("timm/test_resnet", seed=1)
    assert all(name.startswith(("model.", "normalize.")) for name in own.state_dict())
    weights = {f"model.{name}": value for name, value in own.model.state_dict().items()}
    for wrapped in (weights, prefixed(weights, "module."), own.model.state_dict()):
        torch.save(wrapped, tmp_path / "w.pt")
        other = fresh("timm/test_resnet")
        load_weights(other, tmp_path / "w.pt")
        assert_same(other, own)


def test_files_that_are_not_there(tmp_path):
    for path in (tmp_path / "w.pt", tmp_path):
        with pytest.raises(ClassroomError, match="no such file"):
            load_weights(fresh(), path)


def test_files_that_do_not_fit_change_nothing(tmp_path):
    path, network = tmp_path / "w.pt", fresh()
    before = state(network)

    def refuse(match):
        with pytest.raises(ClassroomError, match=match) as caught:
            load_weights(network, path)
        assert str(path) in str(caught.value)
        assert "resnet8 with 5 classes" in str(caught.value)
        assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())

    torch.save(state(fresh("vgg8")), path)
    refuse(r"missing: conv1.weight, .* and \d+ more; unknown: block0")
    torch.save(state(fresh("resnet14")), path)
    refuse("unknown: layer1.1.conv1.weight")
    torch.save(state(fresh(classes=7)), path)
    refuse(r"shapes: classifier.weight \[7, 64\] instead of \[5, 64\], classifier.bias \[7\]")
    torch.save({k: v for k, v in before.items() if k != "bn1.weight"}, path)
    refuse("; missing: bn1.weight. Check")


# A run's student


INFO = StudentFile("resnet8", ("a", "b", "ü", "d", "e"), "letters", 3, None)


def test_students_come_back_as_they_were(tmp_path):
    for format_ in (torch.contiguous_format, torch.channels_last):
        source = fresh(mean=MEAN, std=STD).to(memory_format=format_)
        save_student(source, INFO, tmp_path)
        network, info = load_student(tmp_path)
        assert info == INFO
        assert not network.training
        assert_same(network.to(memory_format=format_), source)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["student.json", "student.safetensors"]


def test_a_student_with_tied_weights_is_saved(tmp_path):
    source = fresh()
    source.again = nn.Linear(64, 5)
    source.again.weight = source.classifier.weight
    save_student(source, INFO, tmp_path)
    weights = load_file(tmp_path / "student.safetensors")
    assert torch.equal(weights["again.weight"], weights["classifier.weight"])
    assert torch.equal(weights["again.weight"], source.classifier.weight)


@pytest.mark.parametrize(
    "change",
    [
        "{", "[]", "null", "", "7", b"\xff\xfe", None,
        {"model": None}, {"model": "resnet21"}, {"model": 3}, {"classes": None}, {"classes": []},
        {"classes": 5}, {"extra": 1},
    ],
)  # fmt: skip
def test_damaged_descriptions(tmp_path, change):
    save_student(fresh(), INFO, tmp_path)
    path = tmp_path / "student.json"
    if isinstance(change, dict):
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    elif change is None:
        path.unlink()
    else:
        path.write_bytes(change if isinstance(change, bytes) else change.encode())
    with pytest.raises(ClassroomError, match=r"student\.json cannot be read: "):
        load_student(tmp_path)


def test_descriptions_that_lack_something(tmp_path):
    save_student(fresh(), INFO, tmp_path)
    path = tmp_path / "student.json"
    whole = json.loads(path.read_text())
    for key in whole:
        path.write_text(json.dumps({k: v for k, v in whole.items() if k != key}))
        with pytest.raises(ClassroomError, match=rf"student\.json cannot be read: .*{key}"):
            load_student(tmp_path)


def test_weights_that_are_not_those_described(tmp_path):
    save_student(fresh(), StudentFile("resnet8", ("a", "b"), "x", 0, 1.0), tmp_path)
    with pytest.raises(ClassroomError, match="does not fit a resnet8 with 2 classes"):
        load_student(tmp_path)
    (tmp_path / "student.safetensors").unlink()
    with pytest.raises(ClassroomError, match=r"no such file: .*student\.safetensors"):
        load_student(tmp_path)


def test_whoever_may_read_the_folder_may_read_the_student(tmp_path):
    save_student(
        build_model("resnet8", 3), StudentFile("resnet8", ("a", "b", "c"), "x", 0, None), tmp_path
    )
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(list(tmp_path.iterdir())) == 2
    assert len(modes) == 1  # weights and description alike, as the umask says
