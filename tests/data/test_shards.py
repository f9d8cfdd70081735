import io
import json
import pickle
import tarfile

import pytest
import torch

from classroomkd.data import PhotoSet, ViewLoader, load_image_set, resized_crop
from classroomkd.errors import ClassroomError
from tests.data.pictures import encoded

COLOURS = {"blue": (0, 0, 255), "red": (255, 0, 0)}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CLASSROOMKD_CACHE", str(tmp_path / "cache"))


def samples(count, start=0, label=str):
    """Members of blue and red images by turns, each of another size."""
    for number in range(start, start + count):
        name = sorted(COLOURS)[number % 2]
        yield f"{number:04d}.png", encoded(name, (20 + number, 16))
        yield f"{number:04d}.cls", str(label(number % 2)).encode()


def write(file, members):
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file


def load(path, split="train", **options):
    return load_image_set("shards", split, path=path, **({"workers": 0, "size": 16} | options))


def colours(photos):
    return [tuple(pixel) for pixel in photos.images[:, :, 8, 8].tolist()]


def assert_blue_and_red(photos, count, classes=("0", "1")):
    assert isinstance(photos, PhotoSet)
    assert photos.classes == classes
    assert photos.target.tolist() == [row % 2 for row in range(count)]
    assert colours(photos) == [list(COLOURS.values())[t] for t in photos.target]


def test_splits_by_the_names_of_files(tmp_path):
    for number in range(2):
        write(tmp_path / f"train-{number:03d}.tar", samples(4, 4 * number))
    write(tmp_path / "val" / "000.tar", samples(2))
    train, test = load(tmp_path), load(tmp_path, "test")
    assert_blue_and_red(train, 8)
    assert_blue_and_red(test, 2)
    assert train.development is None
    write(tmp_path / "test" / "000.tar", samples(4))
    assert_blue_and_red(load(tmp_path, "test"), 4)
    assert_blue_and_red(load(tmp_path).development, 2)


def test_a_pattern_is_split_by_class(tmp_path):
    for number in range(4):
        write(tmp_path / f"{number:03d}.tar", samples(5, 5 * number))
    path = tmp_path / "{000..003}.tar"
    train, test = (load(path, split, test=0.3) for split in ("train", "test"))
    assert sorted([*train.index.tolist(), *test.index.tolist()]) == list(range(20))
    assert test.target.bincount().tolist() == [3, 3]
    with pytest.raises(ClassroomError, match=r"004\.tar: no such file"):
        load(tmp_path / "{000..004}.tar")


def test_the_folder_above_names_no_split(tmp_path):
    for split in ("train", "val"):
        write(tmp_path / "test" / split / "000.tar", samples(4))
        write(tmp_path / "test" / "plain" / f"{split}.x.tar", samples(4))
    for path in ("{train,val}/000.tar", "*/000.tar", "plain/*.tar", "plain"):
        assert len(load(tmp_path / "test" / path)) == 4, path
    assert len(load(tmp_path / "test" / "val" / "000.tar", test=1)) == 3


def test_views_are_those_of_the_samples(tmp_path):
    photos = load(write(tmp_path / "a.tar", samples(8)), test=2)
    alone, together = (ViewLoader(photos, size, augment=[resized_crop()]) for size in (1, 6))
    alone, together = (torch.cat([b.images for b in loader]) for loader in (alone, together))
    assert torch.equal(alone, together)
    again = pickle.loads(pickle.dumps(photos))
    assert torch.equal(again.images, photos.images)
    assert again.fingerprint == photos.fingerprint


def test_names_as_labels(tmp_path):
    names = ["cat", "dog"]
    for split in ("train", "test"):
        write(tmp_path / f"{split}.tar", samples(4, label=names.__getitem__))
    assert_blue_and_red(load(tmp_path), 4, ("cat", "dog"))


def test_names_of_numbers(tmp_path):
    for split in ("train", "test"):
        write(tmp_path / f"{split}.tar", samples(4))
    assert_blue_and_red(load(tmp_path, classes=("cat", "dog")), 4, ("cat", "dog"))


def in_json(count, **more):
    for name, content in samples(count):
        if name.endswith(".cls"):
            fields = {"kind": {"name": f"class {content.decode()}"}, "wide": 1.5} | more
            name, content = name.replace("cls", "json"), json.dumps(fields).encode()
        yield name, content


def test_labels_in_json(tmp_path):
    for split in ("train", "test"):
        write(tmp_path / f"{split}.tar", in_json(4))
    assert_blue_and_red(load(tmp_path, label="json.kind.name"), 4, ("class 0", "class 1"))
    with pytest.raises(ClassroomError, match=r"label '\.cls'.* data.label .*json.kind, json.wide"):
        load(tmp_path)
    with pytest.raises(ClassroomError, match="cannot be read: .*neither a whole number nor a text"):
        load(tmp_path, label="json.wide")
    with pytest.raises(ClassroomError, match="no field 'nothing'"):
        load(tmp_path, label="json.nothing")
    with pytest.raises(ClassroomError, match="cannot be read: .*neither a whole number nor a text"):
        load(tmp_path, label="json")


def test_several_images_in_a_sample(tmp_path):
    members = [*samples(4), *((f"{n:04d}.seg.png", encoded("lime")) for n in range(4))]
    write(tmp_path / "train.tar", members)
    write(tmp_path / "test.tar", members)
    assert_blue_and_red(load(tmp_path), 4)
    assert set(colours(load(tmp_path, image="seg.png"))) == {(0, 255, 0)}
    write(tmp_path / "train.tar", [*members, ("0000.JPG", encoded(format="JPEG"))])
    with pytest.raises(ClassroomError, match=r"0000 has several images: .*data\.image: png or jpg"):
        load(tmp_path)


def incomplete(file):
    return write(
        file,
        [
            *samples(8),
            ("orphan.png", encoded()),
            ("widow.cls", b"1"),
            ("mute.png", encoded()),
            ("mute.cls", b""),
            ("0000.cls", b"0"),
            (".hidden.png", b"x"),
        ],
    )


def test_incomplete_samples_are_named_and_counted(tmp_path):
    path = incomplete(tmp_path / "a.tar")
    with pytest.raises(ClassroomError, match="1 images without a label: a.tar/orphan.*bad_images"):
        load(path)
    notes = "\n".join(load(path, bad_images="skip", test=2).notes)
    for note in (
        "left out 1 images without a label: a.tar/orphan",
        "left out 1 labels without an image: a.tar/widow",
        "left out 1 images whose label cannot be read: a.tar/mute (it is empty)",
        "left out 1 members that are there twice: a.tar/0000.cls",
    ):
        assert note in notes
    assert "hidden" not in notes


def damaged(content, how):
    """A tar file that has lost something: in all of them, its third sample."""
    third = content.index(b"0002.png")
    return {
        "inside an image": content[: third + 530],
        "inside a header": content[: third + 100],
        "between members": content[:third],
        "a header of noise": content[:third] + b"noise" * 100 + content[third + 500 :],
    }[how]


@pytest.mark.parametrize(
    "how", ["inside an image", "inside a header", "between members", "a header of noise"]
)
def test_a_damaged_shard_is_read_up_to_the_damage(tmp_path, how):
    file = write(tmp_path / "train.tar", samples(4))
    write(tmp_path / "test.tar", samples(4))
    file.write_bytes(damaged(file.read_bytes(), how))
    with pytest.raises(ClassroomError, match=r"1 damaged tar files .*train\.tar.*bad_images: skip"):
        load(tmp_path)
    photos = load(tmp_path, bad_images="skip")
    assert_blue_and_red(photos, 2)
    assert "1 damaged tar files" in photos.notes[0]


def test_no_tar_files(tmp_path):
    with pytest.raises(ClassroomError, match=r"no files \*\.tar in it \(found: nothing"):
        load(tmp_path)
    (tmp_path / "train.tar").write_bytes(b"\x1f\x8b compressed")
    with pytest.raises(ClassroomError, match="compressed ones, which must be unpacked"):
        load(tmp_path)
    with pytest.raises(ClassroomError, match=r"train\.tar: .*there are no others"):
        load(tmp_path, bad_images="skip")
    with pytest.raises(ClassroomError, match=r"\{7\.\.3\}\.tar: stands for no files: ranges go up"):
        load(tmp_path / "{7..3}.tar")
    with pytest.raises(ClassroomError, match="give path"):
        load_image_set("shards", "train")


def test_bad_images_are_named_or_skipped(tmp_path):
    members = [*samples(8), ("1000.jpg", b"no image"), ("1000.cls", b"1")]
    path = write(tmp_path / "a.tar", members)
    with pytest.raises(ClassroomError, match=r"a\.tar/1000\.jpg: cannot be used as an image"):
        load(path, test=1).images  # noqa: B018
    photos = load(path, test=2, bad_images="skip")
    assert len(photos) == 6
    assert "a.tar/1000.jpg (no image that Pillow knows)" in photos.notes[0]


def test_the_index_is_kept_until_the_file_changes(tmp_path, monkeypatch):
    path = write(tmp_path / "a.tar", samples(8))
    before = load(path, test=2)

    def fail(*_, **__):
        raise AssertionError("a tar file was read again")

    monkeypatch.setattr(tarfile, "open", fail)
    again = load(path, test=2)
    assert again.fingerprint == before.fingerprint
    monkeypatch.undo()
    monkeypatch.setenv("CLASSROOMKD_CACHE", str(tmp_path / "cache"))
    write(path, samples(10))
    assert len(load(path, test=2)) == 8


def test_a_shard_that_shrinks_meanwhile(tmp_path):
    path = write(tmp_path / "a.tar", samples(8))
    photos = load(path, test=2)
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(ClassroomError, match=r"a\.tar/0007\.png: cannot be used"):
        photos.subset(torch.tensor([len(photos) - 1])).images  # noqa: B018
