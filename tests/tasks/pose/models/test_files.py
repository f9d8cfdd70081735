"""A pose student needs nothing but its folder."""

import json

import pytest
import torch

from classroomkd.errors import ClassroomError
from classroomkd.models import load_student
from classroomkd.tasks.pose.models import (
    PoseStudentFile,
    build_pose_model,
    load_pose_student,
    save_pose_student,
)

INFO = PoseStudentFile("lsp", "lspet", epoch=7, metric="pck", score=61.5)


def network(name="pose/tiny/simcc", **options):
    torch.manual_seed(0)
    return build_pose_model(name, ("nose", "left", "right"), ((1, 2),), (48, 32), **options).eval()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("pose/tiny/heatmap", {}),
        ("pose/tiny/heatmap", {"sigma": 3.0, "beta": 5.0}),
        ("pose/tiny/simcc", {"split": 3.0, "sigma": (4.0, 5.0)}),
    ],
)
def test_what_is_saved_comes_back(tmp_path, name, options):
    saved = network(name, **options)
    for parameter in saved.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    save_pose_student(saved, INFO, tmp_path)
    loaded, info = load_pose_student(tmp_path)
    assert info == INFO
    assert not loaded.training
    assert (loaded.name, loaded.codec, loaded.input_size) == (name, saved.codec, (48, 32))
    assert (loaded.joint_names, loaded.flip_pairs) == (saved.joint_names, saved.flip_pairs)
    images = torch.rand(2, 3, 48, 32)
    for one, other in zip(saved(images), loaded(images), strict=True):
        assert one.equal(other)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "student.json",
        "student.safetensors",
    ]


def test_the_file_says_what_it_is(tmp_path):
    save_pose_student(network(), INFO, tmp_path)
    said = json.loads((tmp_path / "student.json").read_text())
    assert said["task"] == "pose"
    assert said["joints"] == "lsp"
    assert said["joint_names"] == ["nose", "left", "right"]
    assert said["flip_pairs"] == [[1, 2]]
    assert said["input_size"] == [48, 32]
    assert said["codec"]["kind"] == "simcc"
    assert said["codec"]["x"] == {"bins": 64, "step": 0.5, "offset": -0.25}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"task": "classification"}, "no student of poses"),
        ({"model": "pose/tinny/simcc"}, "unknown model 'tinny'"),
        ({"joint_names": ["nose"]}, "flip_pairs must pair"),
        ({"options": {"split": 1.0}}, "its codec is not that of"),
        ({"codec": {"kind": "other"}}, "unknown kind of codec"),
        ({"input_size": [48, 64]}, "its codec is not that of"),
        ({"input_size": 48}, "cannot be read"),
    ],
)
def test_files_that_do_not_fit(tmp_path, change, complaint):
    save_pose_student(network(), INFO, tmp_path)
    file = tmp_path / "student.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ClassroomError, match=complaint):
        load_pose_student(tmp_path)


def test_files_that_are_missing_or_damaged(tmp_path):
    with pytest.raises(ClassroomError, match="student.json cannot be read"):
        load_pose_student(tmp_path)
    save_pose_student(network(), INFO, tmp_path)
    said = json.loads((tmp_path / "student.json").read_text())
    (tmp_path / "student.json").write_text(json.dumps({"task": "pose"}))
    with pytest.raises(ClassroomError, match="'joints' is missing"):
        load_pose_student(tmp_path)
    (tmp_path / "student.json").write_text("[]")
    with pytest.raises(ClassroomError, match="cannot be read"):
        load_pose_student(tmp_path)
    (tmp_path / "student.json").write_text(json.dumps(said))
    (tmp_path / "student.safetensors").write_bytes(b"no weights")
    with pytest.raises(ClassroomError, match="damaged"):
        load_pose_student(tmp_path)
    (tmp_path / "student.safetensors").unlink()
    with pytest.raises(ClassroomError, match="no such file"):
        load_pose_student(tmp_path)


def test_weights_of_another_network_do_not_fit(tmp_path):
    (tmp_path / "other").mkdir()
    save_pose_student(network(), INFO, tmp_path)
    save_pose_student(network("pose/tiny/heatmap"), INFO, tmp_path / "other")
    (tmp_path / "other" / "student.safetensors").replace(tmp_path / "student.safetensors")
    with pytest.raises(ClassroomError, match="does not fit a pose/tiny/simcc with 3 joints"):
        load_pose_student(tmp_path)


def test_a_pose_student_is_no_classifier(tmp_path):
    save_pose_student(network(), INFO, tmp_path)
    with pytest.raises(ClassroomError, match="cannot be read"):
        load_student(tmp_path)
