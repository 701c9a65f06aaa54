"""Percentiles against numpy, intervals by what they promise."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from edgevit.profiling.statistics import (
    coefficient_of_variation,
    drift,
    nearest_rank,
    p50_interval,
    ratio_over_starts,
    time_blocks,
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
def test_time_blocks_follow_the_run_and_take_equal_time(samples_ms):
    blocks = time_blocks(samples_ms, 4)
    assert (np.diff(blocks) >= 0).all()
    assert 0 <= blocks.min() <= blocks.max() <= 3
    longest_ms = samples_ms.max()
    for block in range(4):
        assert samples_ms[blocks == block].sum() <= samples_ms.sum() / 4 + longest_ms + 1e-9


def test_a_run_without_any_measurable_time_still_has_blocks():
    assert time_blocks(np.zeros(8), 4).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


@given(samples)
def test_the_interval_holds_the_median_of_its_samples(samples_ms):
    interval = p50_interval(samples_ms, resamples=200)
    assert samples_ms.min() <= interval.low <= interval.high <= samples_ms.max()


def test_the_interval_covers_the_true_median_about_as_often_as_it_says():
    generator = np.random.default_rng(1)
    runs = [generator.gamma(3, 1, 400) for _ in range(150)]
    true_median = 2.6740603137235603  # of gamma(3): scipy.stats.gamma(3).median()
    intervals = [p50_interval(run, resamples=300) for run in runs]
    covered = np.mean([one.low <= true_median <= one.high for one in intervals])
    assert 0.86 <= covered <= 1.0


def test_a_machine_that_changes_speed_widens_the_interval():
    generator = np.random.default_rng(2)
    steady = generator.normal(10, 0.3, 600)
    moody = steady + np.repeat(generator.choice([0.0, 3.0], 12), 50)
    narrow, wide = (p50_interval(one) for one in (steady, moody))
    assert wide.high - wide.low > 5 * (narrow.high - narrow.low)


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
