import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from classroomkd.data import load_image_set
from classroomkd.errors import ClassroomError
from tests.data.stand_ins import (
    ENCODED,
    FINE,
    LABELS,
    PIXELS,
    assert_is,
    encode,
    write_parquet,
)


def test_parquet(tmp_path):
    write_parquet(tmp_path / "train-00000-of-00002.parquet", slice(0, 50))
    write_parquet(tmp_path / "train-00001-of-00002.parquet", slice(50, 80))
    write_parquet(tmp_path / "test-00000-of-00001.parquet", slice(80, 100))
    train = load_image_set("cifar100", "train", path=tmp_path)
    assert_is(train, slice(0, 80))
    assert_is(load_image_set("cifar100", "test", path=str(tmp_path)), slice(80, 100))
    assert train.classes == tuple(FINE)
    assert train.mean == (0.5071, 0.4865, 0.4409)
    assert train.name == "cifar100"


def test_missing_parts_are_not_passed_over(tmp_path):
    write_parquet(tmp_path / "train-00000-of-00003.parquet", slice(0, 50))
    write_parquet(tmp_path / "train-00002-of-00003.parquet", slice(50, 80))
    with pytest.raises(ClassroomError, match=r"2 of 3 files of the train split .*00002-of-00003"):
        load_image_set("cifar100", "train", path=tmp_path)


def test_one_file_without_a_number(tmp_path):
    write_parquet(tmp_path / "train.parquet")
    assert_is(load_image_set("cifar100", "train", path=tmp_path), slice(None))


def test_parquet_with_the_other_column_names(tmp_path):
    write_parquet(
        tmp_path / "train-0.parquet",
        labels=(LABELS % 10).tolist(),
        image="image",
        label="label",
        classes=FINE[:10],
    )
    train = load_image_set("cifar10", "train", path=tmp_path)
    assert train.target.tolist() == (LABELS % 10).tolist()
    assert train.classes == tuple(FINE[:10])


def test_parquet_with_gray_and_palette_images(tmp_path):
    gray = [encode(pixels[..., 0]) for pixels in PIXELS]
    write_parquet(tmp_path / "train-0.parquet", encoded=gray)
    images = load_image_set("cifar100", "train", path=tmp_path).images
    assert torch.equal(images[:, 1], torch.from_numpy(PIXELS[..., 0].copy()))


def replaced(values, row, value):
    values = list(values)
    values[row] = value
    return values


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoded": replaced(ENCODED, 61, b"junk")}, "row 61: no valid image"),
        ({"encoded": replaced(ENCODED, 61, ENCODED[61][:-900])}, "row 61: no valid image"),
        ({"encoded": replaced(ENCODED, 3, None)}, "row 3: no valid image .the row has no bytes"),
        ({"encoded": replaced(ENCODED, 3, encode(PIXELS[0, :16]))}, r"row 3: .*\[16, 32, 3\]"),
        ({"labels": replaced(LABELS.tolist(), 7, 100)}, "row 7: label 100 is not from 0 to 99"),
        ({"labels": replaced(LABELS.tolist(), 7, -1)}, "row 7: label -1 is not"),
        ({"labels": replaced(LABELS.tolist(), 7, None)}, "row 7: label None is not"),
        ({"image": "picture"}, r"no column 'img' or 'image' \(found: picture, fine_label\)"),
        ({"label": "class"}, r"no column 'fine_label' or 'label' \(found: img, class\)"),
        ({"classes": None}, "no class names for 'fine_label'"),
        ({"rows": slice(0)}, "has no rows"),
    ],
)
def test_bad_parquet(tmp_path, options, message):
    file = tmp_path / "train-0.parquet"
    write_parquet(file, **options)
    with pytest.raises(ClassroomError, match=message) as caught:
        load_image_set("cifar100", "train", path=tmp_path)
    assert str(file) in str(caught.value)


def test_damaged_parquet(tmp_path):
    file = tmp_path / "train-0.parquet"
    write_parquet(file)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ClassroomError, match=r"train-0.parquet: cannot be read as Parquet"):
        load_image_set("cifar100", "train", path=tmp_path)


def test_parquet_images_must_be_structs(tmp_path):
    table = pa.table({"img": [b"x"], "label": [0]})
    features = {"label": {"names": FINE, "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "train-0.parquet")
    with pytest.raises(ClassroomError, match="'img' is binary; needed: a struct"):
        load_image_set("cifar100", "train", path=tmp_path)


def test_parquet_files_must_agree(tmp_path):
    write_parquet(tmp_path / "train-0.parquet")
    write_parquet(tmp_path / "train-1.parquet", classes=FINE[::-1])
    with pytest.raises(ClassroomError, match=r"train-1.parquet: other classes or image size"):
        load_image_set("cifar100", "train", path=tmp_path)


def test_another_number_of_classes(tmp_path):
    write_parquet(tmp_path / "train-0.parquet")
    with pytest.raises(ClassroomError, match="has 100 classes, cifar10 has 10"):
        load_image_set("cifar10", "train", path=tmp_path)
