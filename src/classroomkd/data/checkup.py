"""Which image files are bad: each is decoded once, and the verdict is remembered."""

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from classroomkd.data.decode import BadImage, Photo
from classroomkd.data.files import Listing

_CHUNK = 64  # files that a worker looks at before it reports


def find_bad(listing: Listing, workers: int) -> dict[int, str]:
    """The places of files that cannot be decoded, each with the reason.

    Verdicts are kept in ``$CLASSROOMKD_CACHE`` or ``~/.cache/classroomkd``, also when this is
    interrupted; a file is looked at again once its size or time has changed.

    Args:
        listing: of the files.
        workers: processes that decode; 0 for none but this one.
    """
    cache = _cache_path(listing.root)
    known = _read(cache)
    stamps = list(zip(listing.sizes, listing.mtimes, strict=True))
    names = [os.fsdecode(name) for name in listing.files]
    unknown = [
        row for row, name in enumerate(names) if known.get(name, [])[:2] != list(stamps[row])
    ]
    try:
        for row, reason in _look(listing, unknown, workers):
            known[names[row]] = [*stamps[row], reason]
    finally:
        if unknown:
            _write(cache, known)
    return {row: reason for row, name in enumerate(names) if (reason := known[name][2])}


def _look(listing: Listing, rows: Sequence[int], workers: int) -> tqdm:
    """Pairs of a place and what is wrong there (empty: nothing), as they come in."""
    loader = DataLoader(
        _Verdicts(listing, rows), batch_size=_CHUNK, collate_fn=list, num_workers=workers
    )
    verdicts = (verdict for chunk in loader for verdict in chunk)
    return tqdm(verdicts, "checking images", len(rows), leave=False, disable=None)


class _Verdicts(Dataset):
    def __init__(self, listing: Listing, rows: Sequence[int]) -> None:
        self._root, self._files, self._rows = listing.root, listing.files, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: int) -> tuple[int, str]:
        row = self._rows[place]
        try:
            Photo(self._root / os.fsdecode(self._files[row])).check()
        except BadImage as error:
            return row, str(error)
        return row, ""


def _cache_path(root: Path) -> Path:
    folder = os.environ.get("CLASSROOMKD_CACHE")
    place = blake2b(os.fsencode(root.resolve()), digest_size=8).hexdigest()
    return (
        Path(folder) if folder else Path.home() / ".cache" / "classroomkd"
    ) / f"photos-{place}.json"


def _read(cache: Path) -> dict[str, list]:
    """Size, time and verdict by name; empty if there are none or the file is damaged."""
    try:
        known = json.loads(cache.read_text())
        return {name: [int(size), int(time), str(bad)] for name, (size, time, bad) in known.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _write(cache: Path, known: dict[str, list]) -> None:
    """Replace the file at once; where nothing can be written, nothing is kept."""
    with suppress(OSError):
        cache.parent.mkdir(parents=True, exist_ok=True)
        part = cache.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps(known))
        part.replace(cache)
