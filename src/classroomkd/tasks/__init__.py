"""Tasks: what is learnt, and how well."""

from classroomkd.tasks.classification import evaluate

__all__ = ["evaluate"]
