"""Networks in files: the student of a run, and weights from anywhere.

A student is ``student.safetensors`` (weights and normalisation) beside ``student.json`` (what to
build, and its classes). Foreign files are read without unpickling anything but tensors.
"""

import json
import os
import re
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from classroomkd.errors import ClassroomError
from classroomkd.models.external import ExternalNetwork
from classroomkd.models.network import Network
from classroomkd.models.registry import build_model
from classroomkd.models.reused import attach_head, describe_head


@dataclass(frozen=True)
class StudentFile:
    """What ``student.json`` says.

    Attributes:
        model: name for `build_model`.
        classes: their names, in the order of the logits.
        dataset: what it was trained on.
        epoch: the epoch that was kept, from 0.
        top1: its accuracy in percent on the development split, or None without one.
        head: what it has in place of the model's classifier (see `attach_head`), if anything;
            `save_student` fills it in.
    """

    model: str
    classes: tuple[str, ...]
    dataset: str
    epoch: int
    top1: float | None
    head: dict[str, Any] | None = None


def save_student(network: Network, info: StudentFile, folder: Path) -> None:
    """Write ``student.safetensors`` and ``student.json`` into ``folder``, each atomically."""
    save_weights(network, folder / "student.safetensors")
    part = folder / "student.json.part"
    said = asdict(replace(info, head=describe_head(network)))
    if said["head"] is None:
        del said["head"]
    part.write_text(json.dumps(said, indent=2) + "\n")
    os.replace(part, folder / "student.json")


def save_weights(network: nn.Module, path: Path) -> None:
    """Write a network's weights atomically, as a file that whoever may read its folder can read."""
    part = path.with_name(f"{path.name}.part")
    part.touch()
    mode = part.stat().st_mode  # what the user's umask allows; safetensors takes its owner's only
    save_file(host_weights(network), part)
    part.chmod(mode)
    os.replace(part, path)


def host_weights(network: nn.Module) -> dict[str, Tensor]:
    """A network's ``state_dict`` as files of safetensors take it: copies, of tied weights, too."""
    plain = torch.contiguous_format
    weights = network.state_dict()
    return {name: tensor.cpu().clone(memory_format=plain) for name, tensor in weights.items()}


def load_student(folder: Path | str) -> tuple[Network, StudentFile]:
    """The student of a run folder, in eval mode.

    Raises:
        ClassroomError: if a file is missing or does not fit.
    """
    folder = Path(folder)
    try:
        raw: dict[str, Any] = json.loads((folder / "student.json").read_text())
        info = StudentFile(**{**raw, "classes": tuple(raw["classes"])})
        network = build_model(info.model, len(info.classes))
        if info.head is not None:
            network = attach_head(network, info.head)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise ClassroomError(f"{folder / 'student.json'} cannot be read: {error}") from error
    load_weights(network, folder / "student.safetensors")
    return network.eval(), info


def load_weights(network: Network, path: Path) -> None:
    """Load a network's weights from a ``.safetensors``, ``.pt`` or ``.pth`` file.

    Wrappings such as ``{"state_dict": ...}``, ``{"model": ...}`` and prefixes such as ``module.``
    are taken off, and names of the CRD benchmark's zoo are understood. Files without normalisation
    leave the network's own. Classifiers that a network has in training alone are left out.

    Raises:
        ClassroomError: if the file cannot be read safely or does not fit, naming what differs.
    """
    try:
        weights = _fitting(_unwrap(_read(path)), network)
    except _NoWeightsError as error:
        raise ClassroomError(f"{path} {error}") from error
    own = network.state_dict()
    missing = [k for k in own if k not in weights and not k.startswith("normalize.")]
    unknown = [k for k in weights if k not in own]
    misfits = [
        f"{k} {list(weights[k].shape)} instead of {list(own[k].shape)}"
        for k in own
        if k in weights and weights[k].shape != own[k].shape
    ]
    problems = [
        f"{title}: {', '.join(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''}"
        for title, names in (("missing", missing), ("unknown", unknown), ("shapes", misfits))
        if names
    ]
    if problems:
        raise ClassroomError(
            f"{path} does not fit a {network.name} with {network.num_classes} classes; "
            f"{'; '.join(problems)}. Check the model's name and the number of classes (a mentor's"
            " classes names those of its own)"
        )
    network.load_state_dict({**own, **weights})


# What is kept beside weights: the options of a script; and what an accuracy is made of, under the
# names of NumPy 1 and 2.
_SCALAR = np.float64(0).__reduce__()[0]
_HARMLESS: list[Any] = [
    Namespace,
    *((_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    np.dtype,
    *(type(np.dtype(name)) for name in ("float32", "float64", "int32", "int64", "bool")),
]


class _NoWeightsError(Exception):
    """What a file holds instead of weights."""


def _read(path: Path) -> Any:
    if not path.is_file():
        raise ClassroomError(f"no such file: {path}")
    try:
        if _is_safetensors(path):
            return load_file(path)
        with torch.serialization.safe_globals(_HARMLESS), path.open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged or hostile file provokes
        if "TorchScript archive" in str(error):
            raise ClassroomError(
                f"{path} is a TorchScript program, not a file of weights: save its state_dict alone"
            ) from error
        found = re.search(r"Unsupported .*?(?= Please use|$)", str(error), re.MULTILINE)
        reason = found[0] if found else error  # torch's advice is to run the code
        if not isinstance(error, UnpicklingError) or "Unsupported operand" in str(reason):
            raise ClassroomError(f"{path} is damaged or not a file of weights: {reason}") from error
        raise ClassroomError(
            f"{path} holds more than tensors, and is not unpickled because that could run code: "
            f"save its state_dict alone, as .safetensors or with torch.save ({reason})"
        ) from error


def _is_safetensors(path: Path) -> bool:
    """By its content, which begins with the length of its header in JSON."""
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


# The further classifiers of torchvision's googlenet and inception_v3.
_IN_TRAINING = re.compile(r"model\.(aux\d|AuxLogits)\.")


def _unwrap(value: Any) -> dict[str, Tensor]:
    """The innermost mapping of names to tensors."""
    for key in (
        "state_dict",
        "model_state_dict",
        "state_dict_ema",
        "weights",
        "model",
        "net",
        "network",
        "student",
    ):
        if isinstance(value, dict) and isinstance(value.get(key), dict):
            return _unwrap(value[key])
    if not isinstance(value, dict):
        raise _NoWeightsError("holds no state_dict: a mapping of names to tensors")
    weights = {str(name): tensor for name, tensor in value.items() if isinstance(tensor, Tensor)}
    if not weights:
        raise _NoWeightsError(
            f"holds no tensors by name, only: {', '.join(map(str, value)) or 'nothing'}; save the"
            " network's state_dict alone"
        )
    weights.pop("n_averaged", None)  # of torch's AveragedModel
    return weights


def _fitting(weights: dict[str, Tensor], network: Network) -> dict[str, Tensor]:
    """Under the names of the network: with as many prefixes taken off as it knows most names by."""
    own = network.state_dict().keys()
    spelt = [_translate(spelling, network) for spelling in _without_prefixes(weights)]
    best = max(spelt, key=lambda names: len(own & names.keys()))
    return {name: best[name] for name in best if name in own or not _IN_TRAINING.match(name)}


def _without_prefixes(weights: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The weights, and what they are called when prefixes that all have are taken off in turn."""
    yield weights
    if len({name.partition(".")[0] for name in weights}) == 1:
        shorter = {name.partition(".")[2]: tensor for name, tensor in weights.items()}
        if all(shorter):
            yield from _without_prefixes(shorter)


def _translate(weights: dict[str, Tensor], network: Network) -> dict[str, Tensor]:
    """Names of the CRD benchmark's zoo, or of another library, in ours."""
    if isinstance(network, ExternalNetwork):
        own = network.state_dict()
        return {k if k in own else f"model.{k}": tensor for k, tensor in weights.items()}
    if "classifier.weight" in weights:
        return weights
    shortcut = (
        "downsample" if any(".downsample." in k for k in network.state_dict()) else "shortcut"
    )
    return {
        re.sub(r"^(fc|linear|classifier\.0)\.", "classifier.", name).replace(
            ".shortcut.", f".{shortcut}."
        ): tensor
        for name, tensor in weights.items()
    }
