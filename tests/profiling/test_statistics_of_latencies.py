"""Percentiles against numpy, intervals by what they promise."""

import numpy as np
import pytest
import scipy.signal
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from edgevit.profiling.statistics import (
    TREND_BLOCKS,
    coefficient_of_variation,
    drift,
    independent_runs,
    nearest_rank,
    percentile_interval,
    ratio_over_starts,
    trend_chance,
)

samples = st.lists(st.floats(0.01, 1e4), min_size=1, max_size=300).map(np.array)


@given(samples, st.integers(1, 1000).map(lambda tenth: tenth / 10))
def test_nearest_rank_is_numpys_inverted_cdf(samples_ms, percent):
    expected = np.percentile(samples_ms, percent, method="inverted_cdf")
    position = percent * len(samples_ms) / 100
    if abs(position - round(position)) < 1e-9:  # an exact rank: numpy's own float arithmetic may miss it by one
        expected = np.sort(samples_ms)[max(0, round(position) - 1)]
    assert nearest_rank(samples_ms, percent) == expected


@given(samples)
def test_the_interval_of_the_median_holds_the_median_of_its_samples(samples_ms):
    interval = percentile_interval(samples_ms, 50)
    assert interval is not None
    assert samples_ms.min() <= interval.low <= nearest_rank(samples_ms, 50) <= interval.high <= samples_ms.max()


@pytest.mark.parametrize("percent", [50, 90, 99])
def test_intervals_of_independent_runs_are_those_of_the_binomial_distribution(percent):
    """The order statistics whose ranks are exact for the share of runs up to the percentile."""
    share, inside = percent / 100, []
    for seed in range(40):
        run = np.random.default_rng(seed).gamma(3, 1, 3000)
        interval = percentile_interval(run, percent)
        ranks = np.searchsorted(np.sort(run), [interval.low, interval.high])
        exact = scipy.stats.binom(3000, share).ppf([0.025, 0.975])
        inside.append((ranks - 3000 * share) / (exact - 3000 * share))
    assert np.median(inside, axis=0) == pytest.approx([1, 1], abs=0.4)


@pytest.mark.parametrize("percent", [50, 90])
@pytest.mark.parametrize("dependence", [0.0, 0.5, 0.9])
def test_intervals_cover_the_true_percentile_about_as_often_as_they_say(percent, dependence):
    generator, covered = np.random.default_rng(1), []
    for _ in range(150):
        noise = generator.normal(size=4500) * np.sqrt(1 - dependence**2)
        run = np.exp(0.05 * scipy.signal.lfilter([1], [1, -dependence], noise)[500:])
        interval = percentile_interval(run, percent)
        true = np.exp(0.05 * scipy.stats.norm.ppf(percent / 100))
        if interval is not None:
            covered.append(interval.low <= true <= interval.high)
    assert len(covered) > 130
    assert 0.89 <= np.mean(covered) <= 0.995


def test_few_runs_have_no_interval_of_the_tail():
    run = np.random.default_rng(3).gamma(3, 1, 300)
    assert percentile_interval(run, 90) is not None
    assert percentile_interval(run, 99) is None
    assert percentile_interval(run[:50], 90) is None
    repeated = np.repeat(run[:30], 10)  # ten times the same run says no more than one
    assert independent_runs(repeated, 50) < 60
    assert percentile_interval(repeated, 90) is None


def test_a_machine_that_changes_speed_widens_the_interval():
    generator = np.random.default_rng(2)
    steady = generator.normal(10, 0.3, 600)
    moody = steady + np.repeat(generator.choice([0.0, 3.0], 12), 50)
    narrow, wide = (percentile_interval(one, 50) for one in (steady, moody))
    assert wide.high - wide.low > 5 * (narrow.high - narrow.low)


def test_a_trend_is_told_from_chance():
    steady = np.random.default_rng(6).normal(10, 0.3, 600)
    assert 0.01 < trend_chance([steady]) < 0.99
    assert trend_chance([steady * np.linspace(1, 1.1, 600)]) < 0.005
    assert trend_chance([steady * np.linspace(1.1, 1, 600)]) > 0.995
    assert trend_chance([steady * np.where(np.arange(600) < 300, 1, 1.1)]) < 0.005  # a neighbor that began half way
    assert trend_chance([np.full(600, 5.0)]) == 0.5
    assert trend_chance([np.array([5.0])]) == 0.5


def test_the_chance_of_a_trend_is_kendalls():
    run = np.random.default_rng(4).normal(10, 0.3, 600) * np.linspace(1, 1.004, 600)
    medians = [nearest_rank(block, 50) for block in np.array_split(run, TREND_BLOCKS)]
    exact = scipy.stats.kendalltau(range(TREND_BLOCKS), medians, alternative="greater").pvalue
    assert trend_chance([run]) == pytest.approx(exact, rel=0.1)


def test_a_trend_within_starts_is_told_and_one_between_them_is_not():
    generator = np.random.default_rng(6)
    starts = [generator.normal(10, 0.1, 200) for _ in range(5)]
    between = [start * level for start, level in zip(starts, (1, 1.1, 1.2, 1.3, 1.4), strict=True)]
    assert 0.01 < trend_chance(between) < 0.99
    assert trend_chance([start * np.linspace(1, 1.1, 200) for start in starts]) < 0.005


@given(st.integers(6, 25), st.integers(0, 2**32 - 1))
def test_the_interval_over_starts_holds_what_wilcoxons_test_does_not_refuse(starts, seed):
    logarithms = np.random.default_rng(seed).normal(0.1, 0.3, starts)
    _, interval = ratio_over_starts(np.exp(logarithms))
    low, high = np.log([interval.low, interval.high])
    for at, inside in ((low + 1e-6, True), (high - 1e-6, True), (low - 1e-6, False), (high + 1e-6, False)):
        refused = scipy.stats.wilcoxon(logarithms - at, method="exact").pvalue <= 0.05
        assert refused != inside


def test_a_disturbed_start_moves_the_ratio_little():
    ratios = [1.30, 1.31, 1.29, 1.30, 1.32, 1.28, 1.30, 1.31, 1.29, 1.32, 1.28]
    ratio, interval = ratio_over_starts([*ratios, 5.0])
    assert ratio == pytest.approx(1.30, abs=0.01)
    assert 1.28 < interval.low < interval.high < 1.33


def test_swapping_the_models_turns_the_ratio_over():
    ratios = np.exp(np.random.default_rng(4).normal(0.2, 0.1, 10))
    (ratio, interval), (inverse, other) = ratio_over_starts(ratios), ratio_over_starts(1 / ratios)  # type: ignore[arg-type]
    assert inverse == pytest.approx(1 / ratio)
    assert (other.low, other.high) == pytest.approx((1 / interval.high, 1 / interval.low))


def test_variation_and_drift():
    assert coefficient_of_variation(np.array([1.0, 3.0])) == 0.5
    assert drift(np.array([10.0] * 30 + [11.0] * 30 + [12.0] * 30)) == np.float64(12 / 10 - 1)
