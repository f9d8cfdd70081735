import json

import pytest
import torch

from classroomkd.errors import ClassroomError
from classroomkd.tasks.pose.data import custom_joints, joint_set, load_persons, read_coco

from .conftest import NAMES, person


def test_what_is_read(write_coco):
    persons = read_coco(*write_coco([person(7), person(9, image=2, area=...)]), name="toy")
    assert persons.name == "toy"
    assert persons.joints.names == tuple(NAMES)
    assert persons.points[0].tolist() == [[10, 11], [12, 13], [0, 0]]
    assert persons.visible[0].tolist() == [2, 1, 0]
    assert persons.annotation_id.tolist() == [7, 9]
    assert persons.image_id.tolist() == [1, 2]
    assert persons.index.tolist() == [0, 1]
    assert [persons.files[i] for i in persons.image] == ["1.png", "2.png"]
    assert persons.sizes.tolist() == [[60, 40], [31, 47]]
    assert persons.area.tolist() == [100, 600]
    assert persons.head.isnan().all()
    assert persons.score.tolist() == [1, 1]
    assert "areas" in persons.notes[0]
    assert persons.box_source == "annotated, persons.json"


def test_what_is_always_left_out(write_coco):
    annotations = [
        person(1),
        person(2, iscrowd=1),
        person(3, keypoints=[0] * 9),
        person(4, keypoints=...),
        person(5, bbox=[70, 10, 20, 20]),
        person(6, bbox=[5, 5, 0, 30], keypoints=[9, 9, 2] + [0] * 6),
    ]
    persons = read_coco(*write_coco(annotations))
    assert persons.annotation_id.tolist() == [1]
    assert sorted(persons.notes) == [
        "left out: 1 of boxes outside the image",
        "left out: 1 of boxes without an area",
        "left out: 1 of crowds",
        "left out: 2 of persons with no labelled joint",
    ]


def test_fewest_labelled_joints(write_coco):
    annotations = [person(1), person(2, keypoints=[0] * 9), person(3, keypoints=[9, 9, 2] * 3)]
    file, images = write_coco(annotations)
    kept = [
        read_coco(file, images, minimum_labelled=least).annotation_id.tolist()
        for least in (0, 1, 2, 3)
    ]
    assert kept == [[1, 2, 3], [1, 3], [1, 3], [3]]


@pytest.mark.parametrize(
    ("box", "wanted"),
    [
        ([-10, -20, 50, 50], [0, 0, 40, 30]),
        ([40, 30, 50, 50], [40, 30, 20, 10]),
        ([0, 0, 60, 40], [0, 0, 60, 40]),
        (..., [9.8, 10.8, 2.4, 2.4]),
        (None, [9.8, 10.8, 2.4, 2.4]),
        ([5, 5, 0, 0], [9.8, 10.8, 2.4, 2.4]),
        ([5, 5, -3, 9], [9.8, 10.8, 2.4, 2.4]),
        ([float("nan"), 5, 3, 9], [9.8, 10.8, 2.4, 2.4]),
        (["a", 5, 3, 9], [9.8, 10.8, 2.4, 2.4]),
        ([5, 5, 9], [9.8, 10.8, 2.4, 2.4]),
    ],
)
def test_boxes(write_coco, box, wanted):
    persons = read_coco(*write_coco([person(1, bbox=box)]))
    assert persons.box[0].tolist() == pytest.approx(wanted)
    assert bool(persons.notes) == (box != wanted)


def test_joints_in_another_order(write_coco):
    swapped = write_coco([person(1)], category={"keypoints": ["right_eye", "Nose", "left eye"]})
    joints = custom_joints("face", NAMES)
    persons = read_coco(*swapped, joints=joints)
    assert persons.joints == joints
    assert persons.points[0].tolist() == [[12, 13], [0, 0], [10, 11]]
    assert persons.visible[0].tolist() == [1, 0, 2]


def test_known_joints_are_found_whatever_their_order(write_coco):
    names = [name.replace("_", "-").upper() for name in reversed(joint_set("coco").names)]
    flat = [v for place in range(17) for v in (place, place, 2)]
    persons = read_coco(*write_coco([person(1, keypoints=flat)], category={"keypoints": names}))
    assert persons.joints == joint_set("coco")
    assert persons.points[0, :, 0].tolist() == list(range(16, -1, -1))


def test_joints_that_the_category_lacks_are_not_labelled(write_coco):
    persons = read_coco(*write_coco([person(1)]), joints=joint_set("coco"))
    assert persons.visible[0].tolist() == [2, 1, 0] + [0] * 14
    assert persons.notes[0].startswith("never labelled: left_ear, right_ear")


def test_names_that_the_joint_set_lacks(write_coco):
    file = write_coco([person(1)], category={"keypoints": ["nose", "tail", "left_paw"]})
    with pytest.raises(ClassroomError, match=r"'coco' lacks: tail, left_paw \(it has nose"):
        read_coco(*file, joints=joint_set("coco"))


def test_a_category_without_names_is_read_in_the_sets_order(write_coco):
    file = write_coco([person(1)], category={"keypoints": None})
    assert len(read_coco(*file, joints=custom_joints("face", NAMES))) == 1
    with pytest.raises(ClassroomError, match="no list of names"):
        read_coco(*file)


HUGE = 10**400


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"image_id": 99}, "image ids that no image has: 99 of annotation 2"),
        ({"image_id": "1"}, "image ids that no image has: '1' of annotation 2"),
        ({"image_id": ...}, "image ids that no image has: None"),
        ({"image_id": 3}, r"image files that are not in .*: 3.png"),
        ({"keypoints": [1, 2]}, r"keypoints that are not 9 numbers: annotation 2 \(2\)"),
        ({"keypoints": "none"}, r"keypoints that are not 9 numbers: annotation 2 \(str\)"),
        ({"keypoints": [None] * 9}, "keypoints that are no numbers"),
        ({"keypoints": [HUGE] * 9}, "keypoints that are no numbers"),
        ({"keypoints": [1, 2, 3] * 3}, "visibility flags other than"),
        ({"keypoints": [1, 2, float("nan")] * 3}, "visibility flags other than"),
        ({"keypoints": [float("nan"), 1, 2] * 3}, "without finite coordinates: annotation 2"),
        ({"keypoints": [float("inf"), 1, 1] * 3}, "without finite coordinates"),
        ({"id": 1}, "annotation ids that another has, too: 1"),
        ({"id": ...}, "ids that are no whole numbers: None"),
        ({"id": 2**70}, "ids that are no whole numbers"),
    ],
)
def test_wrong_annotations(write_coco, wrong, message):
    file, images = write_coco([person(1), person(2, **wrong)])
    (images / "3.png").unlink()
    with pytest.raises(ClassroomError, match=message):
        read_coco(file, images)
    persons = read_coco(file, images, bad="skip")
    assert persons.annotation_id.tolist() == [1]
    assert persons.notes[0].startswith("left out: 1 of ")


def test_coordinates_of_unlabelled_joints_do_not_matter(write_coco):
    nan = float("nan")
    persons = read_coco(*write_coco([person(1, keypoints=[1, 2, 2, nan, 7, 0, -1, -1, 0])]))
    assert persons.points[0].tolist() == [[1, 2], [0, 0], [0, 0]]


def test_all_mistakes_are_counted_at_once(write_coco):
    annotations = [person(n, image_id=99) for n in range(5)] + [person(9, keypoints=[1])]
    with pytest.raises(ClassroomError, match="(?s)5 of image ids.*, ….*1 of keypoints.*bad: skip"):
        read_coco(*write_coco(annotations))


def test_nobody_is_left(write_coco):
    with pytest.raises(ClassroomError, match="no person to show .*1 of crowds"):
        read_coco(*write_coco([person(1, iscrowd=1)]))
    with pytest.raises(ClassroomError, match="it has no annotations"):
        read_coco(*write_coco([]))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"images": None}, "has no list of 'images'"),
        ({"categories": [1]}, "has no list of 'categories'"),
        ({"categories": {}}, "has no list of 'categories'"),
        ({"images": [{"id": "1", "file_name": "1.png"}]}, "found id '1'"),
        ({"images": [{"id": 1}]}, "file_name None"),
        ({"images": [{"id": 1, "file_name": "1.png"}] * 2}, "two images have the id 1"),
        ({"categories": [{"name": "face", "keypoints": ["a"]}]}, "'face' has the id None"),
        ({"categories": []}, "no category has keypoints"),
        ({"categories": [{"name": "a"}, {"name": "b"}]}, "no category has keypoints.*: a, b"),
    ],
)
def test_wrong_files(write_coco, parts, message):
    with pytest.raises(ClassroomError, match=message):
        read_coco(*write_coco([person(1)], **parts))


def test_files_that_cannot_be_read(write_coco, tmp_path):
    file, images = write_coco([person(1)])
    with pytest.raises(ClassroomError, match="did you mean 'persons.json'"):
        read_coco(tmp_path / "person.json", images)
    with pytest.raises(ClassroomError, match="did you mean 'images'"):
        read_coco(file, tmp_path / "image")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(ClassroomError, match="holds a list, not a dict"):
        read_coco(tmp_path / "list.json", images)
    (tmp_path / "text.json").write_text("{")
    with pytest.raises(ClassroomError, match="is no JSON file"):
        read_coco(tmp_path / "text.json", images)


def test_categories(write_coco):
    two = [
        {"id": 1, "name": "face", "keypoints": NAMES},
        {"id": 4, "name": "hand", "keypoints": ["thumb"]},
    ]
    annotations = [person(1), person(2, category_id=4, keypoints=[3, 4, 2])]
    file, images = write_coco(annotations, categories=two)
    hand = read_coco(file, images, category="hand")
    assert (hand.joints.names, hand.points.tolist(), hand.category) == (("thumb",), [[[3, 4]]], 4)
    assert hand.notes == ("left out: 1 of annotations of other categories",)
    with pytest.raises(ClassroomError, match="several .* give category, one of: face, hand"):
        read_coco(file, images)
    with pytest.raises(ClassroomError, match="unknown category 'hands': did you mean 'hand'"):
        read_coco(file, images, category="hands")


def test_sizes_come_from_the_files_where_they_are_not_stated(write_coco):
    images = [{"id": 1, "file_name": "1.png"}, {"id": 2, "file_name": "2.png", "width": 0}]
    file, folder = write_coco([person(1), person(2, image=2)], images=images)
    assert read_coco(file, folder).sizes.tolist() == [[60, 40], [31, 47]]
    (folder / "2.png").write_bytes(b"nothing")
    with pytest.raises(ClassroomError, match="files that are no images in .*: 2.png"):
        read_coco(file, folder)


def test_detected_boxes(write_coco, tmp_path):
    file, images = write_coco([person(1)])
    found = [
        {"image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 30], "score": 0.5},
        {"image_id": 2, "category_id": 2, "bbox": [1, 2, 30, 30], "score": 0.9},
        {"image_id": 2, "category_id": 1, "bbox": [1, 2, 90, 90], "score": 0.25},
        {"image_id": 2, "category_id": 1, "bbox": [1, 2, 0, 5], "score": 0.25},
    ]
    results = tmp_path / "detections.json"
    results.write_text(json.dumps(found))
    persons = read_coco(file, images, detections=results)
    assert persons.index.tolist() == [0, 2]
    assert persons.score.tolist() == [0.5, 0.25]
    assert persons.box.tolist() == [[1, 2, 30, 30], [1, 2, 30, 45]]
    assert persons.area.tolist() == [900, 30 * 45]
    assert persons.visible.eq(0).all()
    assert persons.annotation_id.tolist() == [-1, -1]
    assert persons.box_source == "detected, detections.json"
    for wrong in ({"image_id": 5}, {"score": None}, {"score": float("nan")}):
        results.write_text(json.dumps([found[0], found[0] | wrong]))
        with pytest.raises(ClassroomError, match="some annotations are wrong"):
            read_coco(file, images, detections=results)
        assert len(read_coco(file, images, detections=results, bad="skip")) == 1
    results.write_text(json.dumps([3]))
    with pytest.raises(ClassroomError, match="entries that are no objects"):
        read_coco(file, images, detections=results)


@pytest.mark.parametrize("options", [{"bad": "drop"}, {"minimum_labelled": -1}])
def test_options(write_coco, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        read_coco(*write_coco([person(1)]), **options)


@pytest.mark.parametrize(("split", "count", "crowds"), [("train", 86, 5), ("test", 68, 1)])
def test_real_coco(real, split, count, crowds):
    persons = load_persons("coco", split, real("coco-mini"))
    assert len(persons) == count
    assert f"left out: {crowds} of crowds" in persons.notes
    assert persons.joints == joint_set("coco")
    labelled = persons.visible > 0
    assert bool((persons.points[~labelled] == 0).all())
    size = persons.sizes[persons.image][:, None]
    assert bool(((persons.points >= 0) & (persons.points <= size)).all())


@pytest.mark.parametrize(("split", "count"), [("train", 8993), ("test", 998)])
def test_real_lspet(real, split, count):
    persons = load_persons("lspet", split, real("lspet"))
    assert len(persons) == len(persons.files) == count
    assert (persons.joints, persons.notes) == (joint_set("lsp"), ())
    assert torch.equal(persons.index, torch.arange(count))
