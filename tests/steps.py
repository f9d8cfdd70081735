"""A training step of networks that no recipe names."""

from types import SimpleNamespace

import torch

from classroomkd.engine.devices import SINGLE_PROCESS
from classroomkd.engine.mentor_outputs import MentorOutputs
from classroomkd.engine.step import training_step
from classroomkd.methods import Outputs
from classroomkd.tasks.base import Place
from classroomkd.tasks.classification.task import Classification


def step(student, mentors, method, batch, precision="fp32", classes=10):
    """The lesson of a batch of images."""
    device = batch.images.device
    example = Outputs(torch.zeros(1, classes, device=device))
    task = Classification(None, Place(device))
    return training_step(
        SimpleNamespace(
            student=student,
            mentors=mentors,
            method=method,
            task=task,
            device=device,
            precision=precision,
            team=SINGLE_PROCESS,
            first=None,
            mentor_outputs=MentorOutputs(mentors, method, example, task.bins),
        ),
        batch,
    )
