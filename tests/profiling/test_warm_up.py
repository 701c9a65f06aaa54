"""The warm-up: it ends when the latest runs are steady, by a clock of its own."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import scipy.stats

from edgevit.profiling import MeasurePlan, measure
from edgevit.profiling.loop import STEADY_WITHIN, STRETCH_S, is_steady, warm_up
from tests.profiling.test_measure import FakeClock

UNTIL_STEADY = MeasurePlan(warmup_s=0.5, most_warmup_s=10.0, duration_s=1.0, min_runs=1)


def work_of(clock: FakeClock, times_ms: Iterator[float]) -> Callable[[], None]:
    def run() -> None:
        clock.now += next(times_ms) / 1e3

    return run


def noisy(seed: int, time_ms: Callable[[float], float], clock: FakeClock) -> Iterator[float]:
    """Runs with 2% of scatter around a time that depends on the clock."""
    generator = np.random.default_rng(seed)
    while True:
        yield time_ms(clock.now) * (1 + 0.02 * float(generator.normal()))


def test_steady_runs_need_no_more_than_the_least_warm_up():
    ends = []
    for seed in range(20):
        clock = FakeClock()
        warmed = warm_up(work_of(clock, noisy(seed, lambda _: 5.0, clock)), UNTIL_STEADY, clock)
        assert warmed.is_steady
        ends.append(warmed.seconds)
    assert np.median(ends) == pytest.approx(0.5, abs=0.02)
    assert max(ends) < 2


@pytest.mark.parametrize("settles_s", [0.3, 1.0])
def test_a_model_that_becomes_faster_is_run_until_it_has_settled(settles_s: float):
    for seed in range(10):
        clock = FakeClock()
        times = noisy(seed, lambda now_s: 5.0 * (1 + 2 * math.exp(-now_s / settles_s)), clock)
        warmed = warm_up(work_of(clock, times), UNTIL_STEADY, clock)
        assert warmed.is_steady
        assert 2 * math.exp(-warmed.seconds / settles_s) < 0.1  # the 200% that were there at the start


def test_a_model_that_never_settles_is_measured_and_doubted():
    clock = FakeClock()
    work = work_of(clock, (5.0 * 1.01**number for number in itertools.count()))
    measured = measure(work, UNTIL_STEADY, clock)
    assert measured.conditions["warm_up"]["is_steady"] is False
    assert measured.conditions["warm_up"]["seconds"] == pytest.approx(10, abs=0.5)
    assert any("were not steady: give most_warmup_s more time" in warning for warning in measured.warnings)


def test_a_slow_model_ends_at_the_bound():
    clock = FakeClock()
    warmed = warm_up(work_of(clock, itertools.repeat(3000.0)), UNTIL_STEADY, clock)
    assert (warmed.runs, warmed.is_steady) == (4, False)


def test_without_a_bound_the_warm_up_has_its_least_length_and_tests_nothing():
    clock = FakeClock()
    warmed = warm_up(work_of(clock, itertools.repeat(10.0)), MeasurePlan(warmup_s=0.5), clock)
    assert (warmed.runs, warmed.is_steady) == (50, None)


def test_the_halves_are_told_apart_as_by_the_rank_sum_test():
    generator = np.random.default_rng(0)
    for size, change in itertools.product((8, 40, 100), (0.0, 0.015, 0.03, 0.1)):
        for _ in range(20):
            times_ms = 5 * (1 + 0.02 * generator.normal(size=size)) * np.repeat([1, 1 + change], size // 2)
            first, last = times_ms[: size // 2], times_ms[size // 2 :]
            answer = scipy.stats.mannwhitneyu(first, last, method="asymptotic", use_continuity=False).pvalue
            are_equal = abs(np.median(last) / np.median(first) - 1) <= STEADY_WITHIN
            assert is_steady(times_ms.tolist()) == (are_equal or answer >= scipy.stats.norm.sf(1.96) * 2)


def test_only_the_latest_runs_are_looked_at():
    clock = FakeClock()
    times = itertools.chain([900.0], itertools.repeat(5.0))  # the first run is over before the least warm-up is
    warmed = warm_up(work_of(clock, times), UNTIL_STEADY, clock)
    assert warmed.is_steady
    assert warmed.seconds <= 0.9 + 2 * STRETCH_S
