"""Where image sets come from: scikit-learn, a folder, the Hugging Face hub, or a download.

``load_image_set`` is the way in; ``register_dataset`` adds a set of your own.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from classroomkd.data.cifar import Cifar
from classroomkd.data.folder import read_folder
from classroomkd.data.imagenet import read_imagenet
from classroomkd.data.images import ImageSet, development_split
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


def _at_path(name: str, read: Reader, what: str, folder: bool = True) -> None:
    """Register a reader of photographs that lie at a path, and not on the hub."""

    @register_dataset(name)
    def reader(split: str, path: Path | None, hub: str | None, **options: Any) -> ImageSet:
        if path is None or hub is not None:
            raise ClassroomError(f"{name}: give path, {what}, and no hub")
        if folder and not path.is_dir():
            raise ClassroomError(f"{name}: {path}: no such folder")
        return read(split, path, **options)


_at_path("folder", read_folder, "the folder that has train/<class>/")
_at_path("imagenet", read_imagenet, "the folder that has train/<class>/")
_at_path("shards", read_shards, "a folder of tar files or a pattern", folder=False)
register_dataset("table")(read_table_set)
register_dataset("cifar10")(
    Cifar("cifar10", 10, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
)
register_dataset("cifar100")(
    Cifar("cifar100", 100, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))
)
