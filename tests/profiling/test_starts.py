"""A measurement over several starts, with starts that a test makes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats

from edgevit.errors import TargetError
from edgevit.profiling import Measurement, MeasurePlan
from edgevit.profiling.measure import disturbed_runs, drifted, valid_measurement
from edgevit.profiling.starts import joined, measure_over_starts, plan_of_start
from edgevit.profiling.statistics import nearest_rank, percentile_interval, percentile_interval_over_starts
from edgevit.profiling.telemetry import Load, Series, Telemetry, Window

PLAN = MeasurePlan(warmup_s=1.0, most_warmup_s=10.0, duration_s=5.0, min_runs=101, soak_s=60.0)


def test_time_and_runs_are_divided_and_the_first_start_heats_the_machine() -> None:
    first, second = (plan_of_start(PLAN, 5, index) for index in (0, 1))
    assert (first.duration_s, first.min_runs) == (second.duration_s, second.min_runs) == (1.0, 21)
    assert (first.warmup_s, first.most_warmup_s, first.soak_s) == (1.0, 10.0, 60.0)
    assert (second.warmup_s, second.most_warmup_s, second.soak_s) == (1.0, 2.0, 0.0)
    assert plan_of_start(replace(PLAN, most_warmup_s=3.0), 5, 1).most_warmup_s == 1.0
    assert plan_of_start(replace(PLAN, most_warmup_s=0.0), 5, 1).most_warmup_s == 0.0
    assert plan_of_start(PLAN, 1, 0) == PLAN


def of_starts(*starts_ms: float) -> Callable[[MeasurePlan], Measurement]:
    """Takes whose runs last as long as a test says, with 1% of scatter."""
    generator, times = np.random.default_rng(3), iter(starts_ms)
    return lambda plan: Measurement(next(times) * np.exp(0.01 * generator.normal(size=200)), plan, {"cpus_used": 1.0})


def test_the_interval_holds_what_varies_from_start_to_start() -> None:
    measured = measure_over_starts(of_starts(5.0, 5.2, 4.9, 5.1, 5.0), PLAN, 5)
    assert [len(samples_ms) for samples_ms in measured.by_start] == [200] * 5
    assert measured.plan == PLAN
    within = percentile_interval(measured.by_start[0], 50)
    assert within is not None
    interval = measured.p50_interval
    assert interval.high - interval.low > 3 * (within.high - within.low)
    logarithms = np.log([nearest_rank(one, 50) for one in measured.by_start])
    student = scipy.stats.t.interval(0.95, 4, loc=logarithms.mean(), scale=scipy.stats.sem(logarithms))
    assert np.log(interval.high / interval.low) == pytest.approx(student[1] - student[0], rel=0.02)


def test_intervals_over_starts_cover_the_truth_as_often_as_they_say() -> None:
    generator, covered = np.random.default_rng(5), []
    for _ in range(400):
        starts = [np.exp(0.02 * generator.normal() + 0.02 * generator.normal(size=60)) for _ in range(5)]
        interval = percentile_interval_over_starts(starts, 50)
        assert interval is not None
        covered.append(interval.low <= 1 <= interval.high)
    assert 0.92 <= np.mean(covered) <= 0.98


def test_a_single_start_has_the_interval_within_it() -> None:
    runs = np.random.default_rng(0).gamma(9, 1, 500)
    assert percentile_interval_over_starts([runs], 90) == percentile_interval(runs, 90)


def test_an_interval_of_p99_needs_as_many_runs_over_all_starts_as_in_one() -> None:
    generator = np.random.default_rng(0)
    assert percentile_interval_over_starts([generator.gamma(9, 1, 100) for _ in range(5)], 99) is None
    assert percentile_interval_over_starts([generator.gamma(9, 1, 900) for _ in range(5)], 99) is not None


def test_a_difference_between_starts_is_no_drift_and_a_drift_over_all_starts_is_one() -> None:
    generator = np.random.default_rng(1)
    noise = [np.exp(0.01 * generator.normal(size=300)) for _ in range(5)]
    rising = np.array_split(np.linspace(5.0, 5.6, 1500), 5)
    assert drifted([5.0 * one * level for one, level in zip(noise, (1.0, 1.01, 1.03, 1.05, 1.055), strict=True)]) == ()
    assert drifted([one * level for one, level in zip(noise, rising, strict=True)]) != ()
    assert drifted([5.0 * one * level for one, level in zip(noise, (1, 1, 1.1, 1.1, 1.1), strict=True)]) != ()


def test_sentences_of_starts_that_differ_in_numbers_alone_are_one() -> None:
    doubts = iter([("unsteady after 1 s", "not sampled"), ("not sampled",), ("unsteady after 2.5 s", "not sampled")])
    measured = measure_over_starts(lambda plan: Measurement(np.full(9, 5.0), plan, doubts=next(doubts)), PLAN, 3)
    assert measured.doubts == ("unsteady after 1 s (the first of 2 starts that say so)", "not sampled")


def test_replayed_times_are_taken_once() -> None:
    calls = itertools.count()

    def take(plan: MeasurePlan) -> Measurement:
        next(calls)
        return Measurement(np.full(9, 5.0), plan, label="replayed")

    measured = measure_over_starts(take, PLAN, 5)
    assert next(calls) == 1
    assert measured.of_starts == ()


def test_a_take_that_fails_keeps_the_take_before_it() -> None:
    takes, said = iter([Measurement(np.full(9, 5.0), PLAN, disturbed=("hot",))]), list[str]()

    def take() -> Measurement:
        for measured in takes:
            return measured
        raise TargetError("the machine is gone")

    assert valid_measurement(take, 100, said.append).invalid == ("hot",)
    assert "the machine is gone" in said[-1]


def telemetry(start_s: float, end_s: float, mhz: float) -> Telemetry:
    """A program of 10 s that loads a model, and then times it at a constant clock."""
    times = tuple(float(second) for second in range(11))
    clock = tuple(mhz if start_s <= time <= end_s else 100.0 for time in times)
    load = Load(end_s - start_s, 2 * (end_s - start_s), end_s - start_s, 0.5, 0.0)
    return Telemetry(
        (Series("clock_mhz", "cpu", times, clock),), Window(start_s, end_s), 10.0, None, {"hot": 1}, 0.1, load
    )


def test_the_state_of_the_machine_is_that_of_the_counted_runs_alone() -> None:
    whole = joined([telemetry(4, 8, 2000), telemetry(6, 9, 2010), telemetry(2, 5, 1990)])
    assert whole.window == Window(4, 4 + 4 + 3 + 3)
    assert whole.seconds == 14 + 5
    clock = whole.of("clock_mhz")
    assert clock is not None
    assert clock.time_s == tuple(sorted(clock.time_s))
    assert set(clock.between(whole.window).values) == {2000, 2010, 1990}
    assert clock.values[0] == clock.values[-1] == 100
    assert whole.load == Load(10, 20, 10, 1.5, 0.0)
    assert whole.throttled == {"hot": 3}
    assert whole.sampler_cpu_s == pytest.approx(0.1)
    one = telemetry(4, 8, 2000)
    assert joined([one]) is one


def test_a_machine_that_stood_still_in_a_start_of_few_runs_is_seen_over_all_starts() -> None:
    runs = [np.full(10, 100.0)] * 4 + [np.array([100.0] * 9 + [10_000.0])]
    starts = iter([Measurement(samples_ms, PLAN) for samples_ms in runs])
    measured = measure_over_starts(lambda _: next(starts), PLAN, 5)
    assert any("stood still" in reason for reason in measured.invalid)


@pytest.mark.parametrize(
    ("samples_ms", "words"),
    [
        (np.array([5.0] * 30 + [0.0]), "took no time"),
        (np.array([5.0] * 30 + [-3.0]), "took no time"),
        (np.array([5.0] * 30 + [4000.0]), "stood still"),
    ],
)
def test_a_clock_that_jumps_makes_a_start_invalid(samples_ms: np.ndarray, words: str) -> None:
    (reason,) = disturbed_runs(samples_ms, PLAN)
    assert words in reason


def test_steps_of_a_coarse_clock_are_said() -> None:
    generator = np.random.default_rng(0)
    fine = 0.05 + 0.002 * generator.random(500)
    coarse = np.round(fine / 0.001) * 0.001
    assert not any("steps" in warning for warning in Measurement(fine, PLAN).warnings)
    (warning,) = (warning for warning in Measurement(coarse, PLAN).warnings if "steps" in warning)
    assert "steps of 1 µs" in warning
