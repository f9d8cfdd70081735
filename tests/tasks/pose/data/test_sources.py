import json
import shutil

import pytest

from classroomkd.errors import ClassroomError
from classroomkd.tasks.pose.data import list_persons, load_persons

from .conftest import person


def test_names():
    assert list_persons() == ["coco", "lspet", "mpii"]
    with pytest.raises(ValueError, match="did you mean 'coco'"):
        load_persons("coco2017", "train", ".")
    with pytest.raises(ValueError, match="unknown split 'val'"):
        load_persons("coco", "val", ".")
    with pytest.raises(ValueError, match="unknown option of lspet 'boxes'"):
        load_persons("lspet", "train", ".", boxes="a.json")


@pytest.mark.parametrize(
    ("annotations", "images"),
    [
        ("annotations/person_keypoints_val2017.json", "val2017"),
        ("annotations/val.json", "images/val"),
        ("val.json", "val"),
    ],
)
def test_layouts_of_coco(write_coco, tmp_path, annotations, images):
    file, folder = write_coco([person(1)])
    place = tmp_path / "set"
    for source, target in ((file, annotations), (folder, images)):
        (place / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(source, place / target)
    assert len(load_persons("coco", "test", place)) == 1
    with pytest.raises(ClassroomError, match="no annotations found. Looked for annotations/person"):
        load_persons("coco", "train", place)


def test_options(write_coco, tmp_path):
    write_coco([person(1)])
    boxes = [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 30], "score": 0.5}]
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    options = {"annotations": "persons.json", "images": "images"}
    assert len(load_persons("coco", "train", tmp_path, category="face", **options)) == 1
    found = load_persons("coco", "test", tmp_path, boxes="boxes.json", **options)
    assert found.score.tolist() == [0.5]
    with pytest.raises(ClassroomError, match="no images found"):
        load_persons("coco", "test", tmp_path / "images", annotations="../persons.json")
    with pytest.raises(ClassroomError, match="that the joint set 'lsp' lacks: nose"):
        load_persons("lspet", "train", tmp_path, **options)


def test_folders(tmp_path, monkeypatch, write_coco):
    with pytest.raises(ClassroomError, match="no such folder .*nowhere"):
        load_persons("coco", "train", tmp_path / "nowhere")
    monkeypatch.setenv("CLASSROOMKD_DATA", str(tmp_path))
    file, images = write_coco([person(1)])
    (tmp_path / "coco").mkdir()
    shutil.move(file, tmp_path / "coco" / "train.json")
    shutil.move(images, tmp_path / "coco" / "train")
    assert len(load_persons("coco", "train")) == 1
