"""Every way to learn from mentors, behind one protocol: `Method`."""

from classroomkd.methods import (  # noqa: F401  (they register the methods)
    classroom,
    contrib,
    curriculum,
    features,
    flow,
    logits,
    multi,
    online,
    relations,
)
from classroomkd.methods.base import (
    LogitMethod,
    Method,
    Outputs,
    SingleMethod,
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
    "SingleMethod",
    "create_method",
    "list_methods",
    "method_class",
    "method_options",
    "option_mistakes",
    "register_method",
]
