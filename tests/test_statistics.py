"""Statistics over seeds, against values computed by hand and tables of others."""

import math

import numpy as np
import pytest
from scipy import stats

from classroomkd.statistics import Difference, Sample, holm, paired_difference


def test_mean_and_spread_by_hand():
    sample = Sample((1.0, 2.0, 6.0))
    assert sample.mean == 3.0
    assert sample.spread == pytest.approx(math.sqrt((4 + 1 + 9) / 2))
    assert str(sample) == "3.00 ± 2.65"
    assert (Sample((5.0,)).mean, Sample((5.0,)).spread, str(Sample((5.0,)))) == (5.0, None, "5.00")
    assert (Sample(()).mean, Sample(()).spread, str(Sample(()))) == (None, None, "–")


def test_paired_difference_by_hand():
    # Differences 1, 2, 3: mean 2, standard deviation 1, standard error 1 / sqrt(3), t = 4.3027.
    difference = paired_difference([11.0, 22.0, 33.0], [10.0, 20.0, 30.0])
    assert difference.values == (1.0, 2.0, 3.0)
    assert (difference.mean, difference.spread) == (2.0, 1.0)
    assert difference.interval == pytest.approx((-0.484138, 4.484138))
    assert difference.parts() == ("+2.00", "[−0.48, +4.48]")
    # With two degrees of freedom the tails of t are 1 - t / sqrt(2 + t ** 2).
    t = 2 * math.sqrt(3)
    assert difference.p == pytest.approx(1 - t / math.sqrt(2 + t**2))


def test_interval_and_p_agree_with_the_test_of_two_samples():
    values, reference = [47.29, 47.34, 47.63, 46.9], [44.33, 44.03, 44.40, 45.1]
    expected = stats.ttest_rel(values, reference)
    difference = paired_difference(values, reference)
    limits = expected.confidence_interval(0.95)
    assert difference.interval == pytest.approx((limits.low, limits.high))
    assert difference.p == pytest.approx(expected.pvalue)


def test_the_bootstrap_interval_is_that_of_all_resamples():
    values = np.array([0.3, 1.1, 2.0, -0.4])
    places = np.stack(np.meshgrid(*[range(4)] * 4), axis=-1).reshape(-1, 4)  # all 256
    low, high = np.quantile(values[places].mean(axis=1), [0.025, 0.975])
    found = Difference(tuple(values)).bootstrap
    assert found == pytest.approx((low, high), abs=0.05)
    assert found == Difference(tuple(values)).bootstrap


def test_differences_that_are_all_alike_are_not_tested():
    alike = Difference((0.1, 0.1, 0.1))
    assert alike.interval == pytest.approx((0.1, 0.1))
    assert alike.bootstrap == pytest.approx((0.1, 0.1))
    assert (alike.p, alike.seeds_to_show()) == (None, None)


def test_one_pair_has_no_interval_and_pairs_must_match():
    single = paired_difference([3.0], [4.5])
    assert (single.mean, single.spread, single.interval, single.bootstrap) == (-1.5,) + (None,) * 3
    assert (single.p, single.seeds_to_show()) == (None, None)
    assert single.parts() == ("−1.50", None)
    with pytest.raises(ValueError, match="no pairs"):
        paired_difference([], [])
    with pytest.raises(ValueError, match="shorter"):
        paired_difference([1.0, 2.0], [1.0])


@pytest.mark.parametrize(
    ("effect", "pairs"), [(0.2, 199), (0.5, 34), (0.8, 15), (1.0, 10)]
)  # tables of power for the paired t-test: two-sided, 5 %, power 0.8
def test_seeds_that_show_a_difference(effect, pairs):
    assert Difference((-1.0, 0.0, 1.0)).seeds_to_show(points=effect) == pairs


def test_a_large_difference_needs_few_seeds():
    assert Difference((-0.001, 0.0, 0.001)).seeds_to_show(points=50) == 2


def test_holm_by_hand():
    # The example of Holm's procedure: 4 x 0.005, 3 x 0.01, 2 x 0.03, and 0.04 raised to 0.06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, None, 0.7]) == [1.0, None, 1.0]
    assert holm([]) == []
