"""Whether what a JSON file holds is what it should be."""

import math

import numpy as np


def is_whole(value: object) -> bool:
    """Whether it is a whole number of at most 64 bits."""
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def floats(raw: object) -> np.ndarray | None:
    """A list of numbers as float64, not necessarily finite; None if it is something else.

    >>> floats([1, 2.5]), floats([1, None])
    (array([1. , 2.5]), None)
    """
    if not isinstance(raw, list) or not all(isinstance(value, int | float) for value in raw):
        return None
    try:
        return np.array(raw, np.float64)
    except OverflowError:  # a whole number of hundreds of digits
        return None


def finite(raw: object, count: int) -> list[float] | None:
    """A list of that many finite numbers, or None if it is something else.

    >>> finite([1, 2], 2), finite([1, float("nan")], 2)
    ([1.0, 2.0], None)
    """
    values = floats(raw)
    if values is None or len(values) != count:
        return None
    numbers = values.tolist()
    return numbers if all(map(math.isfinite, numbers)) else None
