"""Whether a mentor's classes stand in the order in which they are read.

Shapes: ``N`` samples, ``C`` classes.
"""

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def best_order(said: Tensor, target: Tensor, classes: int) -> Tensor:
    """Which class each answer would have to mean for the most of them to be right: ``[C]``.

    The permutation with the largest sum over the confusion matrix; classes that are neither named
    nor meant keep their places.

    Args:
        said: ``[N]``, the classes that a mentor named.
        target: ``[N]``.
        classes: ``C``.

    Example:
        >>> best_order(torch.tensor([1, 1, 2, 0]), torch.tensor([0, 0, 1, 2]), 3)
        tensor([2, 0, 1])
    """
    met, place = torch.cat([said, target]).unique(return_inverse=True)
    named, meant = place.split(len(said))
    count = len(met)  # of thousands of classes, most may not be met
    pairs = torch.bincount(named * count + meant, minlength=count * count)
    rows, columns = linear_sum_assignment(pairs.view(count, count).numpy(), maximize=True)
    order = torch.arange(classes)
    order[met[rows]] = met[columns]
    return order


def right_in_best_order(said: Tensor, target: Tensor, classes: int) -> Tensor:
    """Which answers would be right in the best order, ``[N]`` bool.

    Each half of the samples is judged by the order that is best for the other half, so that a
    mentor that knows nothing gains nothing by it.
    """
    right = torch.zeros(len(said), dtype=torch.bool)
    halves = torch.arange(len(said)) % 2 == 0
    for half in (halves, ~halves):
        order = best_order(said[~half], target[~half], classes)
        right[half] = order[said[half]] == target[half]
    return right
