"""ClassroomKD: train a small network from several mentors at once.

>>> import torch
>>> import classroomkd as ckd
>>> student, mentors = torch.zeros(2, 10), [torch.randn(2, 10), torch.randn(2, 10)]
>>> lesson = ckd.classroom_loss(student, mentors, torch.tensor([3, 7]), temperature=12.0)
>>> lesson.active.shape
torch.Size([2, 2])
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from classroomkd import moved

__version__ = "0.1.0"

# Imported when first asked for, so that the command line answers before torch is loaded.
_HOMES = {
    "ClassroomLoss": "classroomkd.core",
    "Lesson": "classroomkd.core",
    "Mentor": "classroomkd.mentors",
    "Method": "classroomkd.methods",
    "Outputs": "classroomkd.methods",
    "build_model": "classroomkd.models",
    "classroom_loss": "classroomkd.core",
    "create_method": "classroomkd.methods",
    "list_methods": "classroomkd.methods",
    "list_models": "classroomkd.models",
    "load_student": "classroomkd.models",
    "register_method": "classroomkd.methods",
    "register_model": "classroomkd.models",
}

if TYPE_CHECKING:
    from classroomkd.core import ClassroomLoss, Lesson, classroom_loss
    from classroomkd.mentors import Mentor
    from classroomkd.methods import (
        Method,
        Outputs,
        create_method,
        list_methods,
        register_method,
    )
    from classroomkd.models import build_model, list_models, load_student, register_model

__all__ = [
    "ClassroomLoss",
    "Lesson",
    "Mentor",
    "Method",
    "Outputs",
    "build_model",
    "classroom_loss",
    "create_method",
    "list_methods",
    "list_models",
    "load_student",
    "register_method",
    "register_model",
]


moved.install()


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'classroomkd' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
