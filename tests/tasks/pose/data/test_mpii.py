import json
import math

import numpy as np
import pytest
from PIL import Image

from classroomkd.errors import ClassroomError
from classroomkd.tasks.pose.data import joint_set, load_persons, read_mpii_json, read_mpii_mat

savemat = pytest.importorskip("scipy.io").savemat


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number, size in enumerate([(80, 60), (50, 70)]):
        Image.new("RGB", size).save(folder / f"{number}.jpg")
    return folder


def stated(image="0.jpg", **changes):
    joints = [[10.0 + n, 20.0] for n in range(16)]
    entry = {"image": image, "joints": joints, "joints_vis": [1] * 16, "center": [31.0, 21.0]}
    return entry | {"scale": 0.2} | changes


def write(tmp_path, persons, name="valid.json"):
    file = tmp_path / name
    file.write_text(json.dumps(persons))
    return file


def test_json_counts_from_one(tmp_path, images):
    hidden = [1, 0] + [1] * 14
    file = write(tmp_path, [stated(joints_vis=hidden), stated("1.jpg")])
    persons = read_mpii_json(file, images)
    assert persons.joints == joint_set("mpii")
    assert persons.points[0, 0].tolist() == [9, 19]
    assert persons.points[0, 1].tolist() == [0, 0]
    assert persons.visible[0, :3].tolist() == [2, 0, 2]
    # 40 pixels high around (30, 20) + (0, 15 * 0.2)
    assert persons.box[0].tolist() == pytest.approx([10, 3, 40, 40])
    assert persons.area[0].item() == pytest.approx(400)
    assert persons.head.isnan().all()
    assert persons.sizes.tolist() == [[80, 60], [50, 70]]


def test_persons_of_an_image_share_its_id(tmp_path, images):
    file = write(tmp_path, [stated(), stated("1.jpg"), stated()])
    persons = read_mpii_json(file, images)
    assert persons.image_id.tolist() == [0, 1, 0]
    assert persons.annotation_id.tolist() == persons.index.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "wrong",
    [
        {"image": None}, {"joints": None}, {"joints": [[1, 2]] * 15}, {"joints": [[1]] * 16},
        {"joints": [[math.nan, 1]] * 16}, {"joints_vis": [1]}, {"center": [1]}, {"scale": 0},
        {"scale": None}, {"center": [math.inf, 0]}, {"joints": [[1, "2"]] * 16},
    ],
)  # fmt: skip
def test_wrong_persons(tmp_path, images, wrong):
    file = write(tmp_path, [stated(), stated(**wrong)])
    with pytest.raises(ClassroomError, match="1 of persons without image, .*: person 1"):
        read_mpii_json(file, images)
    assert len(read_mpii_json(file, images, bad="skip")) == 1


def test_missing_images_and_joints(tmp_path, images):
    file = write(tmp_path, [stated(), stated("7.jpg"), stated(joints_vis=[0] * 16), 3])
    with pytest.raises(ClassroomError, match="7.jpg"):
        read_mpii_json(file, images)
    persons = read_mpii_json(file, images, bad="skip")
    assert len(persons) == 1
    assert "left out: 1 of persons with too few labelled joints" in persons.notes


def test_head_boxes_beside_the_json(tmp_path, images):
    write(tmp_path, [stated(), stated("1.jpg")])
    boxes = np.zeros((2, 2, 2))
    boxes[1, :, 0], boxes[1, :, 1] = (3, 4), (6, 8)
    savemat(tmp_path / "gt_valid.mat", {"headboxes_src": boxes})
    persons = load_persons("mpii", "test", tmp_path)
    assert persons.head.tolist() == pytest.approx([3, 6])
    write(tmp_path, [stated()])
    with pytest.raises(ClassroomError, match=r"shape \(2, 2, 1\)"):
        load_persons("mpii", "test", tmp_path)


def point(unit, x, y, **more):
    return {"id": unit, "x": x, "y": y} | more


def rectangle(points=None, **more):
    points = points or [point(0, 11.0, 21.0, is_visible="1"), point(9, 12.0, 5.0, is_visible=[])]
    parts = {"annopoints": {"point": points}, "objpos": {"x": 31, "y": 21}, "scale": 0.2}
    return {"x1": 10.0, "y1": 2.0, "x2": 13.0, "y2": 6.0} | parts | more


def write_mat(tmp_path, entries, train):
    annolist = [{"image": {"name": name}, "annorect": rectangles} for name, rectangles in entries]
    release = {"annolist": _structs(annolist), "img_train": np.array(train)}
    file = tmp_path / "mpii_human_pose_v1_u12_1.mat"
    savemat(file, {"RELEASE": _struct(release)})
    return file


def _struct(value):
    """As MATLAB has it: an array of structures, all with the same fields, where a list is."""
    if isinstance(value, dict):
        return {key: _struct(part) for key, part in value.items()}
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return _structs(value)
    return np.array(value) if isinstance(value, list) else value


def _structs(entries):
    fields = list(dict.fromkeys(key for entry in entries for key in entry))
    array = np.empty((1, len(entries)), [(field, object) for field in fields])
    for place, entry in enumerate(entries):
        for field in fields:
            array[0, place][field] = _struct(entry.get(field, []))
    return array


def test_the_official_file(tmp_path, images):
    occluded = [point(n, 10.0 + n, 20.0, is_visible=n % 2) for n in range(16)]
    entries = [
        ("0.jpg", [rectangle(), {"x1": 1.0, "y1": 1.0, "x2": 2.0, "y2": 2.0}]),
        ("unseen.jpg", [rectangle()]),
        ("1.jpg", [rectangle(occluded), rectangle(scale=[])]),
        ("1.jpg", []),
    ]
    file = write_mat(tmp_path, entries, [1, 0, 1, 1])
    persons = read_mpii_mat(file, images)
    assert persons.index.tolist() == [0, 2]
    assert [persons.files[i] for i in persons.image] == ["0.jpg", "1.jpg"]
    assert persons.points[0, 0].tolist() == [10, 20]
    assert persons.visible[0].nonzero()[:, 0].tolist() == [0, 9]
    assert persons.visible[0, 9] == 2
    assert persons.visible[1].tolist() == [1, 2] * 8
    assert persons.head.tolist() == pytest.approx([3, 3])
    assert persons.box[0].tolist() == pytest.approx([10, 3, 40, 40])
    assert sorted(persons.notes) == [
        "left out: 1 of persons with no labelled joint",
        "left out: 1 of persons without a position and a scale",
    ]


def test_an_official_file_of_one_person(tmp_path, images):
    one = rectangle([point(3, 5.0, 6.0, is_visible=0)])
    for key in ("x1", "y1", "x2", "y2"):
        del one[key]
    persons = read_mpii_mat(write_mat(tmp_path, [("0.jpg", [one])], [1]), images)
    assert persons.visible.tolist() == [[0, 0, 0, 1] + [0] * 12]
    assert persons.head.isnan().all()


def test_official_files_that_are_not(tmp_path, images):
    file = tmp_path / "other.mat"
    savemat(file, {"joints": np.zeros(3)})
    with pytest.raises(ClassroomError, match="has no RELEASE"):
        read_mpii_mat(file, images)
    file.write_bytes(b"text")
    with pytest.raises(ClassroomError, match="is no MATLAB file"):
        read_mpii_mat(file, images)
    with pytest.raises(ClassroomError, match="no such file: did you mean 'other.mat'"):
        read_mpii_mat(tmp_path / "others.mat", images)


def test_the_official_file_never_trains_on_a_validation_split(tmp_path, images):
    write_mat(tmp_path, [("0.jpg", [rectangle()])], [1])
    assert len(load_persons("mpii", "train", tmp_path)) == 1
    with pytest.raises(ClassroomError, match="no joints of test images"):
        load_persons("mpii", "test", tmp_path)
    write(tmp_path, [stated()])
    with pytest.raises(ClassroomError, match=r"no annotations found. Looked for annot/train.json"):
        load_persons("mpii", "train", tmp_path)


def test_real_mpii(real):
    persons = load_persons("mpii", "test", real("mpii-sample"))
    assert len(persons) == 5
    assert persons.points[0, 0].tolist() == [803, 710]
    assert (persons.visible == 0).sum() == 4
    # The joints lie in the stated boxes, nearly.
    low, high = persons.box[:, None, :2], (persons.box[:, :2] + persons.box[:, 2:])[:, None]
    inside = ((persons.points >= low) & (persons.points <= high)).all(-1)
    assert inside[persons.visible > 0].float().mean() > 0.9
