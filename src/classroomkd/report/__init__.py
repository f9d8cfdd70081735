"""The report: what several runs came to, as one page and as a table for the terminal."""

from classroomkd.report.page import write_report
from classroomkd.report.read import RunRecord, read_runs
from classroomkd.report.table import Cell, StudentRow, student_table, students

__all__ = [
    "RunRecord",
    "StudentRow",
    "Cell",
    "read_runs",
    "student_table",
    "students",
    "write_report",
]
