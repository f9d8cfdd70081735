"""CIFAR-10 and CIFAR-100, in memory: torchvision's files, or Parquet of the Hugging Face hub.

A pickle can run any code, so the files in torchvision's layout are opened only if they are those
that were published, by their MD5. Decoding the 50,000 images of Parquet takes about 3 s on one
core: more threads do not help, since Pillow holds the interpreter for images this small.
"""

import os
import warnings
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from classroomkd.data.files import named
from classroomkd.data.images import ImageSet
from classroomkd.data.labels import number_labels
from classroomkd.data.splits import check_complete
from classroomkd.data.tables import IMAGE_COLUMNS, LABEL_COLUMNS, load_from_hub
from classroomkd.errors import ClassroomError

if TYPE_CHECKING:
    from datasets import Dataset

Content = tuple[Tensor, Tensor, tuple[str, ...]]  # images, target, classes
# Naming the formats halves the time that Pillow takes to recognise a file.
_FORMATS = ("PNG", "WEBP", "JPEG")


@dataclass(frozen=True)
class Cifar:
    """A reader of one of the two, wherever it lies."""

    name: str
    class_count: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, split: str, path: Path | None, hub: str | None) -> ImageSet:
        """The images of ``split``; what is damaged or missing is a ClassroomError that names it."""
        if hub is not None:
            origin = f"{hub} ({split})"
            images, target, classes = decode(load_from_hub(origin, hub, split=split), origin)
        else:
            images, target, classes = self._from_folder(path or self._find(), split)
        if len(classes) != self.class_count:
            raise ClassroomError(
                f"{hub or path or self.name}: has {len(classes)} classes, {self.name} has"
                f" {self.class_count}"
            )
        return ImageSet(images, target, classes, self.mean, self.std, self.name)

    def _from_folder(self, folder: Path, split: str) -> Content:
        if unpacked := self._unpacked(folder):
            return self._from_torchvision(unpacked, split)
        if not folder.is_dir():
            raise ClassroomError(f"{self.name}: {folder}: no such folder")
        if files := sorted([*folder.glob(f"{split}.parquet"), *folder.glob(f"{split}-*.parquet")]):
            check_complete(folder, split, files)
            return read_parquet(files)
        found = sorted(entry.name for entry in folder.iterdir())
        raise ClassroomError(
            f"{self.name}: {folder}: neither torchvision's folder '{self._published.base_folder}'"
            f" nor Parquet files '{split}-*.parquet' (found: {named(found, 8) or 'nothing'})"
        )

    @property
    def _published(self) -> Any:
        """What torchvision knows of the files that were published."""
        from torchvision import datasets

        return datasets.CIFAR100 if self.name == "cifar100" else datasets.CIFAR10

    def _unpacked(self, folder: Path) -> Path | None:
        """The folder of the files that were published: ``folder`` or the one in it, if any."""
        for candidate in (folder / self._published.base_folder, folder):
            if (candidate / self._published.meta["filename"]).is_file():
                return candidate
        return None

    def _from_torchvision(self, folder: Path, split: str) -> Content:
        from torchvision.datasets.utils import check_integrity

        published = self._published
        files = published.train_list if split == "train" else published.test_list
        for name, md5 in [*files, (published.meta["filename"], published.meta["md5"])]:
            if not (folder / name).is_file():
                raise ClassroomError(
                    f"{folder / name}: no such file; fetch and unpack the set again"
                )
            if not check_integrity(str(folder / name), md5):
                raise ClassroomError(
                    f"{folder / name}: is not the file that was published, by its MD5, and is not"
                    " opened, since a pickle can run any code: delete the folder, then fetch and"
                    " unpack the set again. Images of your own can be read as Parquet"
                )

        class Reader(published):
            """The files of this split, in this folder."""

            base_folder = folder.absolute().name
            train_list = files if split == "train" else []
            test_list = files if split == "test" else []

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the integers that Python 2 wrote for booleans
            data: Any = Reader(str(folder.absolute().parent), train=split == "train")
        images = torch.from_numpy(data.data).permute(0, 3, 1, 2)
        return images, torch.tensor(data.targets), tuple(data.classes)

    def _find(self) -> Path:
        """The folder to read when none is given: in ``$CLASSROOMKD_DATA``, or downloaded."""
        if (root := os.environ.get("CLASSROOMKD_DATA")) and (Path(root) / self.name).is_dir():
            return Path(root) / self.name
        folder = Path.home() / ".cache" / "classroomkd" / self.name
        if not self._unpacked(folder):
            self._download(folder)
        return folder

    def _download(self, folder: Path) -> None:
        from torchvision.datasets import utils

        source = self._published
        try:
            utils.download_and_extract_archive(
                source.url, str(folder), filename=source.filename, md5=source.tgz_md5
            )
        except (OSError, RuntimeError) as error:
            raise ClassroomError(
                f"{self.name}: cannot download {source.url} ({error}). Either fetch it elsewhere "
                f"and unpack it so that {folder / source.base_folder} exists; or set path to a "
                "folder that has it (unpacked, or the Parquet files of the Hugging Face hub), or "
                f"$CLASSROOMKD_DATA to the parent of such a folder named '{self.name}'; or set "
                f"hub to uoft-cs/{self.name}"
            ) from error


def read_parquet(files: list[Path]) -> Content:
    """Read images ``[N, 3, H, W]`` uint8, target ``[N]`` int64 and class names from Parquet."""
    import datasets
    import pyarrow.parquet as pq

    parts = []
    for file in files:
        try:
            table = datasets.Dataset(pq.read_table(file))
        except Exception as error:  # Arrow, JSON and the file system each raise their own
            raise ClassroomError(f"{file}: cannot be read as Parquet ({error})") from error
        parts.append(decode(table, str(file)))
        if parts[-1][2] != parts[0][2] or parts[-1][0].shape[1:] != parts[0][0].shape[1:]:
            raise ClassroomError(f"{file}: other classes or image size than {files[0].name}")
    images, targets, names = zip(*parts, strict=True)
    return torch.cat(images), torch.cat(targets), names[0]


def decode(table: "Dataset", origin: str) -> Content:
    """Decode a table of two columns, image and label, whose errors name ``origin`` and the row."""

    def choose(usual: tuple[str, ...]) -> str:
        for name in usual:
            if name in table.column_names:
                return name
        wanted, found = (" or ".join(f"'{n}'" for n in usual), ", ".join(table.column_names))
        raise ClassroomError(f"{origin}: no column {wanted} (found: {found})")

    image, label = choose(IMAGE_COLUMNS), choose(LABEL_COLUMNS)
    names = getattr(table.features[label], "names", None)
    if names is None:
        raise ClassroomError(
            f"{origin}: no class names for '{label}': make that column a ClassLabel and write the"
            " table again with Dataset.to_parquet of `datasets`"
        )
    if not len(table):
        raise ClassroomError(f"{origin}: has no rows")
    target, classes = number_labels(table.data.column(label).to_pylist(), names, origin)
    column: Any = table.data.column(image)
    if "bytes" not in getattr(column.type, "names", ()):
        raise ClassroomError(
            f"{origin}: column '{image}' is {column.type}; needed: a struct with the field"
            " 'bytes', which holds an image file"
        )
    pixels = np.empty(0, np.uint8)
    encoded = ((cell or {}).get("bytes") for batch in column.chunks for cell in batch.to_pylist())
    for row, content in enumerate(encoded):
        try:
            if not content:
                raise ValueError("the row has no bytes")
            with Image.open(BytesIO(content), formats=_FORMATS) as opened:
                shown = np.asarray(opened if opened.mode == "RGB" else opened.convert("RGB"))
        except (OSError, ValueError, SyntaxError) as error:
            raise ClassroomError(f"{origin}: row {row}: no valid image ({error})") from error
        if not row:
            pixels = np.empty((len(table), *shown.shape), np.uint8)
        if shown.shape != pixels.shape[1:]:
            raise ClassroomError(
                f"{origin}: row {row}: the image's shape is {list(shown.shape)}, the first one's"
                f" {list(pixels.shape[1:])}; all must be of one size"
            )
        pixels[row] = shown
    return torch.from_numpy(pixels).permute(0, 3, 1, 2), target, classes
