"""Means over seeds, and how far to trust a difference of two: tests and intervals by SciPy."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, stdev
from typing import Any

LEVEL = 0.95
SHOWN = 0.5  # points: a difference that papers report, and that a study should be able to see


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
    """Differences of pairs, one a seed, and what they say about their mean.

    Pairing by seed takes out what a seed does to both. Intervals and tests suppose independent
    differences, and know of no source of chance but the seed.

    Example:
        >>> Difference((1.0, 2.0, 3.0)).parts(), Difference((-0.5,)).parts()
        (('+2.00', '[−0.48, +4.48]'), ('−0.50', None))
    """

    values: tuple[float, ...]

    @cached_property
    def mean(self) -> float:
        """Their mean."""
        return fmean(self.values)

    @cached_property
    def spread(self) -> float | None:
        """Their standard deviation (divisor ``n - 1``); None of one pair."""
        return stdev(self.values) if len(self.values) > 1 else None

    @cached_property
    def interval(self) -> tuple[float, float] | None:
        r"""The 95 % interval of Student's t; None of one pair.

        .. math:: \bar d \pm t_{0.975,\, n-1}\; s_d / \sqrt n
        """
        if self.spread is None:
            return None
        from scipy import stats

        count = len(self.values)
        margin = float(stats.t.ppf((1 + LEVEL) / 2, count - 1)) * self.spread / math.sqrt(count)
        return self.mean - margin, self.mean + margin

    @cached_property
    def bootstrap(self) -> tuple[float, float] | None:
        """The 95 % percentile interval of 9,999 bootstrap means; None of one pair.

        It supposes no distribution, but of a handful of seeds it is too narrow: the t interval
        is the one to trust there.
        """
        if self.spread is None:
            return None
        import numpy as np
        from scipy import stats

        found = stats.bootstrap(
            (np.array(self.values),),
            np.mean,
            confidence_level=LEVEL,
            method="percentile",
            rng=0,
        ).confidence_interval
        return float(found.low), float(found.high)

    @cached_property
    def p(self) -> float | None:
        """Of the paired t-test, two-sided; None of one pair, and of pairs that all differ alike."""
        if not self._varies:
            return None
        from scipy import stats

        result: Any = stats.ttest_1samp(self.values, 0)
        return float(result.pvalue)

    def seeds_to_show(self, points: float = SHOWN, power: float = 0.8) -> int | None:
        r"""How many seeds a paired t-test (two-sided, 5 %) needs to see a difference this large.

        The smallest ``n`` whose power is reached at the observed deviation ``s_d``:

        .. math:: P(|T| > t_{0.975,\, n-1}) \ge power, \quad
                  T \sim \text{noncentral } t_{n-1}(points\, \sqrt n / s_d)

        None where `p` is. A deviation that few seeds showed is itself not known well.

        Example:
            >>> Difference((-1.0, 0.0, 1.0)).seeds_to_show(points=0.5)
            34
        """
        if not self._varies or self.spread is None:
            return None
        from scipy import stats

        ratio = points / self.spread
        # The normal distribution asks for a few less: begin there.
        quantiles = stats.norm.ppf((1 + LEVEL) / 2) + stats.norm.ppf(power)
        count = max(2, math.floor((quantiles / ratio) ** 2))
        while _power(ratio, count) < power:
            count += 1
        return count

    @property
    def _varies(self) -> bool:
        return self.spread is not None and self.spread > 1e-12 * max(1.0, abs(self.mean))

    def parts(self) -> tuple[str, str | None]:
        """The mean with its sign, and the t interval if there is one, as text."""
        return signed(self.mean), None if self.interval is None else interval_text(self.interval)


def signed(points: float) -> str:
    """Points with their sign.

    Example:
        >>> signed(-0.4)
        '−0.40'
    """
    return f"{points:+.2f}".replace("-", "−")


def interval_text(ends: tuple[float, float]) -> str:
    """An interval of points.

    Example:
        >>> interval_text((-0.484, 4.484))
        '[−0.48, +4.48]'
    """
    return f"[{signed(ends[0])}, {signed(ends[1])}]"


def paired_difference(values: Sequence[float], reference: Sequence[float]) -> Difference:
    """The differences ``values - reference``, pair by pair.

    Raises:
        ValueError: if the two differ in length, or are empty.
    """
    differences = tuple(a - b for a, b in zip(values, reference, strict=True))
    if not differences:
        raise ValueError("no pairs to compare")
    return Difference(differences)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction (1979): p values that hold for all tests of a family together.

    The ``i``-th smallest of ``m`` is multiplied by ``m - i + 1``, none gets below a smaller one's,
    and none above 1. Tests without a p value are no part of the family.

    Example:
        >>> holm([0.01, 0.04, None, 0.03])
        [0.03, 0.06, None, 0.06]
    """
    order = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, place) in enumerate(order):
        largest = max(largest, min(1.0, p * (len(order) - rank)))
        adjusted[place] = largest
    return adjusted


def _power(ratio: float, count: int) -> float:
    """Of a two-sided paired t-test at 5 %: of `count` pairs, their mean `ratio` deviations."""
    from scipy import stats

    limit = stats.t.ppf((1 + LEVEL) / 2, count - 1)
    distance = ratio * math.sqrt(count)
    tails = stats.nct.sf(limit, count - 1, distance) + stats.nct.cdf(-limit, count - 1, distance)
    # Far out SciPy gives up on the noncentral t: there the difference cannot be overlooked.
    return 1.0 if math.isnan(tails) else float(tails)
