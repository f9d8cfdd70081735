import numpy as np
import pytest
import scipy.io
import torch

from classroomkd.data import load_image_set
from classroomkd.data import synsets as words
from classroomkd.errors import ClassroomError
from classroomkd.mentors.labels import class_map, imagenet_classes
from tests.data.pictures import encoded

TENCH, GOLDFISH, HEN = "n01440764", "n01443537", "n01514859"
CLASSES = (f"{TENCH}, tench, Tinca tinca", f"{GOLDFISH}, goldfish, Carassius auratus")
VAL = {1: GOLDFISH, 2: TENCH, 3: GOLDFISH}


def save(path, colour="red"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(colour, format="JPEG"))


def write_train(folder):
    for synset in (TENCH, GOLDFISH):
        for number in range(2):
            save(folder / synset / f"{synset}_{number}.JPEG")


def write_flat(folder):
    for number, synset in VAL.items():
        save(folder / f"ILSVRC2012_val_{number:08d}.JPEG", "red" if synset == TENCH else "blue")


def load(path, split="test", **options):
    return load_image_set("imagenet", split, path=path, workers=0, size=16, **options)


def assert_val(photos):
    assert photos.classes == CLASSES
    assert photos.target.tolist() == [1, 0, 1]
    red = photos.images[:, 0, 8, 8] > 128
    assert red.tolist() == [False, True, False]


def test_folders_of_synsets(tmp_path):
    write_train(tmp_path / "train")
    save(tmp_path / "val" / GOLDFISH / "0.JPEG")
    save(tmp_path / "test" / "ILSVRC2012_test_00000001.JPEG")
    train, test = load(tmp_path, "train"), load(tmp_path)
    assert train.classes == test.classes == CLASSES
    assert train.target.tolist() == [0, 0, 1, 1]
    assert test.target.tolist() == [1]
    assert train.name == "imagenet"


@pytest.mark.parametrize("given", ["", "ILSVRC", "ILSVRC/Data/CLS-LOC"])
def test_kaggle(tmp_path, given):
    images = tmp_path / "ILSVRC" / "Data" / "CLS-LOC"
    write_train(images / "train")
    write_flat(images / "val")
    save(images / "test" / "ILSVRC2012_test_00000001.JPEG")
    rows = [f"ILSVRC2012_val_{number:08d},{synset} 85 1 499 272 " for number, synset in VAL.items()]
    lines = ["ImageId,PredictionString", *reversed(rows), ""]
    (tmp_path / "LOC_val_solution.csv").write_text("\n".join(lines))
    assert_val(load(tmp_path / given))
    assert len(load(tmp_path / given, "train")) == 4


def write_kit(root, meta=True):
    """ILSVRC's own numbers: here 1 for the goldfish and 2 for the tench."""
    kit = root / "ILSVRC2012_devkit_t12" / "data"
    kit.mkdir(parents=True)
    (kit / "ILSVRC2012_validation_ground_truth.txt").write_text("1\n2\n1\n")
    if meta:
        kind = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
        rows = [(1, GOLDFISH, "goldfish", 0), (2, TENCH, "tench", 0), (3, "n00001740", "entity", 2)]
        scipy.io.savemat(kit / "meta.mat", {"synsets": np.array(rows, kind)})
    return kit


def test_development_kit(tmp_path):
    write_train(tmp_path / "ILSVRC2012_img_train")
    write_flat(tmp_path / "ILSVRC2012_img_val")
    kit = write_kit(tmp_path)
    assert_val(load(tmp_path))
    (kit / "map_clsloc.txt").write_text(f"{GOLDFISH} 1 goldfish\n{TENCH} 2 tench\n")
    (kit / "meta.mat").unlink()
    assert_val(load(tmp_path))


def test_what_the_development_kit_lacks(tmp_path):
    write_train(tmp_path / "train")
    write_flat(tmp_path / "val")
    with pytest.raises(ClassroomError, match=r"LOC_val_solution\.csv .* ILSVRC2012_devkit_t12"):
        load(tmp_path)
    kit = write_kit(tmp_path, meta=False)
    with pytest.raises(ClassroomError, match=r"neither meta\.mat nor map_clsloc\.txt"):
        load(tmp_path)
    (kit / "meta.mat").write_bytes(b"no matrix")
    with pytest.raises(ClassroomError, match=r"meta\.mat: cannot be read"):
        load(tmp_path)


def test_tiny_imagenet(tmp_path):
    for synset in (TENCH, GOLDFISH):
        save(tmp_path / "train" / synset / "images" / f"{synset}_0.JPEG")
        (tmp_path / "train" / synset / f"{synset}_boxes.txt").touch()
    for number, synset in VAL.items():
        save(
            tmp_path / "val" / "images" / f"val_{number}.JPEG", "red" if synset == TENCH else "blue"
        )
    lines = [f"val_{number}.JPEG\t{synset}\t0\t0\t9\t9" for number, synset in VAL.items()]
    (tmp_path / "val" / "val_annotations.txt").write_text("\n".join(lines))
    assert_val(load(tmp_path))
    assert "2 files that are no images by their names" in load(tmp_path, "train").notes[0]


def test_images_and_labels_that_lack_each_other(tmp_path):
    write_train(tmp_path / "train")
    write_flat(tmp_path / "val")
    save(tmp_path / "val" / "ILSVRC2012_val_00000009.JPEG")
    (tmp_path / "val" / "ILSVRC2012_val_00000001.JPEG").unlink()
    write_kit(tmp_path)
    with pytest.raises(
        ClassroomError, match=r"no label for 1 of 3 images: ILSVRC2012_val_00000009"
    ):
        load(tmp_path)
    (tmp_path / "val" / "ILSVRC2012_val_00000009.JPEG").unlink()
    test = load(tmp_path)
    assert len(test) == 2
    assert "left out 1 labels of ILSVRC2012_validation_ground_truth.txt without" in test.notes[0]


def test_a_synset_without_training_images(tmp_path):
    write_train(tmp_path / "train")
    save(tmp_path / "val" / HEN / "0.JPEG")
    with pytest.raises(ClassroomError, match=f"{HEN} among the classes of the test"):
        load(tmp_path)


def test_without_val_a_share_is_for_the_test(tmp_path):
    write_train(tmp_path / "train")
    assert load(tmp_path, test=0.5).target.tolist() == [0, 1]


def test_other_folders(tmp_path):
    save(tmp_path / "train" / "cat" / "0.jpg")
    with pytest.raises(ClassroomError, match="read by data.name: folder"):
        load(tmp_path)
    (tmp_path / "train" / f"{TENCH}.tar").touch()
    with pytest.raises(ClassroomError, match="unpack each"):
        load(tmp_path)
    with pytest.raises(ClassroomError, match="no such folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(ClassroomError, match="give path"):
        load_image_set("imagenet", "train", hub="ILSVRC/imagenet-1k")


def test_mentors_know_the_classes(tmp_path):
    """Those of ImageNet's list, of torchvision and of hubs, which have no synsets."""
    write_train(tmp_path / "train")
    (tmp_path / "train" / GOLDFISH).rename(tmp_path / "train" / HEN)
    classes = load(tmp_path, "train", test=0.5).classes
    bare = tuple(name.split(", ", 1)[1] for name in imagenet_classes())
    first = tuple(name.split(",")[0] for name in bare)
    for mentor in (imagenet_classes(), bare, first):
        assert class_map(mentor, classes).tolist() == [0, 8]


def test_all_classes_are_the_mentors_own():
    synsets = [name.split(",")[0] for name in imagenet_classes()]
    assert sorted(synsets) == synsets
    assert words.synset_names(synsets, {}) == imagenet_classes() == words.imagenet_names()
    assert class_map(imagenet_classes(), words.synset_names(synsets, {})) is None


def test_words_without_timm(tmp_path, monkeypatch):
    write_train(tmp_path / "train")
    (tmp_path / "LOC_synset_mapping.txt").write_text(f"{TENCH} tench, Tinca tinca\n")
    monkeypatch.setattr(words, "_timm_words", dict)
    assert load(tmp_path, "train", test=0.5).classes == (CLASSES[0], GOLDFISH)
    synsets = [f"n{number:08d}" for number in range(1000)]
    assert words.synset_names(synsets, {})[1] == "n00000001, goldfish"
    assert words.imagenet_names()[:2] == ("tench", "goldfish")


def test_classes_are_numbered_by_their_synsets(tmp_path):
    write_train(tmp_path / "train")
    photos = load(tmp_path, "train", test=0.5)
    assert torch.equal(class_map(imagenet_classes(), photos.classes), torch.tensor([0, 1]))
