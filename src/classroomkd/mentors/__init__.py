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

__all__ = [
    "Adapter",
    "AwayMentor",
    "ClassOrder",
    "LearningMentor",
    "Mentor",
    "StoredMentor",
    "class_map",
]
