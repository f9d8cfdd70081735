"""Pose students in files: ``student.safetensors`` beside ``student.json``, without their run."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from classroomkd.errors import ClassroomError
from classroomkd.models.files import save_weights
from classroomkd.tasks.pose.models.build import build_pose_model
from classroomkd.tasks.pose.models.codec import codec_from_dict, codec_to_dict
from classroomkd.tasks.pose.models.network import PoseNetwork


@dataclass(frozen=True)
class PoseStudentFile:
    """What ``student.json`` says beyond the network.

    Attributes:
        joints: name of the joint set, such as ``"coco"``.
        dataset: what it was trained on.
        epoch: the epoch that was kept, from 0.
        metric: what it was judged by, such as ``"pck"``; None without a development split.
        score: its value there.
    """

    joints: str
    dataset: str
    epoch: int
    metric: str | None = None
    score: float | None = None


def save_pose_student(network: PoseNetwork, info: PoseStudentFile, folder: Path | str) -> None:
    """Write ``student.safetensors`` and ``student.json`` into ``folder``, each atomically."""
    folder = Path(folder)
    save_weights(network, folder / "student.safetensors")
    part = folder / "student.json.part"
    part.write_text(json.dumps({**describe(network), **asdict(info)}, indent=2) + "\n")
    os.replace(part, folder / "student.json")


def load_pose_student(folder: Path | str) -> tuple[PoseNetwork, PoseStudentFile]:
    """The student of a run folder, in eval mode.

    Raises:
        ClassroomError: if a file is missing or does not fit.
    """
    folder = Path(folder)
    file = folder / "student.json"
    try:
        said: dict[str, Any] = json.loads(file.read_text())
        if said.get("task") != "pose":
            raise ValueError("it is no student of poses")
        info = PoseStudentFile(**{name: said[name] for name in PoseStudentFile.__annotations__})
        network = rebuild(said)
    except KeyError as error:
        raise ClassroomError(f"{file} cannot be read: {error} is missing") from error
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ClassroomError(f"{file} cannot be read: {error}") from error
    load_pose_weights(network, folder / "student.safetensors")
    return network.eval(), info


def describe(network: PoseNetwork) -> dict[str, Any]:
    """What `rebuild` needs, for JSON."""
    return {
        "task": "pose",
        "model": network.name,
        "options": network.options,
        "joint_names": network.joint_names,
        "flip_pairs": network.flip_pairs,
        "input_size": network.input_size,
        "codec": codec_to_dict(network.codec),
    }


def rebuild(said: dict[str, Any]) -> PoseNetwork:
    """The network that `describe` told of, with fresh weights.

    Raises:
        ValueError: it is not known, or its codec would be another one.
    """
    network = build_pose_model(
        said["model"],
        said["joint_names"],
        said["flip_pairs"],
        said["input_size"],
        **said["options"],
    )
    if codec_from_dict(said["codec"]) != network.codec:
        raise ValueError(f"its codec is not that of {network.name}: {said['codec']}")
    return network


def load_pose_weights(network: PoseNetwork, path: Path) -> None:
    """Load a pose network's weights from a ``.safetensors`` file.

    Raises:
        ClassroomError: if it is missing, damaged or does not fit, naming what differs.
    """
    if not path.is_file():
        raise ClassroomError(f"no such file: {path}")
    try:
        weights = load_file(path)
    except Exception as error:  # whatever a damaged file provokes
        raise ClassroomError(f"{path} is damaged or not a file of weights: {error}") from error
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise ClassroomError(
            f"{path} does not fit a {network.name} with {len(network.joint_names)} joints: {error}"
        ) from error
