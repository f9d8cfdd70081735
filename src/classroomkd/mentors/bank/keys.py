"""What a bank, and a mentor's outputs in it, follow from; and how two such keys differ.

``C`` classes of the data.
"""

import json
from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from classroomkd.errors import ClassroomError
from classroomkd.mentors.mentor import Adapter, ClassOrder, fingerprint

Key = Mapping[str, Any]


def view_key(
    *,
    data_fingerprint: str,
    data_name: str,
    classes: Sequence[str],
    views: Sequence[Mapping[str, Any]],
    seed: int,
    repeat: int | None,
    top: int | None,
    mix: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The key of a bank: all that the images of a view, and the encoding, follow from.

    Args:
        data_fingerprint: of the training set's images, targets and sample numbers.
        data_name: for messages.
        classes: the data's classes, in the order of the logits.
        views: the augmentations in order, each as its name and options.
        seed: of the views.
        repeat: how many views a sample has before they repeat; None if they never do.
        top: as in `encode`.
        mix: how samples are mixed, by option; None if they are not. Partners are of the training
            set, which the fingerprint stands for.
    """
    mixed = {} if mix is None else {"mix": dict(mix)}
    return {
        "data": {"name": data_name, "fingerprint": data_fingerprint},
        "classes": list(classes),
        "views": [dict(view) for view in views],
        "seed": seed,
        "repeat": repeat,
        "top": top,
        **mixed,
    }


def mentor_key(
    network: nn.Module,
    *,
    class_map: Tensor | None = None,
    precision: str,
    adapter: Adapter | None = None,
) -> dict[str, str]:
    """The key of a mentor's outputs: architecture, weights, adapter and precision.

    It depends neither on the device nor on the memory format.

    Args:
        network: with its normalisation among its weights and buffers.
        class_map: ``[C]`` int64, as in `Mentor`; None if the orders are the same.
        precision: ``"fp32"`` or ``"bf16"``.
        adapter: in place of ``class_map``, as in `Mentor`.

    >>> key = mentor_key(nn.Linear(2, 2), precision="fp32")
    >>> key["architecture"], key["classes"], len(key["weights"])
    ('Linear', 'as the data', 64)
    """
    name = getattr(network, "name", None)
    return {
        "architecture": name if isinstance(name, str) else type(network).__name__,
        "weights": fingerprint(network.state_dict()),
        **(adapter or ClassOrder(class_map)).key(),
        "precision": precision,
    }


def differences(there: Any, here: Any, place: str = "") -> list[str]:
    """Where two JSON values differ: each key of a mapping, the first place of a list.

    >>> differences({"seed": 0, "data": {"size": 9}}, {"seed": 1, "data": {"size": 8}, "top": 5})
    ['data.size: 9, here 8', 'seed: 0, here 1', 'top: nothing, here 5']
    >>> differences({"classes": ["cat", "cow"]}, {"classes": ["cat", "dog"]})
    ['classes[1]: cow, here dog']
    """
    if there == here:
        return []
    if isinstance(there, dict) and isinstance(here, dict):
        pairs = {k: (there.get(k, "nothing"), here.get(k, "nothing")) for k in {**there, **here}}
        nested = (differences(*pairs[k], f"{place}.{k}".lstrip(".")) for k in sorted(pairs))
        return list(chain.from_iterable(nested))
    if isinstance(there, list) and isinstance(here, list):
        pairs = enumerate(zip_longest(there, here, fillvalue="nothing"))
        return next(differences(*pair, f"{place}[{i}]") for i, pair in pairs if pair[0] != pair[1])
    return [f"{place}: {_short(there)}, here {_short(here)}"]


def read_key(path: Path) -> dict[str, Any]:
    """The key in a JSON file; a ClassroomError if it cannot be read."""
    try:
        key = json.loads(path.read_text())
        if not isinstance(key, dict):
            raise ValueError("it holds no mapping")
    except (OSError, ValueError) as error:
        raise ClassroomError(
            f"{path} cannot be read: {error}. If it is damaged, remove the folder {path.parent}, "
            "which is of no use without it, or choose another bank"
        ) from error
    return key


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"{text[:16]}..."
