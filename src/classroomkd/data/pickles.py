"""CIFAR as torchvision unpacks it: pickled dictionaries of arrays, from Python 2.

A pickle can run any code, so these are read by an unpickler that knows arrays and nothing else.
"""

import codecs
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from classroomkd.data.parquet import Content
from classroomkd.errors import ClassroomError


@dataclass(frozen=True)
class PickleLayout:
    """Names of the folder, of the files and of the keys in them."""

    folder: str
    files: dict[str, tuple[str, ...]]
    meta: str
    names_key: str
    labels_key: str


CIFAR10 = PickleLayout(
    folder="cifar-10-batches-py",
    files={"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)},
    meta="batches.meta",
    names_key="label_names",
    labels_key="labels",
)
CIFAR100 = PickleLayout(
    folder="cifar-100-python",
    files={"train": ("train",), "test": ("test",)},
    meta="meta",
    names_key="fine_label_names",
    labels_key="fine_labels",
)


def find_pickles(folder: Path, layout: PickleLayout) -> Path | None:
    """The folder of the layout's files: ``folder`` itself or the one in it, if any."""
    for candidate in (folder / layout.folder, folder):
        if (candidate / layout.meta).is_file():
            return candidate
    return None


def read_pickles(folder: Path, split: str, layout: PickleLayout) -> Content:
    """Read images ``[N, 3, 32, 32]`` uint8, target ``[N]`` int64 and class names.

    Raises:
        ClassroomError: If a file is missing, damaged or not what the layout says; names it.
    """
    meta = folder / layout.meta
    classes = tuple(str(name) for name in _entry(_load(meta), layout.names_key, meta))
    images, targets = [], []
    for name in layout.files[split]:
        file = folder / name
        content = _load(file)
        labels = list(_entry(content, layout.labels_key, file))
        pixels = np.asarray(_entry(content, "data", file))
        if pixels.dtype != np.uint8 or pixels.shape != (len(labels), 3 * 32 * 32):
            raise ClassroomError(
                f"{file}: 'data' is {pixels.dtype} {list(pixels.shape)}; "
                f"needed for {len(labels)} labels: uint8 [{len(labels)}, 3072]"
            )
        for row, label in enumerate(labels):
            if not isinstance(label, int) or not 0 <= label < len(classes):
                allowed = f"0 to {len(classes) - 1}"
                raise ClassroomError(f"{file}: row {row}: label {label} is not from {allowed}")
        images.append(pixels.reshape(-1, 3, 32, 32))
        targets.append(np.array(labels, np.int64))
    return (
        torch.from_numpy(np.concatenate(images)),
        torch.from_numpy(np.concatenate(targets)),
        classes,
    )


def _entry(content: dict[str, Any], key: str, file: Path) -> Any:
    if key not in content:
        found = ", ".join(map(str, content))
        raise ClassroomError(f"{file}: no entry '{key}' (found: {found})")
    return content[key]


def _load(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            content = _ArrayUnpickler(stream, encoding="latin1").load()
    except FileNotFoundError as error:
        raise ClassroomError(f"{file}: no such file; fetch and unpack the set again") from error
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise ClassroomError(
            f"{file}: not a pickle of arrays as CIFAR has them ({error}); "
            "delete the folder, then fetch and unpack the set again"
        ) from error
    if not isinstance(content, dict):
        raise ClassroomError(f"{file}: holds a {type(content).__name__}, needed: a dictionary")
    return content


def _dtype(code: str, align: object = False, copy: object = False) -> np.dtype:
    """``numpy.dtype``, where some releases warn at the integers Python 2 wrote for booleans.

    Always a copy, as the pickle sets its byte order next, and numpy's own object is fixed.
    """
    return np.dtype(code, copy=True)


_reconstruct = np.empty(0).__reduce__()[0]
_KNOWN = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("_codecs", "encode"): codecs.encode,
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _KNOWN[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"'{module}.{name}' is not allowed") from None
