"""Small stand-ins for CIFAR-100 in the layouts that users have."""

import io
import json
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torchvision.datasets import CIFAR100
from torchvision.datasets.utils import calculate_md5

FINE = [f"thing_{i}" for i in range(100)]
PIXELS = np.random.default_rng(0).integers(0, 256, (100, 32, 32, 3), dtype=np.uint8)
LABELS = np.random.default_rng(1).permutation(100)


def encode(pixels, format="PNG"):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format, lossless=True)
    return stream.getvalue()


ENCODED = [encode(pixels, "PNG" if i % 2 else "WEBP") for i, pixels in enumerate(PIXELS)]


def write_parquet(file, rows=slice(None), *, encoded=None, labels=None, **names):
    image, label = names.get("image", "img"), names.get("label", "fine_label")
    classes = names.get("classes", FINE)
    encoded = [{"bytes": b, "path": None} for b in (encoded or ENCODED)[rows]]
    labels = (LABELS.tolist() if labels is None else labels)[rows]
    image_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({image: pa.array(encoded, image_type), label: pa.array(labels, pa.int64())})
    features = {image: {"_type": "Image"}, label: {"names": classes, "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})} if classes else {}
    pq.write_table(table.replace_schema_metadata(metadata), file, row_group_size=30)


class Python2Pickler(pickle._Pickler):
    """Writes as Python 2 did: no text, no booleans, and numpy's old module names."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_string(self, value):
        value = value.encode("latin1") if isinstance(value, str) else value
        self.write(pickle.BINSTRING + len(value).to_bytes(4, "little") + value)
        self.memoize(value)

    def save_boolean(self, value):
        self.save_long(int(value))

    dispatch |= {str: save_string, bytes: save_string, bool: save_boolean}


def write_pickle(file, content, python2=True):
    stream = io.BytesIO()
    (Python2Pickler if python2 else pickle.Pickler)(stream, protocol=2).dump(content)
    old, new = b"cnumpy.core.multiarray\n", b"cnumpy._core.multiarray\n"
    file.write_bytes(stream.getvalue().replace(new, old) if python2 else stream.getvalue())


def write_cifar100(root, monkeypatch, python2=True):
    """Torchvision takes these files for those that were published."""
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    write_pickle(folder / "meta", {"fine_label_names": FINE, "coarse_label_names": []}, python2)
    for split, rows in (("train", slice(0, 80)), ("test", slice(80, 100))):
        data = PIXELS[rows].transpose(0, 3, 1, 2).reshape(-1, 3072)
        content = {"data": data, "fine_labels": LABELS[rows].tolist(), "coarse_labels": []}
        write_pickle(folder / split, content, python2)
    publish(monkeypatch, CIFAR100, folder)
    return folder


def publish(monkeypatch, cifar, folder):
    """Let torchvision know the checksums of the files that are in a folder."""

    def md5(name):
        return calculate_md5(folder / name) if (folder / name).is_file() else "0" * 32

    for files in ("train_list", "test_list"):
        known = [[name, md5(name)] for name, _ in getattr(cifar, files)]
        monkeypatch.setattr(cifar, files, known)
    monkeypatch.setattr(cifar, "meta", cifar.meta | {"md5": md5(cifar.meta["filename"])})


def assert_is(image_set, rows):
    expected = torch.from_numpy(PIXELS[rows].transpose(0, 3, 1, 2).copy())
    assert torch.equal(image_set.images, expected)
    assert image_set.target.tolist() == LABELS[rows].tolist()
    assert image_set.index.tolist() == list(range(len(expected)))
