"""Mentors in pose estimation: frozen networks that speak in the student's joints and bins.

Shapes: ``B`` persons, ``U`` joints of the student, ``K`` bins.
"""

import json
from collections.abc import Mapping
from typing import Literal

import torch

from classroomkd.core.signals import Blocks
from classroomkd.errors import ClassroomError
from classroomkd.mentors import LearningMentor, Mentor, StoredMentor
from classroomkd.methods import Outputs
from classroomkd.tasks.pose.data import custom_joints, joint_map, joint_set
from classroomkd.tasks.pose.models import (
    PoseNetwork,
    build_pose_model,
    load_pose_student,
    parse_pose_name,
    to_codec,
)
from classroomkd.tasks.pose.models.codec import codec_to_dict
from classroomkd.tasks.pose.models.files import load_pose_weights
from classroomkd.tasks.pose.recipe import PoseMentorRecipe


class JointAdapter:
    """From a mentor's joints and bins to the student's.

    Args:
        network: the mentor's.
        name: of the mentor.
        student: whose bins and joints it is to speak in.

    Attributes:
        mask: ``[U]`` bool, the joints of the student that it knows.
        decoded: whether it also says where it sees the joints, as ``extras["points"]``
            ``[B, U, 2]``, in pixels of the student's input: by its own bins, before they become
            those of the student.

    Raises:
        ClassroomError: if it knows none of the student's joints.
    """

    def __init__(self, network: PoseNetwork, name: str, student: PoseNetwork) -> None:
        self.own, self.own_size = network.codec, network.input_size
        self.codec, self.size = student.codec, student.input_size
        joints = custom_joints(name, network.joint_names)
        places = joint_map(joints, custom_joints("student", student.joint_names))
        if (places < 0).all():
            raise ClassroomError(
                f"{name} knows none of the student's joints: it has"
                f" {', '.join(network.joint_names)}; the student has"
                f" {', '.join(student.joint_names)}"
            )
        self.mask = places >= 0
        self._places = places.clamp_min(0)
        self.decoded = False

    @property
    def shares_bins(self) -> bool:
        """Whether it has the student's head, size and joints, so that likelihoods compare."""
        same = self.own == self.codec and self.own_size == self.size
        return same and bool(self.mask.all())

    def outputs(self, given: Blocks) -> Blocks:
        """What the network gave, in its own bins and the student's joints; float32.

        For joints that it does not know, something finite that is not to be heard.
        """
        return tuple(block.index_select(1, self._places).float() for block in given)

    def __call__(self, given: Blocks) -> Outputs:
        """Logits in the student's bins, and points if they are asked for."""
        outputs = self.outputs(given)
        first, *more = to_codec(outputs, self.own, self.own_size, self.codec, self.size)
        if not self.decoded:
            return Outputs(first, more=tuple(more))
        points, _ = self.own.decode(outputs)
        scale = [mine / its for mine, its in zip(self.size, self.own_size, strict=True)]
        scale = torch.tensor(scale[::-1], device=points.device)  # x, then y
        points = (points + 0.5) * scale - 0.5
        return Outputs(first, more=tuple(more), extras={"points": points})

    def to(self, device: torch.device | str) -> None:
        """Move what it works with."""
        self.mask, self._places = self.mask.to(device), self._places.to(device)

    def key(self) -> Mapping[str, str]:
        """The joints and bins of both."""
        places = self._places.where(self.mask, -1).tolist()
        return {
            "joints": json.dumps(places),
            "own_bins": json.dumps([codec_to_dict(self.own), self.own_size]),
            "decoded": str(self.decoded),
        }


def pose_mentor(
    network: PoseNetwork,
    name: str,
    role: Literal["teacher", "peer"],
    student: PoseNetwork,
    *,
    learns: bool = False,
) -> Mentor:
    """A mentor that speaks in a student's joints and bins.

    Args:
        network: the mentor's.
        name: in reports.
        role: ``"teacher"`` or ``"peer"``.
        student: whose bins and joints it is to speak in.
        learns: whether it trains along.

    Raises:
        ClassroomError: if it knows none of the student's joints.
    """
    kind = LearningMentor if learns else Mentor
    return kind(network, name, role, adapter=JointAdapter(network, name, student))


def open_pose_mentor(recipe: PoseMentorRecipe, name: str, student: PoseNetwork) -> Mentor:
    """Build a mentor from its entry in a recipe.

    Raises:
        ClassroomError: if its weights cannot be had or do not fit, or it knows none of the joints.
    """
    if recipe.outputs is not None:
        adapter = JointAdapter(student, name, student)  # its outputs are adapted already
        return StoredMentor(name, recipe.role, recipe.outputs, adapter)
    if recipe.student_folder is not None:
        network, _ = load_pose_student(recipe.student_folder)
    else:
        network = _other(recipe, name, student)
    return pose_mentor(network, name, recipe.role, student, learns=recipe.train)


def _other(recipe: PoseMentorRecipe, name: str, student: PoseNetwork) -> PoseNetwork:
    """A network of another library, or of a file of weights; or one that starts from nothing."""
    assert recipe.model is not None  # checked with the recipe
    body = parse_pose_name(recipe.model).body
    joints = joint_set(recipe.joints or "coco")
    names, pairs = joints.names, joints.pairs
    if recipe.train and recipe.joints is None:
        names, pairs = student.joint_names, student.flip_pairs
    size = recipe.input
    if size is None and body not in ("hf", "torchvision"):
        size = student.input_size
    fetched = recipe.checkpoint is None and not recipe.train
    try:
        network = build_pose_model(recipe.model, names, pairs, size, pretrained=fetched)
    except (ValueError, TypeError) as error:
        raise ClassroomError(f"{name}: {error}") from error
    if recipe.checkpoint is not None:
        load_pose_weights(network, recipe.checkpoint)
    return network
