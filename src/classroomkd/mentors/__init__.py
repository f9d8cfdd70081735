"""Mentors: frozen networks with their own preprocessing and class order."""

from classroomkd.mentors.labels import class_map
from classroomkd.mentors.mentor import AwayMentor, LearningMentor, Mentor, StoredMentor
from classroomkd.mentors.sources import mentor_names, open_mentor

__all__ = [
    "AwayMentor",
    "LearningMentor",
    "Mentor",
    "StoredMentor",
    "class_map",
    "mentor_names",
    "open_mentor",
]
