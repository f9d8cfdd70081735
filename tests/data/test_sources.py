import urllib.error
from pathlib import Path

import pytest
import torch

from classroomkd.data import ImageSet, list_datasets, load_image_set, register_dataset, sources
from classroomkd.errors import ClassroomError
from tests.data.stand_ins import FINE, assert_is, write_cifar100, write_parquet


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """No data in the environment, an empty home, and no network."""

    def refuse(*_args, **_kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.delenv("CLASSROOMKD_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr("torchvision.datasets.utils.download_and_extract_archive", refuse)
    return tmp_path / "home" / ".cache" / "classroomkd"


def test_digits():
    train, test = load_image_set("digits", "train"), load_image_set("digits", "test")
    assert (len(train), len(test)) == (1347, 450)
    assert train.images.shape == (1347, 3, 8, 8)
    assert (train.images.min(), train.images.max()) == (0, 255)
    assert torch.equal(train.images[:, 0], train.images[:, 2])
    assert train.classes == tuple("0123456789")
    for part in (train, test):
        counts = torch.bincount(part.target, minlength=10) / len(part)
        assert ((counts > 0.09) & (counts < 0.11)).all()
    images = (train.images / 255).transpose(0, 1).flatten(1)
    assert images.mean(1).tolist() == pytest.approx(train.mean, abs=1e-4)
    assert images.std(1).tolist() == pytest.approx(train.std, abs=1e-3)
    assert load_image_set("digits", "train").fingerprint == train.fingerprint


def test_digits_splits_do_not_overlap():
    train, test = (load_image_set("digits", s).images.flatten(1).tolist() for s in sources.SPLITS)
    assert not {tuple(image) for image in train} & {tuple(image) for image in test}


def test_wrong_folders(tmp_path):
    with pytest.raises(ClassroomError, match="absent: no such folder"):
        load_image_set("cifar100", "train", path=tmp_path / "absent")
    with pytest.raises(ClassroomError, match=r"'train-\*.parquet' \(found: nothing\)"):
        load_image_set("cifar100", "train", path=tmp_path)
    (tmp_path / "cifar-100-python.tar.gz").touch()
    with pytest.raises(ClassroomError, match="'cifar-100-python' nor .*found: cifar-100-py.*gz"):
        load_image_set("cifar100", "train", path=tmp_path)


def test_wrong_names(tmp_path):
    photographs = ["folder", "imagenet", "shards", "table"]
    assert list_datasets() == ["cifar10", "cifar100", "digits", *photographs]
    with pytest.raises(ValueError, match=r"unknown dataset 'cifar-100': did you mean 'cifar100'\?"):
        load_image_set("cifar-100", "train")
    with pytest.raises(ValueError, match="unknown split 'validation'"):
        load_image_set("digits", "validation")
    with pytest.raises(ClassroomError, match="give path or hub, not both"):
        load_image_set("cifar100", "train", path=tmp_path, hub="uoft-cs/cifar100")
    with pytest.raises(ClassroomError, match="leave out path and hub"):
        load_image_set("digits", "train", path=tmp_path)


def test_a_registered_dataset(monkeypatch, toy):
    monkeypatch.setattr(sources, "_READERS", dict(sources._READERS))

    @register_dataset("toy")
    def read(split: str, path: Path | None, hub: str | None) -> ImageSet:
        return toy

    assert load_image_set("toy", "train") is toy
    with pytest.raises(ValueError, match="'toy' is already registered"):
        register_dataset("toy")(read)


def test_found_in_the_environment(nowhere, tmp_path, monkeypatch):
    monkeypatch.setenv("CLASSROOMKD_DATA", str(tmp_path))
    write_cifar100(tmp_path / "cifar100", monkeypatch)
    assert_is(load_image_set("cifar100", "train"), slice(0, 80))


def test_found_in_the_cache(nowhere, monkeypatch):
    write_cifar100(nowhere / "cifar100", monkeypatch)
    assert_is(load_image_set("cifar100", "test"), slice(80, 100))


def test_downloaded(nowhere, monkeypatch):
    def download(url, root, filename, md5):
        assert url.endswith(filename)
        assert len(md5) == 32
        write_cifar100(Path(root), monkeypatch)

    monkeypatch.setattr("torchvision.datasets.utils.download_and_extract_archive", download)
    assert_is(load_image_set("cifar100", "train"), slice(0, 80))


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_no_network(nowhere, name):
    with pytest.raises(ClassroomError) as caught:
        load_image_set(name, "train")
    file = "cifar-10-python.tar.gz" if name == "cifar10" else "cifar-100-python.tar.gz"
    folder = "cifar-10-batches-py" if name == "cifar10" else "cifar-100-python"
    for part in (
        f"https://www.cs.toronto.edu/~kriz/{file}",
        str(nowhere / name / folder),
        "path",
        "$CLASSROOMKD_DATA",
        f"hub to uoft-cs/{name}",
    ):
        assert part in str(caught.value)


def test_hub(monkeypatch, tmp_path):
    import datasets

    write_parquet(tmp_path / "train-0.parquet")

    def load_dataset(name, split):
        assert (name, split) == ("uoft-cs/cifar100", "train")
        return datasets.Dataset.from_parquet(
            str(tmp_path / "train-0.parquet"), cache_dir=str(tmp_path / "cache")
        )

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    image_set = load_image_set("cifar100", "train", hub="uoft-cs/cifar100")
    assert_is(image_set, slice(None))
    assert image_set.classes == tuple(FINE)


def test_hub_out_of_reach(monkeypatch):
    import datasets

    def load_dataset(name, split):
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(ClassroomError, match=r"uoft-cs/cifar100 \(train\): .*set path"):
        load_image_set("cifar100", "train", hub="uoft-cs/cifar100")


def test_real_cifar100(cifar100, cifar100_folder):
    assert torch.bincount(cifar100.target).tolist() == [500] * 100
    assert cifar100.images.shape == (50_000, 3, 32, 32)
    channels = cifar100.images.transpose(0, 1).flatten(1)
    counts = torch.stack([torch.bincount(channel, minlength=256) for channel in channels])
    levels = torch.arange(256, dtype=torch.float64) / 255
    mean = (counts * levels).sum(1) / counts.sum(1)
    std = ((counts * levels**2).sum(1) / counts.sum(1) - mean**2).sqrt()
    assert mean.tolist() == pytest.approx(cifar100.mean, abs=1e-3)
    assert std.tolist() == pytest.approx(cifar100.std, abs=1e-3)
    assert cifar100.classes[:3] == ("apple", "aquarium_fish", "baby")
    assert cifar100.classes[-1] == "worm"
    assert list(cifar100.classes) == sorted(cifar100.classes)
    test = load_image_set("cifar100", "test", path=cifar100_folder)
    assert torch.bincount(test.target).tolist() == [100] * 100
    assert test.classes == cifar100.classes


def test_real_labels_fit_the_pictures(cifar100):
    """Seas are blue and apples red: what a wrong row order or channel order would break."""

    def colour(name):
        chosen = cifar100.images[cifar100.target == cifar100.classes.index(name)]
        return chosen[:, :, 8:24, 8:24].float().mean((0, 2, 3))

    red, green, blue = colour("sea")
    assert blue > red + 10
    red, green, blue = colour("apple")
    assert red > blue + 30
    assert red > green + 20
