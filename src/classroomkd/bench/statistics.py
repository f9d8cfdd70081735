"""Means over seeds, and how far to trust a difference of two: Student's t, in plain Python."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev


@dataclass(frozen=True)
class Sample:
    """Measurements of one quantity, one a seed.

    Example:
        >>> print(Sample((44.33, 44.03, 44.40)))
        44.25 ± 0.20
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float | None:
        """The mean; None of nothing."""
        return fmean(self.values) if self.values else None

    @property
    def spread(self) -> float | None:
        """Standard deviation of a sample (divisor ``n - 1``); None below two values."""
        return stdev(self.values) if len(self.values) > 1 else None

    def __str__(self) -> str:
        if self.mean is None:
            return "–"
        return f"{self.mean:.2f}" + ("" if self.spread is None else f" ± {self.spread:.2f}")


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences and half the width of its confidence interval.

    Example:
        >>> Difference(2.0, 2.484).parts(), Difference(-0.5, None).parts()
        (('+2.00', '[−0.48, +4.48]'), ('−0.50', None))
    """

    mean: float
    margin: float | None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Its ends; None for one pair, of which nothing can be said."""
        return None if self.margin is None else (self.mean - self.margin, self.mean + self.margin)

    def parts(self) -> tuple[str, str | None]:
        """The mean with its sign, and the interval if there is one, as text."""
        ends = self.interval and "[{:+.2f}, {:+.2f}]".format(*self.interval).replace("-", "−")
        return f"{self.mean:+.2f}".replace("-", "−"), ends


def paired_difference(
    values: Sequence[float], reference: Sequence[float], level: float = 0.95
) -> Difference:
    r"""Mean of the pairs' differences with its confidence interval.

    .. math:: \bar d \pm t_{(1 + level)/2,\, n-1}\; s_d / \sqrt n

    where ``d`` are the ``n`` differences ``values - reference`` and ``s_d`` their standard
    deviation (divisor ``n - 1``). Pairing by seed takes out what a seed does to both. The interval
    supposes differences that are normal and independent; it knows of no source of chance but the
    seed.

    Example:
        >>> paired_difference([5.0, 6.0, 8.0], [4.0, 4.0, 5.0]).parts()
        ('+2.00', '[−0.48, +4.48]')

    Raises:
        ValueError: if the two differ in length, or are empty.
    """
    differences = [a - b for a, b in zip(values, reference, strict=True)]
    if not differences:
        raise ValueError("no pairs to compare")
    count = len(differences)
    if count == 1:
        return Difference(differences[0], None)
    error = stdev(differences) / math.sqrt(count)
    return Difference(fmean(differences), t_quantile((1 + level) / 2, count - 1) * error)


def t_quantile(probability: float, freedom: int) -> float:
    """The quantile of Student's t distribution with a whole number of degrees of freedom.

    ``t = sqrt(n) tan(theta)``, with ``theta`` found by bisection.

    Example:
        >>> round(t_quantile(0.975, 2), 3)
        4.303

    Raises:
        ValueError: if the probability is not between 0 and 1, or there is no degree of freedom.
    """
    if not 0 < probability < 1 or freedom < 1:
        raise ValueError(f"no quantile of t at {probability} with {freedom} degrees of freedom")
    inside = abs(2 * probability - 1)
    low, high = 0.0, math.pi / 2
    for _ in range(60):  # halves the interval to the last bit of a float
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < inside else (low, middle)
    return math.copysign(math.sqrt(freedom) * math.tan((low + high) / 2), probability - 0.5)


def _within(theta: float, freedom: int) -> float:
    r"""``P(|T| < sqrt(n) tan(theta))``, a finite sum.

    .. math:: \frac{2}{\pi} \Big(\theta + \sin\theta \big(\cos\theta + \tfrac{2}{3} \cos^3\theta
              + \dots + \tfrac{2 \cdot 4 \cdots (n-3)}{3 \cdot 5 \cdots (n-2)} \cos^{n-2}\theta
              \big)\Big) \text{ for odd } n, \quad
              \sin\theta \Big(1 + \tfrac{1}{2} \cos^2\theta + \dots +
              \tfrac{1 \cdot 3 \cdots (n-3)}{2 \cdot 4 \cdots (n-2)} \cos^{n-2}\theta\Big)
              \text{ for even } n

    Reference: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.
    """
    sine, cosine = math.sin(theta), math.cos(theta)
    odd = freedom % 2
    term = cosine if odd else 1.0
    total = term if freedom > 1 else 0.0
    for k in range(1 + odd, freedom - 1, 2):
        term *= cosine**2 * k / (k + 1)
        total += term
    return 2 / math.pi * (theta + sine * total) if odd else sine * total
