"""Checks of the options of views."""

from collections.abc import Sequence


def whole(name: str, value: int, least: int, most: int) -> None:
    """A ValueError unless it is a whole number in the range."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"{name} must be a whole number from {least} to {most}, not {value!r}")


def number(name: str, value: float, least: float, most: float) -> None:
    """A ValueError unless it is a number in the range."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"{name} must be a number from {least:g} to {most:g}, not {value!r}")


def pair(name: str, value: Sequence[float], least: float, most: float) -> None:
    """A ValueError unless it is a range in the range.

    >>> pair("scale", (0.5, 1), 0, 1)
    """
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError(f"{name} must be two numbers, the least and the most, not {value!r}")
    for part in value:
        number(name, part, least, most)
    if value[0] > value[1]:
        raise ValueError(f"{name} must be the least before the most, not {value!r}")
