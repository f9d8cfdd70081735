"""Which images are bad: each is decoded once, and the verdict is remembered."""

from collections.abc import Sequence
from typing import Any

from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from classroomkd.data.cache import cache_file, read_cache, write_cache
from classroomkd.data.decode import BadImage
from classroomkd.data.stores import Store

_CHUNK = 64  # images that a worker looks at before it reports


def find_bad(store: Store, workers: int) -> dict[int, str]:
    """The places of images that cannot be decoded, each with the reason.

    Verdicts are kept in ``$CLASSROOMKD_CACHE`` or ``~/.cache/classroomkd``, also when this is
    interrupted; an image is looked at again once its size or time has changed.

    Args:
        store: of the images.
        workers: processes that decode; 0 for none but this one.
    """
    cache = cache_file("photos", store.remembered_as())
    known = _verdicts(read_cache(cache))
    stamps = list(zip(store.sizes.tolist(), store.times.tolist(), strict=True))
    keys = [store.key(place) for place in range(len(store))]
    unknown = [
        place for place, key in enumerate(keys) if known.get(key, [])[:2] != list(stamps[place])
    ]
    try:
        for place, reason in _look(store, unknown, workers):
            known[keys[place]] = [*stamps[place], reason]
    finally:
        if unknown:
            write_cache(cache, known)
    return {place: reason for place, key in enumerate(keys) if (reason := known[key][2])}


def _look(store: Store, places: Sequence[int], workers: int) -> tqdm:
    """Pairs of a place and what is wrong there (empty: nothing), as they come in."""
    loader = DataLoader(
        _Verdicts(store, places), batch_size=_CHUNK, collate_fn=list, num_workers=workers
    )
    verdicts = (verdict for chunk in loader for verdict in chunk)
    return tqdm(verdicts, "checking images", len(places), leave=False, disable=None)


class _Verdicts(Dataset):
    def __init__(self, store: Store, places: Sequence[int]) -> None:
        self._store, self._places = store, places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, row: int) -> tuple[int, str]:
        place = self._places[row]
        try:
            self._store.photo(place).check()
        except BadImage as error:
            return place, str(error)
        return place, ""


def _verdicts(content: Any) -> dict[str, list]:
    """Size, time and verdict by name; none if the content is damaged."""
    try:
        return {
            name: [int(size), int(time), str(bad)] for name, (size, time, bad) in content.items()
        }
    except (ValueError, AttributeError, TypeError):
        return {}
