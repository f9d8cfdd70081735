"""Tables of photographs, one a row: Parquet, a folder of `datasets`, or a name on the hub.

`datasets` reads them. Rows lie in files of Arrow in its cache (``$HF_HOME``) and are mapped into
memory, so that only those that are read take any. ``N`` rows.
"""

import io
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from classroomkd.data.decode import BadImage
from classroomkd.data.encoded import EncodedImages
from classroomkd.data.files import named
from classroomkd.data.labelled import LabelledImages, PhotoOptions, photo_dataset
from classroomkd.data.labels import ClassNames, class_list, number_labels, without_images
from classroomkd.data.photos import PhotoSet
from classroomkd.data.splits import group_files, split_of
from classroomkd.errors import ClassroomError, nearest

if TYPE_CHECKING:
    from datasets import Dataset

IMAGE_COLUMNS = ("img", "image")
LABEL_COLUMNS = ("fine_label", "label")
_SAMPLE = 64  # rows whose content a set is recognised by, beside the sizes of all


def read_table_set(
    split: str,
    path: Path | None,
    hub: str | None,
    *,
    image: str | None = None,
    label: str | None = None,
    classes: ClassNames | None = None,
    subset: str | None = None,
    **options: Any,
) -> PhotoSet:
    """Read photographs of any size from a table.

    Splits go by their names, such as ``train`` and ``validation``; one without labels is left out.
    A validation split is for development where there is a test split, and else for the test.

    Args:
        split: ``train`` or ``test``.
        path: Parquet files: a folder, a file or a pattern; or a folder that
            ``Dataset.save_to_disk`` has written.
        hub: name of a data set on the Hugging Face hub.
        image: the column of the images; if left out, one with a usual name, or the only one whose
            type says so.
        label: likewise; whole numbers, with class names or without, or texts.
        classes: their names, where the table has none; see `class_list`.
        subset: which configuration of the hub's data set, or which folder of ``path``.
        options: those of `PhotoOptions`.

    Raises:
        ClassroomError: if the data cannot be had, or columns or labels do not fit.
    """
    if path is None and hub is None:
        raise ClassroomError("table: give path (Parquet files) or hub (a name on the hub)")
    if path is None:
        origin, folder, tables = str(hub), Path(), _from_hub(str(hub), subset)
    else:
        origin = str(path / subset if subset else path)
        folder = path if path.is_dir() else path.parent
        tables = _from_files(Path(origin))
    names = class_list(classes)
    image = _choose("image", image, "Image", IMAGE_COLUMNS, tables["train"], origin)
    label = _choose("label", label, "ClassLabel", LABEL_COLUMNS, tables["train"], origin)

    def read(role: str) -> LabelledImages:
        table, found = tables[role], f"{origin} ({role})"
        encoded = table_images(table, image, found, folder)
        own = names or getattr(table.features[label], "names", None)
        target, known = number_labels(table.data.column(label).to_pylist(), own, found)
        return LabelledImages(encoded, target, known, without_images(target, known, found))

    train = read("train")
    readers = {"train": lambda: train}
    for role, table in tables.items():
        if role != "train" and _has_labels(table, image, label):
            readers[role] = lambda role=role: read(role).numbered_as(
                train.classes, "mend the labels"
            )
    return photo_dataset(hub or folder.name, split, readers, PhotoOptions(**options))


def load_from_hub(origin: str, hub: str, *arguments: Any, **options: Any) -> Any:
    """What ``datasets.load_dataset`` has for a name; if nothing, a ClassroomError of ``origin``."""
    try:
        return _library().load_dataset(hub, *arguments, **options)
    except Exception as error:  # the hub, the network and the cache each raise their own
        raise ClassroomError(
            f"{origin}: cannot be loaded from the Hugging Face hub ({_said(error)}). Check the"
            " name, its configuration (data.subset), the network, and, where access is restricted,"
            f" `hf auth login`; or fetch it elsewhere (`hf download --repo-type dataset {hub}"
            " --local-dir FOLDER`) and set path to that folder"
        ) from error


def _from_hub(hub: str, subset: str | None) -> "dict[str, Dataset]":
    return _by_split(load_from_hub(hub, hub, subset), hub)


def _from_files(path: Path) -> "dict[str, Dataset]":
    """The tables of each split in Parquet files, or in what ``save_to_disk`` has written."""
    if any((path / name).is_file() for name in ("dataset_dict.json", "state.json")):
        try:
            found = _library().load_from_disk(str(path))
        except Exception as error:  # Arrow, JSON and the file system each raise their own
            raise ClassroomError(
                f"{path}: cannot be read as a folder of Dataset.save_to_disk ({_said(error)})"
            ) from error
        return _by_split(found if isinstance(found, dict) else {"train": found}, str(path))
    files, _ = group_files(path, ".parquet")
    for chosen in files.values():
        # Files of one split in several folders are several configurations, as a rule.
        folders = {str(file.parent.relative_to(path)) for file in chosen if path.is_dir()}
        if len(folders) > 1:
            raise ClassroomError(
                f"{path}: files of the same split are in {named(sorted(folders))}: choose one with"
                " data.subset, or give data.path a pattern that means all"
            )
    return {split: _from_parquet([str(file) for file in chosen]) for split, chosen in files.items()}


def _from_parquet(files: list[str]) -> "Dataset":
    try:
        return _library().load_dataset("parquet", data_files=files, split="train")
    except Exception as error:  # as above; the cause says what is wrong with the file
        raise ClassroomError(
            f"{named(files)}: cannot be read as Parquet ({_said(error.__cause__ or error)}). Fetch"
            " or write damaged files again; those of one split must have the same columns, of the"
            " same types"
        ) from error


def _library() -> Any:
    """`datasets`, which draws its progress on terminals alone."""
    import datasets

    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    return datasets


def _said(error: BaseException) -> str:
    """An error's own words in one line, or what it is called."""
    return " ".join(str(error).split()) or type(error).__name__


def _by_split(tables: "Mapping[str, Dataset]", origin: str) -> "dict[str, Dataset]":
    """The tables by what they are for; of two for the same, that of the shorter name."""
    if len(tables) == 1:
        return {"train": next(iter(tables.values()))}
    names = sorted(map(str, tables), key=len, reverse=True)
    found = {split: tables[name] for name in names if (split := split_of(name))}
    if "train" not in found:
        raise ClassroomError(
            f"{origin}: has no split for training by its name, only {named(list(tables))}"
        )
    return found


def _choose(
    what: str,
    given: str | None,
    kind: str,
    usual: Sequence[str],
    table: "Dataset",
    origin: str,
) -> str:
    """The column that is given, or has a usual name, or is the only one of a kind."""
    columns = table.column_names
    if given is not None and given not in columns:
        raise ClassroomError(
            f"{origin}: no column '{given}'{nearest(given, columns)} (found: {named(columns, 20)}):"
            f" mend data.{what}"
        )
    typed = [name for name in columns if type(table.features[name]).__name__ == kind]
    likely = [name for name in usual if name in columns] or (typed if len(typed) == 1 else [])
    if given is None and not likely:
        raise ClassroomError(
            f"{origin}: which column is the {what}? Say it with data.{what}: one of"
            f" {named(columns, 20)}"
        )
    return given or likely[0]


def _has_labels(table: "Dataset", image: str, label: str) -> bool:
    """Whether any row has one; -1 and null are none."""
    if not {image, label} <= set(table.column_names):
        return False
    return bool(set(table.data.column(label).unique().to_pylist()) - {None, -1})


def table_images(table: "Dataset", image: str, origin: str, folder: Path) -> "TableImages":
    """The images in a column of a table, whose relative paths start from ``folder``."""
    import datasets
    import pyarrow as pa
    from pyarrow import compute

    pc: Any = compute  # its functions are made at run time
    column = table.select_columns([image])
    try:
        column = column.cast_column(image, datasets.Image(decode=False)).with_format("arrow")
        content = pc.struct_field(column.data.column(image), "bytes")
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise ClassroomError(
            f"{origin}: column '{image}' is {table.features[image]}; needed: image files (bytes,"
            " or structs of bytes and path). Name another with data.image"
        ) from error
    sizes = pc.fill_null(pc.binary_length(content), 0).to_numpy().astype(np.int64)
    return TableImages(origin, sizes, np.zeros_like(sizes), column, folder)


@dataclass(frozen=True, eq=False)
class TableImages(EncodedImages):
    """The rows of a table.

    Attributes:
        rows: one column, in Arrow's format: structs of ``bytes``, an encoded file, and ``path``,
            of a file that is read where there are no bytes.
        folder: that relative paths start from.
    """

    rows: "Dataset"
    folder: Path

    def cell(self, place: int) -> dict[str, Any]:
        """A row's ``bytes`` and ``path``, of which any may be missing or None."""
        row: Any = self.rows[place]
        return row.column(0)[0].as_py() or {}

    def key(self, place: int) -> str:
        """The row's number, from 0."""
        return f"row {place}"

    def name(self, place: int) -> str:
        """The table and the row."""
        return f"{self.origin}, {self.key(place)}"

    def open(self, place: int) -> io.BytesIO | Path:
        """The row's bytes, or the path of its file."""
        cell = self.cell(place)
        if cell.get("bytes"):
            return io.BytesIO(cell["bytes"])
        if cell.get("path"):
            return self.folder / cell["path"]
        raise BadImage("the row has no image", self.name(place))

    def remembered_as(self) -> str:
        """The table's name and content: no row says when it was changed."""
        content = self.identity(np.arange(len(self))).hex()
        return f"{self.origin} {content} {blake2b(self.sizes.tobytes()).hexdigest()}"

    def identity(self, places: np.ndarray) -> bytes:
        """Hash of what is in up to 64 rows, spread evenly."""
        digest = blake2b(digest_size=16)
        for place in places[:: -(-len(places) // _SAMPLE) or 1].tolist():
            digest.update(repr(self.cell(place)).encode())
        return digest.digest()
