import numpy as np
import pytest
import torch

from classroomkd.data import load_image_set
from classroomkd.errors import ClassroomError
from tests.data.stand_ins import FINE, LABELS, PIXELS, assert_is, write_cifar100, write_pickle


@pytest.mark.parametrize("python2", [True, False])
@pytest.mark.parametrize("inside", [True, False])
def test_torchvision_layout(tmp_path, python2, inside):
    folder = write_cifar100(tmp_path, python2)
    for split, rows in (("train", slice(0, 80)), ("test", slice(80, 100))):
        image_set = load_image_set("cifar100", split, path=folder if inside else tmp_path)
        assert_is(image_set, rows)
        assert image_set.classes == tuple(FINE)


def test_torchvision_layout_of_cifar10(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    write_pickle(folder / "batches.meta", {"label_names": FINE[:10]})
    data = PIXELS.transpose(0, 3, 1, 2).reshape(5, 20, 3072)
    for i in range(5):
        labels = (LABELS % 10).reshape(5, 20)[i].tolist()
        write_pickle(folder / f"data_batch_{i + 1}", {"data": data[i], "labels": labels})
    train = load_image_set("cifar10", "train", path=tmp_path)
    assert torch.equal(train.images, torch.from_numpy(PIXELS.transpose(0, 3, 1, 2).copy()))
    assert train.target.tolist() == (LABELS % 10).tolist()
    with pytest.raises(ClassroomError, match="test_batch: no such file"):
        load_image_set("cifar10", "test", path=tmp_path)


class Bomb:
    def __reduce__(self):
        return (exec, ("raise SystemExit('the pickle ran')",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Bomb(), "exec' is not allowed"),
        ([1], "holds a list"),
        ({"data": np.zeros((1, 3072), np.uint8)}, r"no entry 'fine_labels' \(found: data\)"),
        ({"fine_labels": [1, 2], "data": np.zeros((1, 3072), np.uint8)}, r"uint8 \[2, 3072\]"),
        ({"fine_labels": [100], "data": np.zeros((1, 3072), np.uint8)}, "row 0: label 100 is not"),
    ],
)
def test_bad_pickle(tmp_path, content, message):
    file = write_cifar100(tmp_path) / "train"
    write_pickle(file, content, python2=False)
    with pytest.raises(ClassroomError, match=message) as caught:
        load_image_set("cifar100", "train", path=tmp_path)
    assert str(file) in str(caught.value)


def test_damaged_pickle(tmp_path):
    file = write_cifar100(tmp_path) / "train"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ClassroomError, match=r"train: not a pickle of arrays"):
        load_image_set("cifar100", "train", path=tmp_path)
