"""Throughput, streams of frames and LoadGen's p90, on times that a test makes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats

from edgevit.profiling import Measurement, MeasurePlan, measure
from edgevit.profiling.scenarios import (
    FEWEST_FRAMES,
    LOADGEN_DURATION_S,
    MOST_LATE,
    FrameStream,
    LoadgenResult,
    Throughput,
    early_stopping_estimate,
    stream_seconds,
)
from edgevit.profiling.starts import merged
from edgevit.profiling.statistics import share_interval
from tests.profiling.test_measure import FakeClock

STREAM = MeasurePlan(warmup_s=0, duration_s=10.0, min_runs=1, rate_hz=100.0)


def stream_of(*runs_ms: float, plan: MeasurePlan = STREAM) -> FrameStream:
    clock = FakeClock()
    return FrameStream.of(measure(clock.work(*runs_ms), plan, clock))


def test_a_frame_that_waits_for_no_other_has_the_latency_of_its_run() -> None:
    stream = stream_of(4.0)
    assert stream.frames == 1000
    assert stream.frames_per_s == pytest.approx(100, rel=0.01)
    assert stream.p50_ms == pytest.approx(4.0)
    assert stream.p99_ms == pytest.approx(4.0)
    assert stream.late == 0
    assert stream.is_kept is True
    assert FrameStream.of_json(stream.as_json()) == stream


def test_frames_behind_a_slow_one_count_from_their_arrival() -> None:
    """Of 100 runs, one takes 35 ms, at 10 ms a frame: 35, then 29, 23, 17, 11, 5 and 4 ms. Five of them are late."""
    clock = FakeClock()
    measured = measure(clock.work(4.0, 35.0, *[4.0] * 98), STREAM, clock)
    slow = int(np.argmax(measured.samples_ms))
    assert measured.samples_ms[slow : slow + 7] == pytest.approx([35, 29, 23, 17, 11, 5, 4])
    stream = FrameStream.of(measured)
    assert stream.late == pytest.approx(0.05, abs=0.001)
    assert stream.is_kept is False
    assert stream.invalid == (), "a queue is no disturbance"


def test_a_rate_that_cannot_be_kept_ends_in_time_and_frames_that_wait_are_late() -> None:
    stream = stream_of(25.0)
    assert stream.frames == pytest.approx(400, abs=2)
    assert stream.frames_per_s == pytest.approx(40, rel=0.01)
    assert stream.late == pytest.approx(1, abs=0.01)
    assert stream.is_kept is False
    assert stream.p99_ms > 5000


def test_too_few_frames_do_not_tell_whether_a_rate_is_kept() -> None:
    assert stream_of(4.0, plan=replace(STREAM, duration_s=(FEWEST_FRAMES - 1.5) / 100)).is_kept is None
    assert stream_of(4.0, plan=replace(STREAM, duration_s=(FEWEST_FRAMES - 0.5) / 100)).is_kept is True
    assert 1 - 0.025 ** (1 / FEWEST_FRAMES) <= MOST_LATE < 1 - 0.025 ** (1 / (FEWEST_FRAMES - 1))
    assert stream_seconds(30, 3.0) == pytest.approx(FEWEST_FRAMES / 30)
    assert stream_seconds(1000, 3.0) == 3.0
    assert stream_seconds(1, 3.0) == 60.0


@pytest.mark.parametrize("rate_hz", [10.0, 24.0, 25.0, 29.97, 30.0, 60.0, 120.0, 1000.0])
def test_a_prolonged_stream_without_a_late_frame_is_kept(rate_hz: float) -> None:
    plan = replace(STREAM, rate_hz=rate_hz, duration_s=stream_seconds(rate_hz, 0.1))
    stream = stream_of(0.5, plan=plan)
    assert stream.frames == FEWEST_FRAMES
    assert stream.is_kept is True
    assert stream.frames_per_s == pytest.approx(rate_hz)


def test_the_interval_of_a_share_is_that_of_clopper_and_pearson() -> None:
    is_late = np.random.default_rng(0).random(2000) < 0.05
    exact = scipy.stats.binomtest(int(is_late.sum()), 2000).proportion_ci(method="exact")
    interval = share_interval(is_late)
    assert (interval.low, interval.high) == pytest.approx(exact, rel=0.1)
    bursts = np.repeat(np.arange(100) % 20 == 0, 20)
    assert share_interval(bursts).high > 1.5 * share_interval(is_late).high
    assert share_interval(np.zeros(10, dtype=bool)).low == 0


def test_throughput_is_images_over_time_with_an_interval_over_starts() -> None:
    plan, starts = MeasurePlan(batch_size=8), (4.0, 4.1, 3.9)
    measured = merged([Measurement(np.full(50, run_ms), plan) for run_ms in starts], plan)
    throughput = Throughput.of(measured)
    assert throughput.images_per_s == pytest.approx(8 * 150 / (50 * sum(starts)) * 1e3)
    assert throughput.low is not None
    assert throughput.high is not None
    assert throughput.low < 8 / 4.1 * 1e3 < 8 / 3.9 * 1e3 < throughput.high
    assert Throughput.of_json(throughput.as_json()) == throughput
    assert Throughput.of(replace(measured, of_starts=())).low is None


@pytest.mark.parametrize(("percent", "fewest"), [(90, 64), (99, 662)])
def test_early_stopping_needs_the_queries_of_mlperfs_table(percent: float, fewest: int) -> None:
    latencies = np.arange(1.0, fewest + 1)
    assert early_stopping_estimate(latencies[1:], percent) is None
    assert early_stopping_estimate(latencies, percent) == fewest


@pytest.mark.parametrize("queries", [100, 1024, 5000])
def test_early_stopping_leaves_out_as_many_as_the_binomial_distribution_allows(queries: int) -> None:
    """LoadGen's loop: the largest t whose n − t queries below suffice, by the binomial distribution itself."""
    above = 1
    while scipy.stats.binom.cdf(above + 1, queries, 0.1) <= 0.01:
        above += 1
    latencies = np.random.default_rng(0).permutation(np.arange(1.0, queries + 1))
    assert early_stopping_estimate(latencies, 90) == queries + 1 - above


def test_early_stopping_is_rarely_below_the_true_percentile() -> None:
    generator = np.random.default_rng(2)
    estimates = [early_stopping_estimate(generator.exponential(size=500), 90) for _ in range(500)]
    assert np.mean([estimate is not None and estimate < -math.log(0.1) for estimate in estimates]) <= 0.03


def test_the_time_between_queries_counts_for_the_duration_of_mlperf() -> None:
    """1 ms of each query of 100 ms is outside its latency."""
    clock = FakeClock()
    run, time_ms = clock.work(99.0), clock.time_ms

    def time_and_store(work: Callable[[], object]) -> float:
        latency_ms = time_ms(work)
        clock.now += 1e-3
        return latency_ms

    clock.time_ms = time_and_store  # type: ignore[method-assign]
    result = LoadgenResult.of(measure(run, MeasurePlan(warmup_s=0, duration_s=LOADGEN_DURATION_S), clock))
    assert result.seconds == pytest.approx(LOADGEN_DURATION_S, abs=0.11)
    assert result.shortfalls == ()


def test_a_result_like_mlperfs_says_what_is_missing() -> None:
    whole = LoadgenResult.of(Measurement(np.full(70_000, 10.0), MeasurePlan()))
    assert (whole.p90_ms, whole.queries, whole.shortfalls) == (10.0, 70_000, ())
    plan = MeasurePlan(batch_size=2)
    short = LoadgenResult.of(merged([Measurement(np.full(20, 10.0), plan)] * 2, plan))
    assert short.p90_ms is None
    assert len(short.shortfalls) == 4
    assert LoadgenResult.of_json(short.as_json()) == short
