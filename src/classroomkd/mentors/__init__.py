"""Mentors: frozen networks with their own preprocessing and class order."""

from classroomkd.mentors.labels import class_map
from classroomkd.mentors.mentor import (
    Adapter,
    AwayMentor,
    ClassOrder,
    LearningMentor,
    Mentor,
    StoredMentor,
)
from classroomkd.moved import names_of

__all__ = [
    "Adapter",
    "AwayMentor",
    "ClassOrder",
    "LearningMentor",
    "Mentor",
    "StoredMentor",
    "class_map",
]

__getattr__ = names_of(__name__, {
    "open_mentor": "classroomkd.tasks.classification.mentor",
    "mentor_names": "classroomkd.config.schema",
})  # fmt: skip
