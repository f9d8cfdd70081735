"""Networks by name, and the files they are kept in."""

from classroomkd.models import cifar as cifar  # importing a family registers its models
from classroomkd.models.files import StudentFile, load_student, load_weights, save_student
from classroomkd.models.network import Network
from classroomkd.models.registry import build_model, canonical_name, list_models, register_model
from classroomkd.models.reused import deployable

__all__ = [
    "Network",
    "StudentFile",
    "build_model",
    "canonical_name",
    "deployable",
    "list_models",
    "load_student",
    "load_weights",
    "register_model",
    "save_student",
]
