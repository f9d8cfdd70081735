"""Which images are bad: each is decoded once, and the verdict is remembered."""

from functools import partial
from typing import Any

from torch.utils.data import DataLoader
from tqdm import tqdm

from classroomkd.data.cache import cache_file, read_cache, write_cache
from classroomkd.data.decode import BadImage
from classroomkd.data.encoded import EncodedImages

_CHUNK = 64  # images that a worker looks at before it reports


def find_bad(encoded: EncodedImages, workers: int) -> dict[int, str]:
    """The places of images that cannot be decoded, each with the reason.

    Verdicts are kept in ``$CLASSROOMKD_CACHE`` or ``~/.cache/classroomkd``, also when this is
    interrupted; an image is looked at again once its size or time has changed. ``workers`` are
    processes that decode; 0 for none but this one.
    """
    cache = cache_file("photos", encoded.remembered_as())
    known = _verdicts(read_cache(cache))
    stamps = list(zip(encoded.sizes.tolist(), encoded.times.tolist(), strict=True))
    keys = [encoded.key(place) for place in range(len(encoded))]
    unknown: Any = [
        place for place, key in enumerate(keys) if known.get(key, [])[:2] != list(stamps[place])
    ]
    # What puts a batch together runs in the workers: there it looks at the images.
    look = partial(_look, encoded)
    chunks = DataLoader(unknown, batch_size=_CHUNK, collate_fn=look, num_workers=workers)
    try:
        with tqdm(desc="checking images", total=len(unknown), leave=False, disable=None) as bar:
            for chunk in chunks if unknown else ():
                known |= {keys[place]: [*stamps[place], reason] for place, reason in chunk}
                bar.update(len(chunk))
    finally:
        if unknown:
            write_cache(cache, known)
    return {place: reason for place, key in enumerate(keys) if (reason := known[key][2])}


def _look(encoded: EncodedImages, places: list[int]) -> list[tuple[int, str]]:
    """Each place, and what is wrong there: nothing, as a rule."""
    found = []
    for place in places:
        reason = ""
        try:
            encoded.photo(place).check()
        except BadImage as error:
            reason = str(error)
        found.append((place, reason))
    return found


def _verdicts(content: Any) -> dict[str, list]:
    """Size, time and verdict by name; none if the content is damaged."""
    try:
        return {
            name: [int(size), int(time), str(bad)] for name, (size, time, bad) in content.items()
        }
    except (ValueError, AttributeError, TypeError):
        return {}
