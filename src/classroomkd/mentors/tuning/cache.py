"""What was measured, kept in a file for all runs of this user."""

import json
import os
import platform
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

_PATIENCE = 10.0  # seconds to wait for another writer


def cache_path() -> Path:
    """``tuning.json`` in ``$CLASSROOMKD_CACHE``, or else in ``~/.cache/classroomkd``."""
    folder = os.environ.get("CLASSROOMKD_CACHE")
    return (Path(folder) if folder else Path.home() / ".cache" / "classroomkd") / "tuning.json"


def circumstances(network: nn.Module, example: Tensor) -> dict[str, Any]:
    """All that the time of a network depends on, of which weights are no part.

    Example:
        >>> found = circumstances(nn.Linear(3, 4), torch.rand(2, 3))
        >>> found["architecture"], found["input"]
        ('Linear', [2, 3])
    """
    shapes = [(name, list(p.shape)) for name, p in network.named_parameters()]
    return {
        "architecture": getattr(network, "name", None) or type(network).__name__,
        "parameters": blake2b(json.dumps(shapes).encode(), digest_size=8).hexdigest(),
        "input": list(example.shape),
        "device": device_name(example.device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def device_name(device: torch.device) -> str:
    """What the processor or the GPU is called."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{next(models, platform.processor() or platform.machine())} ({device.type})"


class TuningCache:
    """A JSON file from circumstances to a value, safe under concurrent writers.

    A damaged file counts as empty and is replaced; where nothing can be written, nothing is kept.

    Args:
        path: the file; it need not exist.

    Example:
        >>> import tempfile
        >>> cache = TuningCache(Path(tempfile.mkdtemp()) / "tuning.json")
        >>> cache.put({"threads": 2}, [1.5])
        >>> cache.get({"threads": 2}), cache.get({"threads": 4})
        ([1.5], None)
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def get(self, where: Mapping[str, Any]) -> Any:
        """What was put under these circumstances, or None."""
        entry = self._read().get(_key(where))
        return entry.get("value") if isinstance(entry, dict) else None

    def put(self, where: Mapping[str, Any], value: Any) -> None:
        """Keep a value that JSON can hold, in place of an earlier one."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{self.path}.lock", timeout=_PATIENCE):
                entries = {**self._read(), _key(where): {"where": dict(where), "value": value}}
                self._replace(json.dumps(entries, indent=1) + "\n")
        except (OSError, Timeout):
            return  # it is measured again next time

    def _read(self) -> dict[str, Any]:
        try:
            entries = json.loads(self.path.read_text())
        except (OSError, ValueError):
            return {}
        return entries if isinstance(entries, dict) else {}

    def _replace(self, text: str) -> None:
        with NamedTemporaryFile("w", dir=self.path.parent, suffix=".part", delete=False) as part:
            part.write(text)
        os.replace(part.name, self.path)


def _key(where: Mapping[str, Any]) -> str:
    text = json.dumps(dict(where), sort_keys=True)
    return blake2b(text.encode(), digest_size=16).hexdigest()
