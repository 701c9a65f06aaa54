"""Percentiles and intervals of latencies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float64]

RESAMPLES = 1000
BLOCKS = 20


@dataclass(frozen=True)
class Interval:
    """An interval, of 95% unless its owner says another confidence."""

    low: float
    high: float


def nearest_rank(samples_ms: Samples, percent: float) -> float:
    """The smallest sample that at least `percent` % of all samples do not exceed (Hyndman and Fan 1996, type 1)."""
    ordered = np.sort(samples_ms)
    return float(ordered[_rank(percent, len(ordered))])


def time_blocks(samples_ms: Samples, blocks: int = BLOCKS) -> NDArray[np.int64]:
    """The block number of each sample, for a run cut into `blocks` blocks of equal time.

    Consecutive samples share clocks, caches and neighbors, so the bootstrap resamples blocks instead of samples.
    """
    middle_ms = np.cumsum(samples_ms) - samples_ms / 2
    total_ms = float(samples_ms.sum())
    if total_ms == 0:
        return np.arange(len(samples_ms)) * blocks // len(samples_ms)
    return np.minimum((middle_ms / total_ms * blocks).astype(np.int64), blocks - 1)


def p50_interval(samples_ms: Samples, resamples: int = RESAMPLES) -> Interval:
    """95% interval of the median by a block bootstrap over blocks of time (Künsch 1989)."""
    medians = _bootstrap_medians(samples_ms, _dense(time_blocks(samples_ms)), _generator(), resamples)
    return _percentile_interval(medians)


def ratio_over_starts(ratios: Sequence[float], confidence: float = 0.95) -> tuple[float, Interval]:
    """The typical ratio of two latencies and its interval, from one ratio per start.

    Hodges and Lehmann's estimate and Wilcoxon's exact interval (Hodges and Lehmann 1963), on logarithms. They assume
    only that the logarithms are symmetric about the typical ratio, and one disturbed start changes them little.

    Raises:
        ValueError: there are too few ratios for the confidence.
    """
    logarithms = np.log(np.asarray(ratios))
    rows, columns = np.triu_indices(len(logarithms))
    walsh_averages = np.sort((logarithms[rows] + logarithms[columns]) / 2)
    passed_over = _outside_wilcoxon_interval(len(logarithms), confidence)
    if passed_over < 0:
        raise ValueError(f"{len(logarithms)} ratios have no interval of {confidence:.4%} confidence")
    bounds = walsh_averages[passed_over], walsh_averages[len(walsh_averages) - 1 - passed_over]
    return math.exp(np.median(walsh_averages)), Interval(*(math.exp(bound) for bound in bounds))


def _outside_wilcoxon_interval(count: int, confidence: float) -> int:
    """Number of Walsh averages of `count` values below Wilcoxon's interval; equally many lie above it.

    An interval of 95% needs at least six values; of 1 − c, as many that 2^-count is at most c / 2.
    """
    ways = np.zeros(count * (count + 1) // 2 + 1)  # number of sets of positive ranks with each sum
    ways[0] = 1
    for rank in range(1, count + 1):
        ways[rank:] += ways[:-rank].copy()
    outside = round((1 - confidence) / 2, 12)  # 0.025 for 95%, without the error of the difference
    return int(np.searchsorted(np.cumsum(ways) / 2**count, outside, side="right")) - 1


def coefficient_of_variation(samples_ms: Samples) -> float:
    """Standard deviation over mean."""
    mean = float(samples_ms.mean())
    return float(samples_ms.std()) / mean if mean > 0 else 0.0


def drift(samples_ms: Samples) -> float:
    """Median of a run's last third over the median of its first third, minus 1. Above 0, the machine became slower."""
    third = max(1, len(samples_ms) // 3)
    return nearest_rank(samples_ms[-third:], 50) / max(nearest_rank(samples_ms[:third], 50), 1e-12) - 1


def _rank(percent: float, count: int) -> int:
    # Rounded first: 0.55 * 100 is 55.00000000000001 in floating point, and its ceiling the wrong rank.
    return max(0, math.ceil(round(percent * count / 100, 9)) - 1)


def _generator() -> np.random.Generator:
    return np.random.default_rng(0)


def _dense(blocks: NDArray[np.int64]) -> NDArray[np.int64]:
    """Block numbers without gaps: a block may hold no sample."""
    return np.unique(blocks, return_inverse=True)[1].astype(np.int64)


def _bootstrap_medians(
    samples_ms: Samples, blocks: NDArray[np.int64], generator: np.random.Generator, resamples: int
) -> Samples:
    """Nearest-rank medians of `resamples` draws of whole blocks with replacement.

    The samples are sorted once; each draw gives the blocks' weights, and its median is a weighted median.
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
