import pickle

import pytest
import torch
from torchvision.datasets import CIFAR10, CIFAR100

from classroomkd.data import load_image_set
from classroomkd.errors import ClassroomError
from tests.data.stand_ins import (
    FINE,
    LABELS,
    PIXELS,
    assert_is,
    publish,
    write_cifar100,
    write_pickle,
)


@pytest.mark.parametrize("python2", [True, False])
@pytest.mark.parametrize("inside", [True, False])
def test_torchvision_layout(tmp_path, python2, inside, monkeypatch):
    folder = write_cifar100(tmp_path, monkeypatch, python2)
    for split, rows in (("train", slice(0, 80)), ("test", slice(80, 100))):
        image_set = load_image_set("cifar100", split, path=folder if inside else tmp_path)
        assert_is(image_set, rows)
        assert image_set.classes == tuple(FINE)


def test_torchvision_layout_of_cifar10(tmp_path, monkeypatch):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    write_pickle(folder / "batches.meta", {"label_names": FINE[:10]})
    data = PIXELS.transpose(0, 3, 1, 2).reshape(5, 20, 3072)
    for i in range(5):
        labels = (LABELS % 10).reshape(5, 20)[i].tolist()
        write_pickle(folder / f"data_batch_{i + 1}", {"data": data[i], "labels": labels})
    publish(monkeypatch, CIFAR10, folder)
    train = load_image_set("cifar10", "train", path=tmp_path)
    assert torch.equal(train.images, torch.from_numpy(PIXELS.transpose(0, 3, 1, 2).copy()))
    assert train.target.tolist() == (LABELS % 10).tolist()
    with pytest.raises(ClassroomError, match="test_batch: no such file"):
        load_image_set("cifar10", "test", path=tmp_path)


class Bomb:
    def __reduce__(self):
        return (exec, ("raise SystemExit('the pickle ran')",))


@pytest.mark.parametrize("name", ["train", "meta"])
def test_what_was_not_published_is_not_unpickled(tmp_path, monkeypatch, name):
    file = write_cifar100(tmp_path, monkeypatch) / name
    write_pickle(file, Bomb(), python2=False)
    with pytest.raises(SystemExit, match="the pickle ran"):
        pickle.loads(file.read_bytes())
    with pytest.raises(ClassroomError, match="is not the file that was published.*MD5") as caught:
        load_image_set("cifar100", "train", path=tmp_path)
    assert str(file) in str(caught.value)


def test_damaged_pickle(tmp_path, monkeypatch):
    file = write_cifar100(tmp_path, monkeypatch) / "train"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ClassroomError, match=r"train: is not the file that was published"):
        load_image_set("cifar100", "train", path=tmp_path)
    assert len(load_image_set("cifar100", "test", path=tmp_path)) == 20


def test_the_checksums_are_those_of_torchvision():
    assert dict(CIFAR100.train_list)["train"] == "16019d7e3df5f24257cddd939b257f8d"
