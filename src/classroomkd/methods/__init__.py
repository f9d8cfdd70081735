"""Every way to learn from mentors, behind one protocol: `Method`."""

from classroomkd.methods import logits, multi  # noqa: F401  (registers the methods)
from classroomkd.methods.base import (
    LogitMethod,
    Method,
    Outputs,
    create_method,
    list_methods,
    method_class,
    method_options,
    option_mistakes,
    register_method,
)

__all__ = [
    "LogitMethod",
    "Method",
    "Outputs",
    "create_method",
    "list_methods",
    "method_class",
    "method_options",
    "option_mistakes",
    "register_method",
]
