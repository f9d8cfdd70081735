"""Where image sets come from: scikit-learn, a folder, the Hugging Face hub, or a download.

``load_image_set`` is the way in; ``register_dataset`` adds a set of your own.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from classroomkd.data.folder import read_folder
from classroomkd.data.imagenet import read_imagenet
from classroomkd.data.images import ImageSet, development_split
from classroomkd.data.parquet import (
    Content,
    choose_columns,
    find_parquet,
    read_parquet,
    read_table,
)
from classroomkd.data.pickles import CIFAR10, CIFAR100, PickleLayout, find_pickles, read_pickles
from classroomkd.data.shards import read_shards
from classroomkd.data.tables import read_table_set
from classroomkd.errors import ClassroomError, unknown_name

Reader = Callable[..., ImageSet]
AnyReader = TypeVar("AnyReader", bound=Reader)
SPLITS = ("train", "test")
_READERS: dict[str, Reader] = {}


def register_dataset(name: str) -> Callable[[AnyReader], AnyReader]:
    """Make a function ``(split, path, hub, **options) -> ImageSet`` known by ``name``.

    Raises:
        ValueError: If the name is taken.
    """

    def register(reader: AnyReader) -> AnyReader:
        if name in _READERS:
            raise ValueError(f"a dataset named '{name}' is already registered")
        _READERS[name] = reader
        return reader

    return register


def list_datasets() -> list[str]:
    """Names of the registered data sets, sorted."""
    return sorted(_READERS)


def load_image_set(
    name: str,
    split: str,
    *,
    path: Path | str | None = None,
    hub: str | None = None,
    **options: Any,
) -> ImageSet:
    """Load a set of images with their classes.

    With neither ``path`` nor ``hub``, CIFAR is looked for in ``$CLASSROOMKD_DATA/<name>`` and
    ``~/.cache/classroomkd/<name>``, and downloaded to the latter if it is in neither.

    Args:
        name: ``digits``, ``cifar10``, ``cifar100``; of photographs ``folder``, ``imagenet``,
            ``shards``, ``table``; or a registered name.
        split: ``train`` or ``test``.
        path: Folder in torchvision's layout, or of Parquet files as on the Hugging Face hub; for
            photographs see `read_folder`, `read_imagenet`, `read_shards` and `read_table_set`.
        hub: Name of a data set on the hub, such as ``uoft-cs/cifar100``.
        options: Those of the set's reader.

    Raises:
        ValueError: If ``name`` or ``split`` is unknown.
        ClassroomError: If the data cannot be found or read; the message says what to do.

    >>> test = load_image_set("digits", "test")
    >>> len(test), test.images.shape[1:], test.classes[:3]
    (450, torch.Size([3, 8, 8]), ('0', '1', '2'))
    """
    if name not in _READERS:
        raise ValueError(unknown_name("dataset", name, _READERS))
    if split not in SPLITS:
        raise ValueError(unknown_name("split", split, SPLITS))
    if path is not None and hub is not None:
        raise ClassroomError(f"{name}: give path or hub, not both (path={path}, hub={hub})")
    return _READERS[name](split, None if path is None else Path(path).expanduser(), hub, **options)


@register_dataset("digits")
def _digits(split: str, path: Path | None, hub: str | None) -> ImageSet:
    """Handwritten digits of scikit-learn: 8x8 pixels, 1,347 to train and 450 to test."""
    from sklearn.datasets import load_digits

    if path is not None or hub is not None:
        raise ClassroomError("digits: comes with scikit-learn; leave out path and hub")
    data: Any = load_digits()
    gray = torch.from_numpy(np.rint(data.images * (255 / 16)).astype(np.uint8))
    target = torch.from_numpy(data.target.astype(np.int64))
    rows = development_split(target, 450, seed=0)[SPLITS.index(split)]
    return ImageSet(
        images=gray[rows, None].repeat(1, 3, 1, 1),
        target=target[rows],
        classes=tuple("0123456789"),
        mean=(0.3060, 0.3060, 0.3060),
        std=(0.3762, 0.3762, 0.3762),
        name="digits",
    )


@register_dataset("folder")
def _folder(split: str, path: Path | None, hub: str | None, **options: Any) -> ImageSet:
    """Photographs in a folder for each class, decoded as they are needed."""
    return read_folder(split, _only_path("folder", path, hub), **options)


@register_dataset("imagenet")
def _imagenet(split: str, path: Path | None, hub: str | None, **options: Any) -> ImageSet:
    """ImageNet-1k, or a subset of it, in the folders that it comes in."""
    return read_imagenet(split, _only_path("imagenet", path, hub), **options)


@register_dataset("shards")
def _shards(split: str, path: Path | None, hub: str | None, **options: Any) -> ImageSet:
    """Photographs in WebDataset's tar files."""
    if path is None or hub is not None:
        raise ClassroomError("shards: give path, a folder of tar files or a pattern, and no hub")
    return read_shards(split, path, **options)


register_dataset("table")(read_table_set)


def _only_path(name: str, path: Path | None, hub: str | None) -> Path:
    if path is None or hub is not None:
        raise ClassroomError(f"{name}: give path, the folder that has train/<class>/, and no hub")
    if not path.is_dir():
        raise ClassroomError(f"{name}: {path}: no such folder")
    return path


@dataclass(frozen=True)
class _Cifar:
    """A reader of CIFAR-10 or CIFAR-100, wherever it lies."""

    name: str
    class_count: int
    layout: PickleLayout
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, split: str, path: Path | None, hub: str | None) -> ImageSet:
        if hub is not None:
            origin, content = hub, _read_hub(hub, split)
        else:
            origin = str(path) if path is not None else self.name
            content = self._read_folder(path or self._find(), split)
        images, target, classes = content
        if len(classes) != self.class_count:
            raise ClassroomError(
                f"{origin}: has {len(classes)} classes, {self.name} has {self.class_count}"
            )
        return ImageSet(images, target, classes, self.mean, self.std, self.name)

    def _read_folder(self, folder: Path, split: str) -> Content:
        if pickles := find_pickles(folder, self.layout):
            return read_pickles(pickles, split, self.layout)
        if files := find_parquet(folder, split):
            return read_parquet(files)
        if not folder.is_dir():
            raise ClassroomError(f"{self.name}: {folder}: no such folder")
        found = sorted(entry.name for entry in folder.iterdir())
        listed = ", ".join(found[:8]) + (", …" if len(found) > 8 else "")
        raise ClassroomError(
            f"{self.name}: {folder}: neither torchvision's folder '{self.layout.folder}' nor "
            f"Parquet files '{split}-*.parquet' (found: {listed or 'nothing'})"
        )

    def _find(self) -> Path:
        """The folder to read when none is given: in ``$CLASSROOMKD_DATA``, or downloaded."""
        if (root := os.environ.get("CLASSROOMKD_DATA")) and (Path(root) / self.name).is_dir():
            return Path(root) / self.name
        folder = Path.home() / ".cache" / "classroomkd" / self.name
        if not find_pickles(folder, self.layout):
            self._download(folder)
        return folder

    def _download(self, folder: Path) -> None:
        from torchvision import datasets

        source = datasets.CIFAR100 if self.name == "cifar100" else datasets.CIFAR10
        try:
            datasets.utils.download_and_extract_archive(
                source.url, str(folder), filename=source.filename, md5=source.tgz_md5
            )
        except (OSError, RuntimeError) as error:
            raise ClassroomError(
                f"{self.name}: cannot download {source.url} ({error}). Either fetch it elsewhere "
                f"and unpack it so that {folder / self.layout.folder} exists; or set path to a "
                "folder that has it (unpacked, or the Parquet files of the Hugging Face hub), or "
                f"$CLASSROOMKD_DATA to the parent of such a folder named '{self.name}'; or set "
                f"hub to uoft-cs/{self.name}"
            ) from error


register_dataset("cifar10")(
    _Cifar("cifar10", 10, CIFAR10, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
)
register_dataset("cifar100")(
    _Cifar("cifar100", 100, CIFAR100, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))
)


def _read_hub(hub: str, split: str) -> Content:
    import datasets

    origin = f"{hub} ({split})"
    try:
        data = datasets.load_dataset(hub, split=split)
    except Exception as error:  # the hub, the network and the cache each raise their own
        raise ClassroomError(
            f"{origin}: cannot be loaded from the Hugging Face hub ({error}). Check the name and "
            "the network, or set path to a folder that has the data"
        ) from error
    image, label = choose_columns(data.column_names, origin)
    if not isinstance(data.features[label], datasets.ClassLabel):
        raise ClassroomError(f"{origin}: column '{label}' has no class names")
    classes = tuple(data.features[label].names)
    encoded = data.cast_column(image, datasets.Image(decode=False))
    table: Any = encoded.with_format("arrow")[:]
    return read_table(table.select([image, label]), classes, origin)
