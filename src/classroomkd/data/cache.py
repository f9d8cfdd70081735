"""What is remembered from one run to the next, in the user's cache."""

import json
import os
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any


def cache_file(kind: str, *key: object) -> Path:
    """The file for something known by a key: in ``$CLASSROOMKD_CACHE`` or ``~/.cache/classroomkd``.

    >>> cache_file("photos", "a").name == cache_file("photos", "b").name
    False
    """
    folder = os.environ.get("CLASSROOMKD_CACHE")
    text = "\0".join(str(part) for part in key)
    digest = blake2b(os.fsencode(text), digest_size=8).hexdigest()
    root = Path(folder) if folder else Path.home() / ".cache" / "classroomkd"
    return root / f"{kind}-{digest}.json"


def read_cache(file: Path) -> Any:
    """What a file holds, or None if it is not there or damaged."""
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):
        return None


def write_cache(file: Path, content: Any) -> None:
    """Replace a file at once; where nothing can be written, nothing is kept."""
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps(content))
        part.replace(file)
