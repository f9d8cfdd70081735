"""Statistics over seeds, against values computed by hand and against SciPy."""

import math

import pytest

from classroomkd.bench.statistics import Sample, paired_difference, t_quantile


def test_mean_and_spread_by_hand():
    sample = Sample((1.0, 2.0, 6.0))
    assert sample.mean == 3.0
    assert sample.spread == pytest.approx(math.sqrt((4 + 1 + 9) / 2))
    assert str(sample) == "3.00 ± 2.65"
    assert (Sample((5.0,)).mean, Sample((5.0,)).spread, str(Sample((5.0,)))) == (5.0, None, "5.00")
    assert (Sample(()).mean, Sample(()).spread, str(Sample(()))) == (None, None, "–")


@pytest.mark.parametrize(
    ("probability", "freedom", "printed"),  # a printed table of Student's t
    [
        (0.975, 1, 12.706), (0.975, 2, 4.303), (0.975, 3, 3.182), (0.975, 4, 2.776),
        (0.975, 10, 2.228), (0.95, 5, 2.015), (0.995, 30, 2.750), (0.9995, 1, 636.619),
    ],
)  # fmt: skip
def test_quantiles_of_the_printed_table(probability, freedom, printed):
    assert t_quantile(probability, freedom) == pytest.approx(printed, abs=6e-4)
    assert t_quantile(1 - probability, freedom) == pytest.approx(-printed, abs=6e-4)


def test_quantiles_agree_with_scipy():
    stats = pytest.importorskip("scipy.stats")
    for freedom in (*range(1, 41), 100, 101):
        for probability in (0.001, 0.3, 0.5, 0.6, 0.9, 0.975, 0.9995):
            expected = float(stats.t.ppf(probability, freedom))
            assert t_quantile(probability, freedom) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("probability", "freedom"), [(0.0, 3), (1.0, 3), (0.975, 0)])
def test_what_has_no_quantile(probability, freedom):
    with pytest.raises(ValueError, match="no quantile"):
        t_quantile(probability, freedom)


def test_paired_difference_by_hand():
    # Differences 1, 2, 3: mean 2, standard deviation 1, standard error 1 / sqrt(3), t = 4.3027.
    difference = paired_difference([11.0, 22.0, 33.0], [10.0, 20.0, 30.0])
    assert difference.mean == 2.0
    assert difference.margin == pytest.approx(4.302653 / math.sqrt(3))
    assert difference.parts() == ("+2.00", "[−0.48, +4.48]")
    assert difference.interval == pytest.approx((-0.484138, 4.484138))


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_paired_difference_agrees_with_scipy(level):
    stats = pytest.importorskip("scipy.stats")
    values, reference = [47.29, 47.34, 47.63, 46.9], [44.33, 44.03, 44.40, 45.1]
    expected = stats.ttest_rel(values, reference).confidence_interval(level)
    difference = paired_difference(values, reference, level)
    assert difference.interval == pytest.approx((expected.low, expected.high))


def test_one_pair_has_no_interval_and_pairs_must_match():
    single = paired_difference([3.0], [4.5])
    assert (single.mean, single.margin, single.interval) == (-1.5, None, None)
    assert single.parts() == ("−1.50", None)
    with pytest.raises(ValueError, match="no pairs"):
        paired_difference([], [])
    with pytest.raises(ValueError, match="shorter"):
        paired_difference([1.0, 2.0], [1.0])
