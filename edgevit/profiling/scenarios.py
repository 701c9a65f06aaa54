"""Scenarios beside single stream: the throughput of batches (offline), and frames at a fixed rate; LoadGen's p90.

The names are those of MLPerf inference (Reddi et al. 2020). A fixed rate is the multi stream of its first releases.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from edgevit.profiling.measure import Measurement
from edgevit.profiling.statistics import Samples, about, share_interval

Scenario = Literal["single_stream", "offline", "fixed_rate"]

MOST_LATE = 0.01  # of the frames, for a rate that is kept: MLPerf's multi stream asks for 99% in time
FEWEST_FRAMES = 368  # with none late, the 95% interval of the share of late frames ends below MOST_LATE
LONGEST_STREAM_S = 60.0  # that a stream is prolonged to for FEWEST_FRAMES. Chosen

# LoadGen's single stream, in inference 2.0 and later: settings, and the rule of early stopping
LOADGEN_PERCENT, LOADGEN_CONFIDENCE = 90, 0.99
LOADGEN_DURATION_S, LOADGEN_QUERIES = 600.0, 64


@dataclass(frozen=True)
class Throughput:
    """Images a second in batches of one size, where a batch begins when the batch before it has ended.

    Attributes:
        low, high: 95% interval of `images_per_s` over starts; None for a single start.
        p50_ms: median latency of a batch.
        batches: number of timed batches.
        warnings, invalid: see `Measurement`.
    """

    batch_size: int
    images_per_s: float
    low: float | None
    high: float | None
    p50_ms: float
    batches: int
    label: str
    warnings: tuple[str, ...] = ()
    invalid: tuple[str, ...] = ()

    @classmethod
    def of(cls, measured: Measurement) -> Throughput:
        size = measured.plan.batch_size
        rate, of_starts = (
            _images_per_s(measured.samples_ms, size),
            [_images_per_s(one, size) for one in measured.by_start],
        )
        bounds = about(rate, of_starts) if len(of_starts) > 1 else None
        return cls(
            size,
            rate,
            bounds.low if bounds else None,
            bounds.high if bounds else None,
            measured.percentile_ms(50),
            len(measured.samples_ms),
            measured.label,
            measured.warnings,
            measured.invalid,
        )

    @classmethod
    def of_json(cls, content: Mapping[str, Any]) -> Throughput:
        return cls(**{**content, "warnings": tuple(content["warnings"]), "invalid": tuple(content["invalid"])})

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class FrameStream:
    """Frames that arrive at a fixed rate. The latency of a frame counts from its arrival, with the time that it waits.

    A frame is late if it has not ended when the next one arrives.

    Attributes:
        rate_hz: frames that arrive in a second, of `batch_size` images each.
        frames: that have ended.
        frames_per_s: that ended in a second, from the first arrival to the end of the last frame or of its period.
        late: share of the frames that ended or were due, with its 95% interval from `late_low` to `late_high`.
        p50_ms, p90_ms, p99_ms: from the arrival of a frame to its end.
        warnings, invalid: see `Measurement`.
    """

    rate_hz: float
    batch_size: int
    frames: int
    frames_per_s: float
    late: float
    late_low: float
    late_high: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    label: str
    warnings: tuple[str, ...] = ()
    invalid: tuple[str, ...] = ()

    @property
    def period_ms(self) -> float:
        """Time between two arrivals."""
        return 1e3 / self.rate_hz

    @property
    def is_kept(self) -> bool | None:
        """Whether at most `MOST_LATE` of the frames are late.

        None if the interval of their share holds `MOST_LATE`, or the stream is invalid.
        """
        if self.invalid:
            return None
        if self.late_high <= MOST_LATE:
            return True
        return False if self.late_low > MOST_LATE else None

    @classmethod
    def of(cls, measured: Measurement) -> FrameStream:
        rate_hz, samples_ms = measured.plan.rate_hz, measured.samples_ms
        last_end_s = (len(samples_ms) - 1) / rate_hz + float(samples_ms[-1]) / 1e3
        seconds = max(len(samples_ms) / rate_hz, last_end_s)
        is_late = _late_frames(samples_ms, rate_hz, last_end_s)
        interval = share_interval(is_late)
        return cls(
            rate_hz,
            measured.plan.batch_size,
            len(samples_ms),
            len(samples_ms) / seconds,
            float(is_late.mean()),
            interval.low,
            interval.high,
            measured.percentile_ms(50),
            measured.percentile_ms(90),
            measured.percentile_ms(99),
            measured.label,
            measured.warnings,
            measured.invalid,
        )

    @classmethod
    def of_json(cls, content: Mapping[str, Any]) -> FrameStream:
        fields = {name: value for name, value in content.items() if name != "is_kept"}
        return cls(**{**fields, "warnings": tuple(content["warnings"]), "invalid": tuple(content["invalid"])})

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "is_kept": self.is_kept}


@dataclass(frozen=True)
class LoadgenResult:
    """The single stream of MLPerf's LoadGen: p90 by early stopping. It is no official result.

    Attributes:
        p90_ms: the estimate of early stopping, below the true p90 in at most 1 of 100 series of independent queries.
            None if the queries are too few.
        queries: number of queries of one image.
        seconds: from the first query to the end of the last one.
        shortfalls: rules of LoadGen that are not met, a sentence each.
    """

    p90_ms: float | None
    queries: int
    seconds: float
    shortfalls: tuple[str, ...]

    @classmethod
    def of(cls, measured: Measurement) -> LoadgenResult:
        queries, seconds = len(measured.samples_ms), measured.span_s
        p90_ms = early_stopping_estimate(measured.samples_ms, LOADGEN_PERCENT)
        missed = {
            f"the queries lasted {seconds:.4g} s, of {LOADGEN_DURATION_S:.0f} s": seconds < LOADGEN_DURATION_S,
            f"there were {queries} queries, of {LOADGEN_QUERIES}": queries < LOADGEN_QUERIES,
            f"a query had {measured.plan.batch_size} images, of 1": measured.plan.batch_size != 1,
            "the model was started several times": len(measured.by_start) > 1,
        }
        return cls(p90_ms, queries, seconds, tuple(sentence for sentence, is_missed in missed.items() if is_missed))

    @classmethod
    def of_json(cls, content: Mapping[str, Any]) -> LoadgenResult:
        return cls(**{**content, "shortfalls": tuple(content["shortfalls"])})

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def early_stopping_estimate(samples_ms: Samples, percent: float) -> float | None:
    """LoadGen's estimate of a percentile: the t-th largest latency, for the largest t that early stopping allows.

    Of n queries, t may be above the percentile if a system whose true percentile is larger would show so few with a
    chance of at most 1 − LOADGEN_CONFIDENCE: I(percent / 100; n − t, t + 1) ≤ 0.01, with the regularized incomplete
    beta function I (MLPerf inference, EARLY_STOPPING.md). None if not even t = 1 is allowed.
    """
    from scipy.special import betainc

    count = len(samples_ms)
    above = np.arange(1, math.floor((1 - percent / 100) * count) + 1)
    allowed = above[betainc(count - above, above + 1, percent / 100) <= 1 - LOADGEN_CONFIDENCE]
    return float(np.sort(samples_ms)[count - allowed[-1]]) if len(allowed) else None


def stream_seconds(rate_hz: float, duration_s: float) -> float:
    """The length of a stream: `duration_s`, or longer for FEWEST_FRAMES, up to LONGEST_STREAM_S."""
    return max(duration_s, min(FEWEST_FRAMES / rate_hz, LONGEST_STREAM_S))


def _images_per_s(samples_ms: Samples, batch_size: int) -> float:
    return batch_size * len(samples_ms) / (float(samples_ms.sum()) / 1e3)


def _late_frames(samples_ms: Samples, rate_hz: float, end_s: float) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Of each frame that ended, or was due when the stream ended: whether it was late."""
    never_begun = max(math.floor(end_s * rate_hz) - len(samples_ms), 0)
    return np.concatenate((samples_ms > 1e3 / rate_hz, np.ones(never_begun, dtype=bool)))
