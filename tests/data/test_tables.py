import pickle

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from classroomkd.data import PhotoSet, ViewLoader, load_image_set, resized_crop
from classroomkd.data.labels import class_list, number_labels
from classroomkd.data.splits import list_files
from classroomkd.errors import ClassroomError
from tests.data.pictures import encoded

COLOURS = {"blue": (0, 0, 255), "red": (255, 0, 0)}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CLASSROOMKD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    datasets.disable_progress_bars()


def pictures(count):
    """Blue and red by turns, each of another size."""
    names = [sorted(COLOURS)[row % 2] for row in range(count)]
    return names, [encoded(name, (20 + row, 16)) for row, name in enumerate(names)]


def write(file, count=6, *, names=("blue", "red"), image="image", label="label", edit=None):
    """Blue is 0 and red is 1; of classes if ``names`` are given."""
    _, images = pictures(count)
    labels = [row % 2 for row in range(count)]
    columns = {image: [{"bytes": data, "path": None} for data in images], label: labels}
    if edit:
        edit(columns)
    table = datasets.Dataset.from_dict(columns)
    if names:
        table = table.cast_column(label, datasets.ClassLabel(names=list(names)))
    file.parent.mkdir(parents=True, exist_ok=True)
    table.to_parquet(str(file))
    return file


def load(split="train", **options):
    return load_image_set("table", split, **({"workers": 0, "size": 16} | options))


def colours(photos):
    return [tuple(pixel) for pixel in photos.images[:, :, 8, 8].tolist()]


def assert_blue_and_red(photos, count):
    assert isinstance(photos, PhotoSet)
    assert photos.classes == ("blue", "red")
    assert photos.target.tolist() == [row % 2 for row in range(count)]
    assert colours(photos) == [COLOURS[photos.classes[t]] for t in photos.target]


def test_splits_by_the_names_of_files(tmp_path):
    write(tmp_path / "data" / "train-00000-of-00001.parquet", 6)
    write(tmp_path / "data" / "validation-00000-of-00001.parquet", 4)
    (tmp_path / "README.md").write_text("no table")
    train, test = load(path=tmp_path), load("test", path=tmp_path)
    assert_blue_and_red(train, 6)
    assert_blue_and_red(test, 4)
    assert train.development is None
    write(tmp_path / "data" / "test-00000-of-00001.parquet", 2)
    assert len(load("test", path=tmp_path)) == 2
    assert_blue_and_red(load(path=tmp_path).development, 4)


def test_one_file_is_split_by_class(tmp_path):
    file = write(tmp_path / "things.parquet", 20)
    train, test = (load(split, path=file, test=0.4) for split in ("train", "test"))
    assert sorted([*train.index.tolist(), *test.index.tolist()]) == list(range(20))
    assert test.target.bincount().tolist() == [4, 4]


def test_views_are_those_of_the_rows(tmp_path):
    photos = load(path=write(tmp_path / "train.parquet"), test=1)
    alone, together = (ViewLoader(photos, size, augment=[resized_crop()]) for size in (1, 5))
    alone, together = (torch.cat([b.images for b in loader]) for loader in (alone, together))
    assert torch.equal(alone, together)
    again = pickle.loads(pickle.dumps(photos))
    assert torch.equal(again.images, photos.images)
    assert again.fingerprint == photos.fingerprint


def test_a_worker_decodes_rows(tmp_path):
    path = write(tmp_path / "train.parquet")
    alone, helped = (load(path=path, test=1, workers=workers) for workers in (0, 1))
    alone, helped = (next(iter(ViewLoader(photos, 5))).images for photos in (alone, helped))
    assert torch.equal(alone, helped)


def test_the_fingerprint_follows_the_content(tmp_path):
    def a_bitmap(colour):
        def edit(columns):
            columns["image"][3]["bytes"] = encoded(colour, format="BMP")

        return edit

    one, two = (
        load(path=write(tmp_path / colour / "train.parquet", edit=a_bitmap(colour)), test=1)
        for colour in ("lime", "red")
    )
    assert one.encoded.sizes.tolist() == two.encoded.sizes.tolist()
    assert one.fingerprint != two.fingerprint


@pytest.mark.parametrize(
    ("labels", "classes", "target"),
    [
        ([3, 7, 3, 7, 3, 7], ("3", "7"), [0, 1, 0, 1, 0, 1]),
        (list("babbab"), ("a", "b"), [1, 0, 1, 1, 0, 1]),
        ([True, False] * 3, ("False", "True"), [1, 0] * 3),
    ],
)
def test_labels_without_class_names(tmp_path, labels, classes, target):
    def relabel(columns):
        columns["label"] = labels

    write(tmp_path / "train.parquet", names=(), edit=relabel)
    write(tmp_path / "test.parquet", names=(), edit=relabel)
    photos = load(path=tmp_path)
    assert photos.classes == classes
    assert photos.target.tolist() == target


def test_class_names_that_are_given(tmp_path):
    write(tmp_path / "train.parquet", names=())
    write(tmp_path / "test.parquet", names=())
    photos = load(path=tmp_path, classes=("ant", "bee", "cow"))
    assert photos.classes == ("ant", "bee", "cow")
    assert "1 of 3 classes have no images: cow" in photos.notes[0]
    (tmp_path / "names.txt").write_text("ant\nbee\n")
    assert load(path=tmp_path, classes=str(tmp_path / "names.txt")).classes == ("ant", "bee")
    assert load(path=tmp_path, classes="imagenet").classes[1].endswith("Carassius auratus")


def test_the_test_has_its_classes_in_another_order(tmp_path):
    def turned(columns):
        columns["label"] = [1 - label for label in columns["label"]]

    write(tmp_path / "train.parquet")
    write(tmp_path / "test.parquet", names=("red", "blue"), edit=turned)
    assert_blue_and_red(load("test", path=tmp_path), 6)


def test_a_foreign_class_in_the_test(tmp_path):
    write(tmp_path / "train.parquet")
    write(tmp_path / "test.parquet", names=("blue", "pink"))
    with pytest.raises(ClassroomError, match="pink among the classes of the test"):
        load("test", path=tmp_path)


def test_a_test_split_without_labels_is_left_out(tmp_path):
    def unlabelled(columns):
        columns["label"] = [-1] * len(columns["label"])

    write(tmp_path / "train.parquet")
    write(tmp_path / "val.parquet", 4)
    write(tmp_path / "test.parquet", 2, edit=unlabelled)
    assert_blue_and_red(load("test", path=tmp_path), 4)
    assert load(path=tmp_path).development is None


def test_columns_by_name_or_type(tmp_path):
    def more(columns):
        columns["mask"] = columns["photo"]

    path = write(tmp_path / "train.parquet", image="photo", label="kind", edit=more)
    with pytest.raises(ClassroomError, match="which column is the image.*one of photo, kind, mask"):
        load(path=path, test=1)
    with pytest.raises(ClassroomError, match="no column 'foto': did you mean 'photo'"):
        load(path=path, test=1, image="foto")
    assert load(path=path, test=1, image="photo").classes == ("blue", "red")
    with pytest.raises(ClassroomError, match="column 'kind' is .*needed: image files"):
        load(path=path, test=1, image="kind", label="kind")


def test_images_as_mere_bytes(tmp_path):
    _, images = pictures(6)
    table = pa.table({"jpg": pa.array(images, pa.binary()), "label": list("brbrbr")})
    for split in ("train", "test"):
        pq.write_table(table, tmp_path / f"{split}.parquet")
    photos = load(path=tmp_path, image="jpg")
    assert colours(photos) == [COLOURS["blue"], COLOURS["red"]] * 3


def test_images_in_files_beside_the_table(tmp_path):
    for row, data in enumerate(pictures(6)[1]):
        (tmp_path / f"{row}.png").write_bytes(data)

    def only_paths(columns):
        columns["image"] = [{"bytes": None, "path": f"{row}.png"} for row in range(6)]

    for split in ("train", "test"):
        write(tmp_path / f"{split}.parquet", edit=only_paths)
    assert_blue_and_red(load(path=tmp_path), 6)


def test_paths_of_images_as_mere_texts(tmp_path):
    for row, data in enumerate(pictures(6)[1]):
        (tmp_path / f"{row}.png").write_bytes(data)
    columns = {"image": [f"{row}.png" for row in range(6)], "label": list("brbrbr")}
    for split in ("train", "test"):
        pq.write_table(pa.table(columns), tmp_path / f"{split}.parquet")
    assert colours(load(path=tmp_path)) == [COLOURS["blue"], COLOURS["red"]] * 3


def test_reading_is_quiet_and_leaves_nothing_beside_the_table(tmp_path, capfd):
    path = write(tmp_path / "things" / "train.parquet")
    datasets.enable_progress_bars()
    load(path=path, test=1)
    assert [file.name for file in path.parent.iterdir()] == ["train.parquet"]
    assert capfd.readouterr() == ("", "")


def test_bad_rows_are_named_or_skipped(tmp_path):
    def spoil(columns):
        columns["image"][0] = {"bytes": b"no image", "path": None}
        columns["image"][1] = {"bytes": encoded(size=(1, 1)), "path": None}
        columns["image"][2] = None

    path = write(tmp_path / "train.parquet", 8, edit=spoil)
    with pytest.raises(ClassroomError, match=r"\(train\), row \d: cannot be used as an image"):
        load(path=path, test=2).images  # noqa: B018
    photos = load(path=path, test=2, bad_images="skip")
    assert len(photos) == 3
    assert (
        "left out 3 bad images: row 0 (no image that Pillow knows), row 1 (1 x 1" in photos.notes[0]
    )
    assert "row 2 (the row has no image)" in photos.notes[0]
    assert load(path=path, test=2, bad_images="skip").fingerprint == photos.fingerprint


def test_saved_to_disk(tmp_path):
    table = datasets.Dataset.from_parquet(str(write(tmp_path / "x.parquet")))
    datasets.DatasetDict(train=table, test=table.select(range(2))).save_to_disk(tmp_path / "both")
    assert_blue_and_red(load(path=tmp_path / "both"), 6)
    assert len(load("test", path=tmp_path / "both")) == 2
    table.select(range(3, 6)).save_to_disk(tmp_path / "one")
    assert load(path=tmp_path / "one", test=1).target.bincount().sum() == 2


def test_hub(tmp_path, monkeypatch):
    table = datasets.Dataset.from_parquet(str(write(tmp_path / "x.parquet")))

    def load_dataset(name, subset):
        assert (name, subset) == ("somebody/things", "small")
        return datasets.DatasetDict(train=table, validation=table.select(range(2)))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    photos = load(hub="somebody/things", subset="small")
    assert_blue_and_red(photos, 6)
    assert photos.name == "somebody/things"
    assert len(load("test", hub="somebody/things", subset="small")) == 2


def test_hub_out_of_reach(monkeypatch):
    def load_dataset(name, subset):
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(ClassroomError, match="somebody/things: .*no network.*hf download"):
        load(hub="somebody/things")
    with pytest.raises(ClassroomError, match="give path"):
        load()


def test_damaged_and_missing_files(tmp_path):
    write(tmp_path / "train-00000-of-00002.parquet")
    with pytest.raises(ClassroomError, match="1 of 2 files of the train split"):
        load(path=tmp_path)
    (tmp_path / "train-00001-of-00002.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(ClassroomError, match="cannot be read as Parquet"):
        load(path=tmp_path)
    with pytest.raises(ClassroomError, match=r"no files \*\.parquet"):
        load(path=tmp_path / "hf")


def test_files_of_other_columns(tmp_path):
    write(tmp_path / "train-0.parquet")
    write(tmp_path / "train-1.parquet", label="kind")
    with pytest.raises(ClassroomError, match=r"cannot be read as Parquet \(.*same columns") as told:
        load(path=tmp_path)
    assert "\n" not in str(told.value)


def test_several_configurations_in_one_folder(tmp_path):
    for name in ("big", "small"):
        write(tmp_path / name / "train.parquet")
        write(tmp_path / name / "test.parquet")
    with pytest.raises(ClassroomError, match=r"are in big, small: choose one with data\.subset"):
        load(path=tmp_path)
    assert_blue_and_red(load(path=tmp_path, subset="small"), 6)


def test_patterns(tmp_path):
    for number in range(8, 12):
        (tmp_path / f"a{number:02d}.tar").touch()

    def names(pattern):
        return [file.stem for file in list_files(tmp_path / pattern, ".tar")]

    assert names("a{08..10}.tar") == ["a08", "a09", "a10"]
    assert names("a{08,11}.tar") == ["a08", "a11"]
    assert names("a1?.tar") == names("a{10..11}.tar") == ["a10", "a11"]
    assert len(names(".")) == 4
    with pytest.raises(ClassroomError, match=r"a12\.tar: no such file"):
        names("a{11..12}.tar")


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        ([], None, "has no images"),
        ([0, None], None, "row 1: label None is neither"),
        ([0.5, 0], None, "row 0: label 0.5 is neither"),
        ([[1], [2]], None, r"row 0: label \[1\] is neither"),
        ([1, "a"], None, "some labels are numbers and some are texts"),
        ([0, 5, 6], ["a", "b"], "2 rows, the first 1: label 5 is not from 0 to 1"),
        (
            ["a", "kat"],
            ["cat", "a"],
            "row 1: label 'kat' is none of the 2 classes: did you mean 'cat'",
        ),
    ],
)
def test_labels_that_are_none(labels, names, message):
    with pytest.raises(ClassroomError, match=message):
        number_labels(labels, names, "toy")


def test_lists_of_classes(tmp_path):
    with pytest.raises(ClassroomError, match="a twice"):
        class_list(("a", "b", "a"))
    with pytest.raises(ClassroomError, match="cannot be read as text"):
        class_list(str(tmp_path / "nothing.txt"))


def table_recipe(make, **data):
    return make(data={"name": "table", "dev": 2, **data}, mentors=[], method={"name": "none"})


def test_a_recipe(digits_recipe, tmp_path):
    path = str(write(tmp_path / "train.parquet"))
    data = table_recipe(digits_recipe, path=path, classes=["a", "b"], size=16).data
    assert data.reading == {"size": 16, "classes": ("a", "b"), "seed": 0}
    assert data.augment[0].name == "resized_crop"
    pattern = str(tmp_path / "{train,test}.parquet")
    assert str(table_recipe(digits_recipe, path=pattern).data.path) == pattern


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "table needs path or hub"),
        ({"hub": "a/b", "streaming": True}, r"streaming: is no more: leave it out.*name: shards"),
        ({"hub": "a/b", "mean": [123, 117, 104]}, r"mean\[0\]: .*less than or equal to 1"),
        ({"hub": "a/b", "std": [0.2, 0, 0.2]}, r"std\[1\]: .*greater than 0"),
        ({"hub": "a/b", "classes": "none.txt"}, "classes: no such file: none.txt"),
        ({"path": "nothing.parquet"}, "no such file or folder: nothing.parquet"),
        ({"name": "folder", "path": ".", "label": "x"}, "label: only for name: shards, table"),
        ({"name": "shards", "hub": "a/b"}, "hub: not for shards"),
        ({"name": "imagenet", "path": "x{0..3}"}, "imagenet takes a folder, not a pattern"),
    ],
)
def test_mistakes_in_a_recipe(digits_recipe, data, message):
    with pytest.raises(ClassroomError, match=message):
        table_recipe(digits_recipe, **data)
