"""Tables of photographs, one a row, decoded when they are asked for.

``N`` rows, which lie in files of Arrow in the cache of `datasets` (``$HF_HOME``); only those that
are read take memory. A table that is streamed is not stored: see `Stream`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

import numpy as np

from classroomkd.data.album import Part, Showing, photo_set
from classroomkd.data.files import named
from classroomkd.data.hub import open_tables
from classroomkd.data.labels import ClassNames, class_list, number_labels, without_images
from classroomkd.data.parquet import IMAGE_COLUMNS, LABEL_COLUMNS
from classroomkd.data.photos import PhotoSet
from classroomkd.data.splits import roles
from classroomkd.data.stores import RowStore
from classroomkd.data.streams import Stream
from classroomkd.errors import ClassroomError, nearest

if TYPE_CHECKING:
    from datasets import Dataset

_Table = Union["Dataset", Stream]
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
    streaming: bool = False,
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
        streaming: whether to fetch row groups of the table's Parquet files when they are needed,
            and to store no more than a few of them. The order of an epoch is then nearly uniform,
            and samples are mixed with those near them: see `StreamStore.windows`.
            ``bad_images: skip`` fetches all of the table once, and a development split that is
            taken from the training set all of it in each epoch, since its rows are everywhere.
        options: those of `Showing`.

    Raises:
        ClassroomError: if the data cannot be had, or columns or labels do not fit.
    """
    origin, tables = open_tables(path, hub, subset, streaming)
    names = class_list(classes)
    image = _choose("image", image, "Image", IMAGE_COLUMNS, tables["train"], origin)
    label = _choose("label", label, "ClassLabel", LABEL_COLUMNS, tables["train"], origin)
    folder = Path() if path is None else path if path.is_dir() else path.parent

    def part(role: str) -> Part:
        found = f"{origin} ({role})"
        table = tables[role]
        if isinstance(table, Stream):
            store = table.store(image, found, None if path is None else folder)
        else:
            store = _store(table, image, found, folder)
        own = names or getattr(table.features[label], "names", None)
        target, known = number_labels(_labels(table, label), own, found)
        return Part(store, target, known, without_images(target, known, found))

    usable = {role: role for role, table in tables.items() if _has_labels(table, image, label)}
    train = part("train")
    parts = {"train": lambda: train}
    for role, source in roles(usable).items():
        if role != "train":
            parts[role] = lambda source=source: part(source).numbered_as(
                train.classes, "mend the labels"
            )
    return photo_set(hub or folder.name, split, parts, Showing(**options))


def _choose(
    what: str,
    given: str | None,
    kind: str,
    usual: Sequence[str],
    table: _Table,
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


def _has_labels(table: _Table, image: str, label: str) -> bool:
    """Whether any row has one; -1 and null are none."""
    if not {image, label} <= set(table.column_names):
        return False
    return any(value not in (None, -1) for value in _labels(table, label))


def _labels(table: _Table, label: str) -> list[Any]:
    if isinstance(table, Stream):
        return table.labels(label)
    return table.data.column(label).to_pylist()


def _store(table: "Dataset", image: str, origin: str, folder: Path) -> "TableStore":
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
    return TableStore(origin, sizes, np.zeros_like(sizes), folder, column)


@dataclass(frozen=True, eq=False)
class TableStore(RowStore):
    """The rows of a table.

    Attributes:
        rows: one column, in Arrow's format: structs of ``bytes``, an encoded file, and ``path``,
            of a file that is read where there are no bytes.
    """

    rows: "Dataset"

    def cell(self, place: int) -> dict[str, Any]:
        """A row's ``bytes`` and ``path``."""
        row: Any = self.rows[place]
        return row.column(0)[0].as_py() or {}

    def identity(self, places: np.ndarray) -> bytes:
        """Hash of what is in up to 64 rows, spread evenly."""
        digest = blake2b(digest_size=16)
        for place in places[:: -(-len(places) // _SAMPLE) or 1].tolist():
            digest.update(repr(self.cell(place)).encode())
        return digest.digest()
