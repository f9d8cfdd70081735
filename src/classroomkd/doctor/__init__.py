"""`classroomkd doctor`: look at a classroom before hours are spent on it."""

from classroomkd.doctor.examine import examine
from classroomkd.doctor.finding import Conclusion, Finding, conclude

__all__ = ["Conclusion", "Finding", "conclude", "examine"]
