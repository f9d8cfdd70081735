"""What a pose run keeps for its report to draw: some persons, beliefs of networks, who taught what.

It goes into ``pictures.safetensors`` and ``pictures.json`` of the run folder, so that the page
depends on that folder alone.

Shapes: ``V`` persons that are shown, ``M`` mentors, ``U`` joints.
"""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import save_file
from torch import Tensor

from classroomkd.data.epochs import Epochs
from classroomkd.engine.classroom import Classroom
from classroomkd.mentors import Mentor
from classroomkd.tasks.pose.data import PoseBatch
from classroomkd.tasks.pose.mentor import JointAdapter
from classroomkd.tasks.pose.metrics import taught_joints
from classroomkd.tasks.pose.metrics.predict import in_eval_mode
from classroomkd.tasks.pose.models import PoseNetwork, flip_test
from classroomkd.tasks.pose.models.codec import codec_to_dict

SHOWN = 8


@torch.no_grad()
def keep_pictures(classroom: Classroom, student: PoseNetwork, folder: Path) -> None:
    """Write what the report draws.

    Of development persons, or those of the test set without any, the ones with most labelled joints
    among the first batch are shown; on all, mentors are ranked joint by joint.

    Args:
        classroom: whose mentors and joints are shown.
        student: the one that was chosen, on the device.
        folder: of the run.
    """
    task = classroom.task
    loader = classroom.dev or task.plain_loader(task.test_set())
    shown = [mentor for mentor in classroom.mentors if mentor.here]
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
        networks = [student, *(mentor.network for mentor in shown)]
        beliefs = [student(batch.images[:1]), *(_beliefs(m, batch) for m in shown)]
        for number, blocks in enumerate(beliefs):
            tensors |= {f"belief.{number}.{b}": block.half() for b, block in enumerate(blocks)}
        if shown:
            tensors["taught"] = _taught(classroom, student, shown, loader)
    joints = classroom.train.dataset.joints
    said = {
        "joints": joints.names,
        "skeleton": joints.skeleton,
        "networks": [
            {"name": name, "codec": codec_to_dict(net.codec), "input_size": net.input_size}
            for name, net in zip(("student", *(m.name for m in shown)), networks, strict=True)
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


def _beliefs(mentor: Mentor, batch: PoseBatch) -> tuple[Tensor, ...]:
    """A mentor's outputs for the first person, in the student's joints; 0 for those it lacks."""
    adapter = mentor.adapter
    assert isinstance(adapter, JointAdapter)
    known = adapter.mask[:, None]
    blocks = adapter.outputs(mentor.network(batch.images[:1]))
    return tuple((block.flatten(2) * known).view_as(block) for block in blocks)


def _taught(
    classroom: Classroom, student: PoseNetwork, mentors: list[Mentor], loader: Epochs
) -> Tensor:
    """``[M, U]``: of those whose joint is labelled, the share whom each mentor would teach it.

    Each joint is ranked by itself, whatever the method ranks together.
    """
    task, method = classroom.task, classroom.method
    wanted = {"features": method.needs_features, "preactivations": method.needs_preactivations}
    known = torch.stack([cast(Tensor, mentor.adapter.mask) for mentor in mentors])
    taught = labelled = torch.zeros((), dtype=torch.float64, device=known.device)
    for batch in loader:
        own = task.student_outputs(student, batch.images, **wanted)
        said = [mentor.outputs(batch.images, **wanted) for mentor in mentors]
        lesson = method(replace(task.signals(own, said, batch), group="unit"))
        counts = taught_joints(lesson.active, batch.visible, known)
        taught, labelled = taught + counts.taught, labelled + counts.labelled
    return taught / labelled
