"""Mentors in pose estimation: frozen networks that speak in the student's joints and bins.

Shapes: ``B`` persons, ``U`` joints of the student, ``K`` bins.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, Self, cast

import torch
from torch import Tensor

from classroomkd.config.pose import PoseMentorRecipe
from classroomkd.core.signals import Blocks
from classroomkd.data.pose import custom_joints, joint_map, joint_set
from classroomkd.errors import ClassroomError
from classroomkd.mentors.mentor import Mentor
from classroomkd.models.pose import (
    PoseNetwork,
    build_pose_model,
    load_pose_student,
    parse_pose_name,
    to_codec,
)
from classroomkd.models.pose.files import load_pose_weights


class PoseOutputs(NamedTuple):
    """What a mentor says about a batch.

    Attributes:
        logits: in the student's bins, a block ``[B, U, K]`` each; for joints that the mentor does
            not know, something finite that is not to be heard.
        points: ``[B, U, 2]``, where it sees the joints, in pixels of the student's input; None
            if not asked for.
    """

    logits: Blocks
    points: Tensor | None


class PoseMentor:
    """A frozen pose network with its name, its role, and its joints in the student's order.

    It is no `nn.Module`: neither the student's module tree, nor an optimizer, nor a checkpoint can
    come to contain it. The network is in eval mode and without gradients for good.

    Args:
        network: the mentor.
        name: in reports.
        role: ``"teacher"`` or ``"peer"``.
        student: whose bins and joints it is to speak in.

    Attributes:
        known: ``[U]`` bool, the joints of the student that it knows.
        learns: False: in pose, mentors do not train along.

    Raises:
        ClassroomError: if it knows none of the student's joints.
    """

    learns = False

    def __init__(
        self,
        network: PoseNetwork,
        name: str,
        role: Literal["teacher", "peer"],
        student: PoseNetwork,
    ) -> None:
        self.network, self.name, self.role = network, name, role
        self._frozen = Mentor(network, name, role)
        self.codec, self.size = student.codec, student.input_size
        own = custom_joints(name, network.joint_names)
        places = joint_map(own, custom_joints("student", student.joint_names))
        if (places < 0).all():
            raise ClassroomError(
                f"{name} knows none of the student's joints: it has"
                f" {', '.join(network.joint_names)}; the student has"
                f" {', '.join(student.joint_names)}"
            )
        self.known = places >= 0
        self._places = places.clamp_min(0)

    def to(self, device: torch.device | str, memory_format: torch.memory_format) -> Self:
        """Move the network; returns itself."""
        self._frozen.to(device, memory_format)
        return self._speak_on(device)

    def offload(self, device: torch.device, memory_format: torch.memory_format) -> Self:
        """Keep the network in the host's memory but for its turns, as `Mentor.offload` does."""
        self._frozen.offload(device, memory_format)
        return self._speak_on(device)

    def _speak_on(self, device: torch.device | str) -> Self:
        self.known, self._places = self.known.to(device), self._places.to(device)
        return self

    @property
    def offloaded(self) -> bool:
        """Whether its network is in the host's memory, and on the device for its turn only."""
        return self._frozen.offloaded

    @property
    def shares_bins(self) -> bool:
        """Whether it has the student's head, size and joints, so that likelihoods compare."""
        same = self.network.codec == self.codec and self.network.input_size == self.size
        return same and bool(self.known.all())

    @torch.no_grad()
    def outputs(self, images: Tensor) -> Blocks:
        """What its head gives, in its own bins and the student's joints; float32."""
        said = cast(Blocks, self._frozen(images))  # without a class map: what the network gives
        return tuple(block.index_select(1, self._places).float() for block in said)

    @torch.no_grad()
    def __call__(self, images: Tensor, *, decoded: bool = False) -> PoseOutputs:
        """What it says about a batch.

        Args:
            images: ``[B, 3, H, W]`` in [0, 1], of the student's size.
            decoded: whether to give points as well.
        """
        own, outputs = self.network.codec, self.outputs(images)
        logits = to_codec(outputs, own, self.network.input_size, self.codec, self.size)
        if not decoded:
            return PoseOutputs(logits, None)
        points, _ = own.decode(outputs)
        scale = [mine / its for mine, its in zip(self.size, self.network.input_size, strict=True)]
        scale = torch.tensor(scale[::-1], device=points.device)  # x, then y
        return PoseOutputs(logits, (points + 0.5) * scale - 0.5)


def open_pose_mentor(recipe: PoseMentorRecipe, name: str, student: PoseNetwork) -> PoseMentor:
    """Build a mentor from its entry in a recipe.

    Raises:
        ClassroomError: if its weights cannot be had or do not fit, or it knows none of the joints.
    """
    if recipe.student_folder is not None:
        network, _ = load_pose_student(recipe.student_folder)
    else:
        network = _other(recipe, name, student)
    return PoseMentor(network, name, recipe.role, student)


def _other(recipe: PoseMentorRecipe, name: str, student: PoseNetwork) -> PoseNetwork:
    """A network of another library, or of a file of weights."""
    assert recipe.model is not None  # checked with the recipe
    joints = joint_set(recipe.joints or "coco")
    size = recipe.input
    if size is None and parse_pose_name(recipe.model).body not in ("hf", "torchvision"):
        size = student.input_size
    fetched = recipe.checkpoint is None
    try:
        network = build_pose_model(
            recipe.model, joints.names, joints.pairs, size, pretrained=fetched
        )
    except (ValueError, TypeError) as error:
        raise ClassroomError(f"{name}: {error}") from error
    if recipe.checkpoint is not None:
        load_pose_weights(network, recipe.checkpoint)
    return network


def check_scores(mentors: Sequence[PoseMentor], score: str) -> Literal["likelihood", "oks"]:
    """By what mentors are ranked: as asked, or by what can be compared."""
    if score == "auto":
        return "likelihood" if all(mentor.shares_bins for mentor in mentors) else "oks"
    return "oks" if score == "oks" else "likelihood"
