"""Labelled images in Parquet, as Hugging Face data sets keep them.

Every image is a struct of ``bytes`` (an encoded file) and ``path``; the class names are in the
schema's metadata. Decoding CIFAR-100's 50,000 images takes about 3 s on one core. More threads do
not make it faster: for images this small Pillow holds the interpreter most of the time.
"""

import json
import re
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from classroomkd.errors import ClassroomError

if TYPE_CHECKING:
    import pyarrow as pa

Content = tuple[Tensor, Tensor, tuple[str, ...]]
IMAGE_COLUMNS = ("img", "image")
LABEL_COLUMNS = ("fine_label", "label")
# Naming the formats halves the time that Pillow takes to recognise a file.
_FORMATS = ("PNG", "WEBP", "JPEG")


def find_parquet(folder: Path, split: str) -> list[Path]:
    """The split's Parquet files in ``folder``, in order: ``train.parquet`` or ``train-*.parquet``.

    Raises:
        ClassroomError: if some of the files are missing by their own names (``-00000-of-00003``).
    """
    files = sorted([*folder.glob(f"{split}.parquet"), *folder.glob(f"{split}-*.parquet")])
    totals = {int(match[1]) for f in files if (match := re.search(r"-of-(\d+)\.parquet$", f.name))}
    if totals and totals != {len(files)}:
        raise ClassroomError(
            f"{folder}: {len(files)} of {max(totals)} files of the {split} split are here "
            f"({', '.join(f.name for f in files)}): fetch the others, or remove what is left over"
        )
    return files


def read_parquet(files: list[Path]) -> Content:
    """Read images ``[N, 3, H, W]`` uint8, target ``[N]`` int64 and class names.

    Raises:
        ClassroomError: If a file is damaged, lacks a column or the class names, or has a row
            without a valid image or label; names the file and the row.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    parts = []
    for file in files:
        try:
            with pq.ParquetFile(file) as parquet:
                schema = parquet.schema_arrow
                columns = choose_columns(schema.names, str(file))
                table = parquet.read(columns=list(columns))
        except (pa.ArrowException, OSError) as error:
            raise ClassroomError(f"{file}: cannot be read as Parquet ({error})") from error
        classes = _classes(schema.metadata or {}, columns[1], str(file))
        parts.append(read_table(table, classes, str(file)))
    images, targets, names = zip(*parts, strict=True)
    for file, other, part in zip(files, names, images, strict=True):
        if other != names[0] or part.shape[1:] != images[0].shape[1:]:
            raise ClassroomError(f"{file}: other classes or image size than {files[0].name}")
    return torch.cat(images), torch.cat(targets), names[0]


def choose_columns(names: list[str], origin: str) -> tuple[str, str]:
    """The columns of the image and of the label among ``names``.

    Raises:
        ClassroomError: If one is missing.
    """

    def choose(candidates: tuple[str, ...]) -> str:
        for name in candidates:
            if name in names:
                return name
        wanted = " or ".join(f"'{name}'" for name in candidates)
        raise ClassroomError(f"{origin}: no column {wanted} (found: {', '.join(names)})")

    return choose(IMAGE_COLUMNS), choose(LABEL_COLUMNS)


def read_table(table: "pa.Table", classes: tuple[str, ...], origin: str) -> Content:
    """Decode a table of two columns, image and label; ``origin`` names it in errors.

    Raises:
        ClassroomError: If a row has no valid image or label; names the row, from 0.
    """
    if not len(table):
        raise ClassroomError(f"{origin}: has no rows")
    target = np.empty(len(table), np.int64)
    pixels, row = np.empty(0, np.uint8), 0
    for batch in table.to_batches():
        images, labels = batch.columns
        try:
            encoded = images.field("bytes").to_pylist()
        except (AttributeError, KeyError) as error:
            raise ClassroomError(
                f"{origin}: column '{table.column_names[0]}' is {images.type}; "
                "needed: a struct with the field 'bytes', which holds an image file"
            ) from error
        for content, label in zip(encoded, labels.to_pylist(), strict=True):
            if not isinstance(label, int) or not 0 <= label < len(classes):
                allowed = f"0 to {len(classes) - 1}"
                raise ClassroomError(f"{origin}: row {row}: label {label} is not from {allowed}")
            try:
                image = _decode(content)
            except (OSError, ValueError, SyntaxError) as error:
                raise ClassroomError(f"{origin}: row {row}: no valid image ({error})") from error
            if not row:
                pixels = np.empty((len(table), *image.shape), np.uint8)
            if image.shape != pixels.shape[1:]:
                raise ClassroomError(
                    f"{origin}: row {row}: the image's shape is {list(image.shape)}, the first "
                    f"one's {list(pixels.shape[1:])}; all must be of one size"
                )
            pixels[row], target[row], row = image, label, row + 1
    return torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.from_numpy(target), classes


def _decode(content: bytes | None) -> np.ndarray:
    """Pixels ``[H, W, 3]`` uint8 of an encoded image."""
    if not content:
        raise ValueError("the row has no bytes")
    with Image.open(BytesIO(content), formats=_FORMATS) as image:
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _classes(metadata: dict[bytes, bytes], label: str, origin: str) -> tuple[str, ...]:
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return tuple(str(name) for name in features[label]["names"])
    except (KeyError, TypeError, ValueError) as error:
        raise ClassroomError(
            f"{origin}: the schema's metadata has no class names for '{label}'; make that column "
            "a ClassLabel and write the file again with Dataset.to_parquet of `datasets`"
        ) from error
