import os
import time

import pytest
import torch
from PIL import Image, features

from classroomkd.data import load_image_set
from classroomkd.data.files import list_classes
from classroomkd.errors import ClassroomError


def save(path, colour="red", size=(20, 16), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, **options)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CLASSROOMKD_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def photos(tmp_path):
    for split, count in (("train", 4), ("val", 2)):
        for name in ("dog", "cat"):
            for number in range(count):
                save(tmp_path / "photos" / split / name / f"{number}.JPEG")
    return tmp_path / "photos"


def load(path, split="train", **options):
    return load_image_set("folder", split, path=path, workers=0, size=16, **options)


def test_train_and_val(photos):
    train, test = load(photos), load(photos, "test")
    assert train.classes == test.classes == ("cat", "dog")
    assert train.target.tolist() == [0] * 4 + [1] * 4
    assert test.target.tolist() == [0, 0, 1, 1]
    assert train.notes == ()
    assert train.fingerprint != test.fingerprint
    assert train.fingerprint == load(photos).fingerprint != load(photos, centre=1.0).fingerprint


def test_images_without_labels_are_no_test_set(photos):
    save(photos / "test" / "ILSVRC2012_test_00000001.JPEG")
    assert len(load(photos, "test")) == 4
    save(photos / "test" / "cat" / "0.png")
    assert len(load(photos, "test")) == 1


@pytest.mark.parametrize("name", ["val", "valid"])
def test_val_beside_test_is_for_development(photos, name):
    (photos / "val").rename(photos / name)
    save(photos / "test" / "cat" / "0.png")
    train, test = load(photos), load(photos, "test")
    assert (len(train), len(test)) == (8, 1)
    assert test.development is None
    assert train.development.target.tolist() == [0, 0, 1, 1]
    assert train.development.classes == train.classes
    note = "photos: the development split is the 4 images that came for validation"
    assert train.notes == (note,)
    assert train.subset(torch.arange(2)).development is None


def test_val_without_test_is_the_test(photos):
    assert load(photos).development is None


def test_a_class_that_leads_out_of_the_tree_moves_no_number(photos, tmp_path):
    save(tmp_path / "outside" / "0.jpg")
    (photos / "train" / "ant").symlink_to(tmp_path / "outside")
    train, test = load(photos), load(photos, "test")
    assert train.classes == test.classes == ("cat", "dog")
    assert test.target.tolist() == [0, 0, 1, 1]
    assert train.notes == (
        f"{photos / 'train'}: left out 1 links out of the folder: {photos / 'train' / 'ant'}",
    )


def test_a_class_of_links_out_of_the_tree_says_so(photos, tmp_path):
    save(tmp_path / "outside.jpg")
    (photos / "train" / "cow").mkdir()
    (photos / "train" / "cow" / "0.jpg").symlink_to(tmp_path / "outside.jpg")
    with pytest.raises(ClassroomError, match=r"class cow.* 1 links out of the folder: .*0\.jpg"):
        load(photos)


def test_names_that_are_no_utf8(photos):
    odd = os.fsencode(photos / "train" / "cat") + b"/caf\xe9.jpg"
    with open(odd, "wb") as file:
        file.write(b"no image")
    train = load(photos, bad_images="skip")
    assert "caf\\udce9.jpg (no image that Pillow knows)" in train.notes[0]
    os.mkdir(os.fsencode(photos / "train") + b"/\xe9")
    with pytest.raises(ClassroomError, match=r"must be UTF-8 text: rename \\udce9"):
        load(photos)


def test_a_folder_that_cannot_be_read(photos, monkeypatch):
    scandir = os.scandir

    def refuse(folder):
        if str(folder).endswith("dog"):
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ClassroomError, match=r"train/dog: cannot be read \(Permission denied\)"):
        load(photos)


def test_one_folder_of_classes_is_split(photos):
    train, test = (load(photos / "train", split, test=0.5) for split in ("train", "test"))
    assert sorted([*train.index.tolist(), *test.index.tolist()]) == list(range(8))
    assert train.target.bincount().tolist() == test.target.bincount().tolist() == [2, 2]
    again = load(photos / "train", "test", test=0.5)
    assert torch.equal(again.index, test.index)


def test_a_class_that_is_only_in_the_test(photos):
    save(photos / "val" / "cow" / "0.jpg")
    for split in ("train", "test"):  # before a training, not only after it
        with pytest.raises(ClassroomError, match="cow among the classes of the test"):
            load(photos, split)


def test_a_test_with_fewer_classes_keeps_their_numbers(photos):
    for file in (photos / "val" / "cat").iterdir():
        file.unlink()
    (photos / "val" / "cat").rmdir()
    assert load(photos, "test").target.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("train", "test"),
    [("train", "validation"), ("Training", "Testing"), ("TRAIN", "Val"), ("train_set", "dev")],
)
def test_other_names_of_splits(photos, train, test):
    (photos / "train").rename(photos / train)
    (photos / "val").rename(photos / test)
    assert load(photos).classes == ("cat", "dog")
    assert (len(load(photos)), len(load(photos, "test"))) == (8, 4)


def test_folders_of_no_split_are_named(photos):
    save(photos / "extra" / "cat" / "0.png")
    save(photos / "validation" / "cat" / "0.png")
    train = load(photos)
    assert len(load(photos, "test")) == 4
    names = "left out 2 folders that are of no split: extra, validation"
    assert train.notes == (f"{photos}: {names}",)


def test_classes_called_as_splits(photos):
    save(photos / "vehicles" / "train" / "0.png")
    save(photos / "vehicles" / "bus" / "0.png")
    save(photos / "vehicles" / "test" / "0.png")
    assert load(photos / "vehicles", test=1).classes == ("bus", "test", "train")


def test_no_folder_for_training(photos):
    (photos / "train").rename(photos / "more")
    with pytest.raises(ClassroomError, match=r"folders of classes in val, and none for training"):
        load(photos)


def test_one_class_is_none(photos, tmp_path):
    save(tmp_path / "one" / "cat" / "0.png")
    (tmp_path / "above").mkdir()
    photos.rename(tmp_path / "above" / "photos")
    for path, name in (("one", "cat"), ("above", "photos")):
        with pytest.raises(ClassroomError, match=f"of one class, {name}, .*mend data.path"):
            load(tmp_path / path)


def test_links_among_the_classes(photos):
    train = photos / "train"
    (train / "circle").symlink_to(train / "circle")
    (train / "nothing").symlink_to(train / "gone")
    (train / "here").symlink_to(train)
    (train / "cat" / "circle.png").symlink_to(train / "cat" / "circle.png")
    (train / "kitten").symlink_to(train / "cat")
    found = load(photos)
    assert found.classes == ("cat", "dog", "kitten")
    assert len(found) == 12
    one, other = found.notes
    assert "left out 4 links to folders or to nothing" in one
    for name in ("circle", "nothing", "cat/circle.png", "kitten/circle.png"):
        assert str(train / name) in one
    assert other.endswith(f"left out 1 links to a folder that they are in: {train / 'here'}")


def test_images_beside_the_classes_are_named(photos):
    save(photos / "train" / "lost.jpg")
    (photos / "train" / "notes.txt").touch()
    (note,) = load(photos).notes
    assert note.endswith(f"left out 1 images in no folder of a class: {photos}/train/lost.jpg")
    with pytest.raises(ClassroomError, match=r"no folders of images in it.*cat/0\.JPEG"):
        load(photos / "train" / "cat")


@pytest.mark.parametrize("suffix", ["AVIF", "jp2", "Webp", "GIF", "jpe"])
def test_kinds_of_files(photos, suffix):
    if suffix == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow knows no AVIF")
    kind = {"jp2": "JPEG2000", "jpe": "JPEG"}.get(suffix, suffix.upper())
    save(photos / "train" / "cat" / f"more.{suffix}", "blue", format=kind)
    train = load(photos)
    assert len(train) == 9
    blue = train.images.float().mean((2, 3))[:, 2]
    assert (blue > 200).sum() == 1


def test_an_empty_class_is_named(photos):
    (photos / "train" / "cow").mkdir()
    (photos / "train" / "cow" / "notes.txt").touch()
    with pytest.raises(ClassroomError, match="no images of class cow"):
        load(photos)


def test_no_classes(tmp_path):
    save(tmp_path / "flat" / "0.jpg")
    with pytest.raises(ClassroomError, match="no folders of images"):
        load(tmp_path / "flat")
    with pytest.raises(ClassroomError, match="no such folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(ClassroomError, match="give path"):
        load_image_set("folder", "train")


def test_what_is_left_out_is_counted_and_named(photos, tmp_path):
    save(tmp_path / "elsewhere.jpg")
    cat = photos / "train" / "cat"
    for name in ("a.txt", "b.txt", ".hidden.jpg"):
        (cat / name).touch()
    (cat / "out.jpg").symlink_to(tmp_path / "elsewhere.jpg")
    (cat / "loop").symlink_to(photos / "train")
    (cat / "within.jpg").symlink_to(photos / "train" / "dog" / "0.JPEG")
    (photos / "train" / "away").symlink_to(tmp_path)
    train = load(photos)
    assert len(train) == 9
    notes = "\n".join(train.notes)
    assert "2 links out of the folder" in notes
    assert "out.jpg" in notes
    assert "left out 1 links to folders or to nothing" in notes
    assert "2 files that are no images by their names" in notes
    assert ".hidden" not in notes


def test_skip_finds_bad_images_and_remembers_them(photos, monkeypatch):
    cat = photos / "train" / "cat"
    broken = cat / "1.JPEG"
    save(broken, size=(200, 200))
    broken.write_bytes(broken.read_bytes()[:-100])
    save(cat / "dot.png", size=(1, 1))
    (cat / "words.jpg").write_text("no image")
    Image.new("F", (16, 16), 0.5).save(cat / "numbers.tiff")
    train = load(photos, bad_images="skip")
    assert len(train) == 7
    assert "left out 4 bad images" in train.notes[0]
    for reason in ("truncated", "1 x 1 pixels", "no image that Pillow knows", "floating-point"):
        assert reason in train.notes[0]

    def fail(*_):
        raise AssertionError("a file was opened again")

    monkeypatch.setattr("classroomkd.data.encoded.Photo", fail)
    assert load(photos, bad_images="skip").fingerprint == train.fingerprint
    monkeypatch.undo()


def test_a_mended_file_is_looked_at_again(photos):
    broken = photos / "train" / "cat" / "0.JPEG"
    broken.write_bytes(b"")
    assert len(load(photos, bad_images="skip")) == 7
    save(broken)
    assert len(load(photos, bad_images="skip")) == 8


def test_a_class_of_bad_images_only_is_named(photos):
    for file in (photos / "train" / "cat").iterdir():
        file.write_bytes(b"")
    with pytest.raises(ClassroomError, match="no images of class cat"):
        load(photos, bad_images="skip")


def empty_files(root, count):
    for start in range(0, count, 1000):
        folder = root / f"class{start // 1000:03d}"
        folder.mkdir(parents=True)
        for number in range(start, min(start + 1000, count)):
            os.close(os.open(folder / f"{number}.jpg", os.O_CREAT))


@pytest.mark.parametrize("count", [1000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_listing_opens_no_file(tmp_path, count):
    empty_files(tmp_path / "many", count)
    start = time.process_time()
    listing = list_classes(tmp_path / "many", tmp_path / "many")
    assert time.process_time() - start < 5e-5 * count + 1
    assert len(listing) == count
    assert listing.sizes == [0] * count
