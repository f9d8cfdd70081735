"""Every way to learn from mentors, behind one protocol: `Method`."""

from classroomkd.methods import (  # noqa: F401  (they register the methods)
    activations,
    agreement,
    classroom,
    confidence,
    contrastive,
    contrib,
    curriculum,
    diffkd,
    dynamic,
    factors,
    features,
    flow,
    hints,
    kdsvd,
    logits,
    multi,
    nkd,
    ofa,
    online,
    pose,
    relations,
    review,
    shadow,
    simkd,
    srrl,
)
from classroomkd.methods.base import Method, Outputs, SingleMethod
from classroomkd.methods.composed import LogitMethod, OneTemperature
from classroomkd.methods.pairs import FeatureMethod
from classroomkd.methods.published import Setting
from classroomkd.methods.registry import (
    create_method,
    list_methods,
    method_class,
    method_options,
    option_errors,
    published_options,
    register_method,
)

__all__ = [
    "FeatureMethod",
    "LogitMethod",
    "Method",
    "OneTemperature",
    "Outputs",
    "Setting",
    "SingleMethod",
    "create_method",
    "list_methods",
    "method_class",
    "method_options",
    "option_errors",
    "published_options",
    "register_method",
]
