"""Methods whose mentors train along with the student (``train: true`` in a recipe).

Shapes: ``M`` mentors. ``CE`` is the cross-entropy with the label.
"""

from functools import partial

from classroomkd.methods.composed import FromAll, equal_parts
from classroomkd.methods.options import Temperature, Weight
from classroomkd.methods.registry import register_method


@register_method("dml")
class DML(FromAll):
    r"""Deep mutual learning: every network of a cohort learns from all others.

    .. math:: L_k = \lambda CE_k
              + \frac{w}{M} \sum_{l \ne k} \tau^2 KL(\sigma(z_l/\tau) \,\|\, \sigma(z_k/\tau))

    for the student and for each mentor that trains along, with its ``M`` others.

    Args:
        temperature: ``tau``.
        weight: ``w``, of the others' terms together.
        task_weight: ``lambda``, of the cross-entropy.

    Reference: Zhang et al., Deep Mutual Learning, CVPR 2018, equations 5 and 6. Deviations: all
    networks are updated at once, from one forward pass; the paper updates them in turn.
    """

    title = "DML"
    year = 2018
    kind = "online"

    def __init__(
        self, *, temperature: Temperature = 1.0, weight: Weight = 1.0, task_weight: Weight = 1.0
    ) -> None:
        super().__init__(temperature, partial(equal_parts, weight=weight), task_weight)
