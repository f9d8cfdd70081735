"""Every way to learn from mentors, behind one protocol: `Method`."""

from classroomkd.methods import (  # noqa: F401  (they register the methods)
    contrib,
    curriculum,
    features,
    flow,
    logits,
    multi,
    relations,
)
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
