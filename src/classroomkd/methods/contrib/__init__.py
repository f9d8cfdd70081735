"""Methods of which something is unsure; the docstring of each says what."""

from classroomkd.methods.contrib import cc

__all__ = ["cc"]
