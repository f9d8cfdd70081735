"""Tables streamed from Parquet files, on a server or here: no file is fetched as a whole.

At the start the files' footers and the labels are read; images come a row group at a time, when
they are needed. ``N`` rows in ``G`` row groups.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from classroomkd.data.cache import cache_file, read_cache, write_cache
from classroomkd.data.draws import permutation
from classroomkd.data.remote import ParquetSource
from classroomkd.data.spool import Spool, usual_spool
from classroomkd.data.stores import RowStore
from classroomkd.errors import ClassroomError

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

# Samples are mixed within windows: with other sizes, a bank would hold what was said of others.
WINDOW_ROWS = 10_000  # what a window of the order has, in no fewer row groups than
WINDOW_GROUPS = 8
WINDOW_BYTES = 2**30  # but no more than this, so that the spool holds several windows
_READERS = 16  # threads that read footers and labels: nearly all of the time is waiting


@lru_cache(maxsize=8)  # the training set's tables are asked for again with the test's
def open_stream(sources: tuple[ParquetSource, ...]) -> "Stream":
    """A table of the rows of several files, in order; their footers are read.

    Raises:
        ClassroomError: if a file cannot be read, or lacks a column of the first.
    """
    with ThreadPoolExecutor(_READERS) as readers:
        footers = tuple(readers.map(lambda source: source.read(lambda p: p.metadata), sources))
    first = set(footers[0].schema.to_arrow_schema().names)
    for source, footer in zip(sources, footers, strict=True):
        if missing := sorted(first - set(footer.schema.to_arrow_schema().names)):
            raise ClassroomError(
                f"{source.path}: no column '{missing[0]}', which {sources[0].path} has: files of"
                " one split must have the same columns"
            )
    return Stream(sources, footers)


@dataclass(frozen=True, eq=False)
class Stream:
    """What reading photographs needs of a table of `datasets`, without the rows.

    Attributes:
        sources: the files.
        footers: theirs.
        declared: types of columns that are known apart from the files, by a data set's card.
    """

    sources: tuple[ParquetSource, ...]
    footers: "tuple[pq.FileMetaData, ...]"
    declared: dict[str, Any] = field(default_factory=dict)
    _labels: dict[str, list[Any]] = field(default_factory=dict, repr=False)

    @cached_property
    def features(self) -> "datasets.Features":
        """The columns' types: as declared, or as the first file tells them."""
        import datasets

        own = datasets.Features.from_arrow_schema(self.footers[0].schema.to_arrow_schema())
        return datasets.Features({name: self.declared.get(name, own[name]) for name in own})

    @property
    def column_names(self) -> list[str]:
        """Names of the columns."""
        return list(self.features)

    def labels(self, column: str) -> list[Any]:
        """What is in a column, which alone is read; of files with a known content only once ever.

        Raises:
            ClassroomError: if a file cannot be read.
        """
        if column not in self._labels:
            self._labels[column] = self._remembered(column)
        return self._labels[column]

    def _remembered(self, column: str) -> list[Any]:
        contents = [source.content for source in self.sources]
        if not all(contents):
            return self._read(column)
        file = cache_file("labels", column, *contents)
        values = read_cache(file)
        if not isinstance(values, list) or len(values) != sum(f.num_rows for f in self.footers):
            values = self._read(column)
            if {type(value) for value in values} <= {int, str, bool, type(None)}:
                write_cache(file, values)
        return values

    def _read(self, column: str) -> list[Any]:
        def values(parquet: "pq.ParquetFile") -> list[Any]:
            return parquet.read([column], use_threads=False).column(column).to_pylist()

        def one(source: ParquetSource, footer: "pq.FileMetaData") -> list[Any]:
            return source.read(values, footer)

        with ThreadPoolExecutor(_READERS) as readers:
            return [v for part in readers.map(one, self.sources, self.footers) for v in part]

    def store(self, column: str, origin: str, folder: Path | None) -> "StreamStore":
        """The images in a column.

        Args:
            column: its name.
            origin: what the table is called in messages.
            folder: that relative paths of images start from; None where they lead nowhere.

        Raises:
            ClassroomError: if the column has no images, or a row group is too large.
        """
        import datasets
        import pyarrow as pa

        kind = self.footers[0].schema.to_arrow_schema().field(column).type
        try:
            datasets.Image(decode=False).cast_storage(pa.array([], kind))
        except (pa.ArrowException, AttributeError, TypeError, ValueError) as error:
            raise ClassroomError(
                f"{origin}: column '{column}' is {kind}; needed: image files (bytes, or structs of"
                " bytes and path). Name another with data.image"
            ) from error
        # Each part of a column is a request of its own.
        wanted = f"{column}.bytes" if folder is None and _has_bytes(kind) else column
        groups = _row_groups(self.footers, column)
        if (largest := groups[:, 3].max(initial=0)) > WINDOW_BYTES:
            raise ClassroomError(
                f"{origin}: a row group of {largest / 2**30:.1f} GiB is too large to be streamed:"
                " leave out data.streaming, or write the files again with row groups of about"
                " 100 MB"
            )
        sizes = np.zeros(int(groups[:, 2].sum()), np.int64)
        parts = (column, wanted), groups, usual_spool()
        return StreamStore(origin, sizes, sizes, folder, self.sources, self.footers, *parts)


@dataclass(frozen=True, eq=False)
class StreamStore(RowStore):
    """The images of a stream. Sizes are not known before they are fetched: they are 0.

    Attributes:
        sources: the files.
        footers: theirs.
        column: of the images, and what of it is fetched.
        groups: ``[G, 5]`` int64, of each row group its file, its number there, its rows, and the
            bytes of its images, unpacked and packed.
        spool: where row groups are kept.
    """

    sources: tuple[ParquetSource, ...]
    footers: "tuple[pq.FileMetaData, ...]"
    column: tuple[str, str]
    groups: np.ndarray
    spool: Spool

    def group_of(self, places: np.ndarray | int) -> np.ndarray:
        """Which row group each place is in, from 0 to ``G - 1``."""
        return np.searchsorted(self._ends, places, side="right")

    def windows(self, places: np.ndarray, seed: int, epoch: int) -> Tensor:
        """Row groups in random order, of which some in a row are a window.

        They are at least 8, and of 10,000 rows, but of no more than 1 GiB. So an epoch fetches each
        row group once, and needs one window at a time, or two where it goes from one to the next.
        """
        groups = self.group_of(places)
        return torch.from_numpy(self._windows(np.unique(groups), seed, epoch)[groups])

    def cell(self, place: int) -> dict[str, Any]:
        """A row's ``bytes`` and ``path``.

        Raises:
            ClassroomError: if its row group cannot be fetched, or not be kept.
        """
        group = int(self.group_of(place))
        file, inside, rows, _, _ = self.groups[group].tolist()
        key = f"{self.sources[file].key} {self.column[1]} {inside}"
        table = self.spool.read(key, lambda: self._fetch(file, inside))
        return table.column(0)[place - int(self._ends[group]) + rows].as_py() or {}

    def identity(self, places: np.ndarray) -> bytes:
        """Hash of the files' contents, where they are known, of row groups' sizes, and of places.

        Images of a local file that change without a change of sizes are taken for the same.
        """
        digest = blake2b(repr([source.content for source in self.sources]).encode(), digest_size=16)
        digest.update(np.ascontiguousarray(self.groups).data)
        digest.update(np.ascontiguousarray(places, np.int64).data)
        return digest.digest()

    @cached_property
    def _ends(self) -> np.ndarray:
        """``[G]``: the place after each row group's last."""
        return self.groups[:, 2].cumsum()

    def _windows(self, present: np.ndarray, seed: int, epoch: int) -> np.ndarray:
        """``[G]`` int64: the window of each row group that is present, from 0."""
        windows = np.zeros(len(self.groups), np.int64)
        window = count = rows = size = 0
        for place in permutation(len(present), seed, epoch, stream="order of groups").tolist():
            group = present[place]
            more_rows, more_bytes = self.groups[group, 2:4].tolist()
            enough = count >= WINDOW_GROUPS and rows >= WINDOW_ROWS
            if enough or (count and size + more_bytes > WINDOW_BYTES):
                window, count, rows, size = window + 1, 0, 0, 0
            windows[group] = window
            count, rows, size = count + 1, rows + more_rows, size + more_bytes
        return windows

    def _fetch(self, file: int, group: int) -> "pa.Table":
        """A row group's images: one column of structs of ``bytes`` and ``path``."""
        import datasets
        import pyarrow as pa

        column, wanted = self.column
        kind = datasets.Image(decode=False)

        def images(parquet: "pq.ParquetFile") -> pa.Table:
            # Without threads: this may be a forked worker.
            found = parquet.read_row_group(group, [wanted], use_threads=False).column(column)
            cast = [kind.cast_storage(chunk) for chunk in found.chunks]
            return pa.table({"image": pa.chunked_array(cast, kind.pa_type)})

        return self.sources[file].read(images, self.footers[file], f"row group {group}")


def _has_bytes(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    return pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0


def _row_groups(footers: "Sequence[pq.FileMetaData]", column: str) -> np.ndarray:
    """``[G, 5]`` int64: see `StreamStore.groups`."""
    found = []
    for file, footer in enumerate(footers):
        for number in range(footer.num_row_groups):
            group = footer.row_group(number)
            chunks = [group.column(place) for place in range(group.num_columns)]
            own = [c for c in chunks if (c.path_in_schema + ".").startswith(f"{column}.")]
            unpacked = sum(chunk.total_uncompressed_size for chunk in own)
            packed = sum(chunk.total_compressed_size for chunk in own)
            found.append((file, number, group.num_rows, unpacked, packed))
    return np.array(found, np.int64).reshape(-1, 5)
