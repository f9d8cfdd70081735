"""What a pose run keeps for its report to draw: some persons, beliefs of networks, who taught what.

It goes into ``pictures.safetensors`` and ``pictures.json`` of the run folder, so that the page
depends on that folder alone.

Shapes: ``V`` persons that are shown, ``M`` mentors, ``U`` joints.
"""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from torch import Tensor

from classroomkd.data.pose import PoseBatch, PoseLoader
from classroomkd.engine.pose.lesson import pose_training_step
from classroomkd.mentors.pose import PoseMentor
from classroomkd.models.pose import PoseNetwork, flip_test
from classroomkd.models.pose.codec import codec_to_dict
from classroomkd.tasks.pose import taught_joints
from classroomkd.tasks.pose.predict import in_eval_mode

if TYPE_CHECKING:
    from classroomkd.engine.pose.classroom import PoseClassroom

SHOWN = 8


@torch.no_grad()
def keep_pictures(
    classroom: "PoseClassroom", student: PoseNetwork, loader: PoseLoader, folder: Path
) -> None:
    """Write what the report draws.

    Args:
        classroom: whose mentors and joints are shown.
        student: the one that was chosen, on the device.
        loader: plain crops, of which the persons with most labelled joints among the first batch
            are shown, and on which mentors are ranked joint by joint.
        folder: of the run.
    """
    tensors: dict[str, Tensor] = {}
    with in_eval_mode(student):
        batch = _most_labelled(next(iter(loader)))
        outputs = flip_test(student, batch.images)
        points, _ = student.codec.decode(tuple(block.float() for block in outputs))
        tensors |= {
            "images": (batch.images * 255).round().byte(),
            "predicted": points,
            "truth": batch.points,
            "visible": batch.visible,
        }
        networks = [student, *(mentor.network for mentor in classroom.mentors)]
        beliefs = [student(batch.images[:1]), *(_beliefs(m, batch) for m in classroom.mentors)]
        for number, blocks in enumerate(beliefs):
            tensors |= {f"belief.{number}.{b}": block.half() for b, block in enumerate(blocks)}
        if classroom.mentors:
            tensors["taught"] = _taught(classroom, student, loader)
    joints = classroom.persons.joints
    said = {
        "joints": joints.names,
        "skeleton": joints.skeleton,
        "networks": [
            {"name": name, "codec": codec_to_dict(net.codec), "input_size": net.input_size}
            for name, net in zip(
                ("student", *(m.name for m in classroom.mentors)), networks, strict=True
            )
        ],
    }
    part = folder / "pictures.safetensors.part"
    save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, part)
    os.replace(part, folder / "pictures.safetensors")
    part = folder / "pictures.json.part"
    part.write_text(json.dumps(said) + "\n")
    os.replace(part, folder / "pictures.json")


def _most_labelled(batch: PoseBatch) -> PoseBatch:
    rows = batch.visible.sum(1).argsort(descending=True, stable=True)[:SHOWN].sort().values
    return PoseBatch(*(field[rows] for field in batch))


def _beliefs(mentor: PoseMentor, batch: PoseBatch) -> tuple[Tensor, ...]:
    """A mentor's outputs for the first person, in the student's joints; 0 for those it lacks."""
    known = mentor.known[:, None]
    return tuple(
        (block.flatten(2) * known).view_as(block) for block in mentor.outputs(batch.images[:1])
    )


def _taught(classroom: "PoseClassroom", student: PoseNetwork, loader: PoseLoader) -> Tensor:
    """``[M, U]``: of those whose joint is labelled, the share whom each mentor would teach it.

    Each joint is ranked by itself, whatever the method ranks together.
    """
    known = torch.stack([mentor.known for mentor in classroom.mentors])
    taught = labelled = torch.zeros((), dtype=torch.float64, device=known.device)
    for batch in loader:
        lesson = pose_training_step(
            student, classroom.mentors, classroom.method, batch, classroom.pose_loss, group="unit"
        )
        counts = taught_joints(lesson.active, batch.visible, known)
        taught, labelled = taught + counts.taught, labelled + counts.labelled
    return taught / labelled
