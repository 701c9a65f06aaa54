"""Percentiles and intervals of latencies."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float64]

RESAMPLES = 1000
BLOCKS = 20


@dataclass(frozen=True)
class Interval:
    """A 95% interval."""

    low: float
    high: float


def nearest_rank(samples_ms: Samples, percent: float) -> float:
    """The smallest sample that at least `percent` % of all samples do not exceed (Hyndman and Fan 1996, type 1)."""
    ordered = np.sort(samples_ms)
    return float(ordered[_rank(percent, len(ordered))])


def time_blocks(samples_ms: Samples, blocks: int = BLOCKS) -> NDArray[np.int64]:
    """The block of each sample when the run is cut into `blocks` stretches of equal time.

    Samples that follow each other share clocks, caches and neighbours, so blocks are resampled, not samples.
    """
    middle_ms = np.cumsum(samples_ms) - samples_ms / 2
    total_ms = float(samples_ms.sum())
    if total_ms == 0:
        return np.arange(len(samples_ms)) * blocks // len(samples_ms)
    return np.minimum((middle_ms / total_ms * blocks).astype(np.int64), blocks - 1)


def p50_interval(samples_ms: Samples, resamples: int = RESAMPLES) -> Interval:
    """95% interval of the median by a block bootstrap over stretches of time (Künsch 1989)."""
    medians = _bootstrap_medians(samples_ms, _dense(time_blocks(samples_ms)), _generator(), resamples)
    return _percentile_interval(medians)


def ratio_interval(a_ms: Samples, b_ms: Samples, rounds: NDArray[np.int64], resamples: int = RESAMPLES) -> Interval:
    """95% interval of median(a) / median(b), by resampling the rounds in which both were measured, the same for both.

    Args:
        a_ms, b_ms: samples, as many of each.
        rounds: the round of each sample, the same for both, counted from 0 without gaps.
    """
    a = _bootstrap_medians(a_ms, rounds, _generator(), resamples)
    b = _bootstrap_medians(b_ms, rounds, _generator(), resamples)
    return _percentile_interval(a / b)


def coefficient_of_variation(samples_ms: Samples) -> float:
    """Standard deviation over mean."""
    mean = float(samples_ms.mean())
    return float(samples_ms.std()) / mean if mean > 0 else 0.0


def drift(samples_ms: Samples) -> float:
    """Median of the last third of a run over that of the first, minus 1: above 0, the machine became slower."""
    third = max(1, len(samples_ms) // 3)
    return nearest_rank(samples_ms[-third:], 50) / max(nearest_rank(samples_ms[:third], 50), 1e-12) - 1


def _rank(percent: float, count: int) -> int:
    # Rounded first: 0.55 * 100 is 55.00000000000001 in floating point, and its ceiling the wrong rank.
    return max(0, math.ceil(round(percent * count / 100, 9)) - 1)


def _generator() -> np.random.Generator:
    return np.random.default_rng(0)


def _dense(blocks: NDArray[np.int64]) -> NDArray[np.int64]:
    """Block numbers without gaps: a stretch of time may hold no sample."""
    return np.unique(blocks, return_inverse=True)[1].astype(np.int64)


def _bootstrap_medians(
    samples_ms: Samples, blocks: NDArray[np.int64], generator: np.random.Generator, resamples: int
) -> Samples:
    """Nearest-rank medians of `resamples` draws of whole blocks with replacement.

    A draw only says how often each block counts, so the samples are sorted once and each draw is a weighted median.
    """
    count = int(blocks.max()) + 1
    draws = generator.multinomial(count, np.full(count, 1 / count), size=resamples)
    order = np.argsort(samples_ms, kind="stable")
    ordered, block_of = samples_ms[order], blocks[order]
    medians = np.empty(resamples)
    for index, weights in enumerate(draws):
        cumulative = np.cumsum(weights[block_of])
        medians[index] = ordered[np.searchsorted(cumulative, math.ceil(cumulative[-1] / 2))]
    return medians


def _percentile_interval(values: Samples) -> Interval:
    return Interval(nearest_rank(values, 2.5), nearest_rank(values, 97.5))
