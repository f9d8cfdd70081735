"""Networks in files: the student of a run, and weights from anywhere.

A student is ``student.safetensors`` (weights and normalisation) beside ``student.json`` (what to
build, and its classes). Foreign files are read without unpickling anything but tensors.
"""

import json
import os
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

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
    weights = {
        name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()
    }
    part = folder / "student.safetensors.part"
    save_file(weights, part)
    os.replace(part, folder / "student.safetensors")
    part = folder / "student.json.part"
    said = asdict(replace(info, head=describe_head(network)))
    if said["head"] is None:
        del said["head"]
    part.write_text(json.dumps(said, indent=2) + "\n")
    os.replace(part, folder / "student.json")


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
    leave the network's own.

    Raises:
        ClassroomError: if the file cannot be read safely or does not fit, naming what differs.
    """
    try:
        weights = _translate(_unwrap(_read(path)), network)
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
            f"{'; '.join(problems)}. Check the model's name and the number of classes"
        )
    network.load_state_dict({**own, **weights})


# What an accuracy kept beside the weights is made of, under the names of NumPy 1 and 2.
_SCALAR = np.float64(0).__reduce__()[0]
_NUMPY_SCALARS: list[Any] = [
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
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals(_NUMPY_SCALARS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged or hostile file provokes
        found = re.search(r"Unsupported .*?(?= Please use|$)", str(error), re.MULTILINE)
        reason = found[0] if found else error  # torch's advice is to run the code
        if not isinstance(error, UnpicklingError) or "Unsupported operand" in str(reason):
            raise ClassroomError(f"{path} is damaged or not a file of weights: {reason}") from error
        raise ClassroomError(
            f"{path} holds more than tensors, and is not unpickled because that could run code: "
            f"save its state_dict alone, as .safetensors or with torch.save ({reason})"
        ) from error


def _unwrap(value: Any) -> dict[str, Tensor]:
    """The innermost mapping of names to tensors, without common prefixes."""
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
            f"holds no tensors by name, only: {', '.join(map(str, value)) or 'nothing'}"
        )
    for prefix in ("module.", "_orig_mod.", "model.", "student.", "net."):
        if all(name.startswith(prefix) for name in weights):
            return _unwrap({name.removeprefix(prefix): tensor for name, tensor in weights.items()})
    return weights


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
