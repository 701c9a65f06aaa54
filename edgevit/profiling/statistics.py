"""Percentiles and intervals of latencies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float64]

MOST_BLOCKS, FEWEST_BLOCKS = 64, 16  # of a run; blocks are joined until neighbors hardly depend on each other
TREND_BLOCKS = 20
NORMAL = 1.96  # 97.5% of the normal distribution
# Independent runs that an interval of a percentile needs: those of MLPerf's early stopping (LoadGen, single stream).
FEWEST_RUNS: Mapping[float, int] = {50: 1, 90: 64, 99: 662}


@dataclass(frozen=True)
class Interval:
    """An interval, of 95% unless its owner says another confidence."""

    low: float
    high: float


class Spread(NamedTuple):
    """The variance of a mean, and the degrees of freedom of this variance."""

    variance: float
    freedom: float


def nearest_rank(samples_ms: Samples, percent: float) -> float:
    """The smallest sample that at least `percent` % of all samples do not exceed (Hyndman and Fan 1996, type 1)."""
    ordered = np.sort(samples_ms)
    return float(ordered[_rank(percent, len(ordered))])


def percentile_interval(samples_ms: Samples, percent: float) -> Interval | None:
    """95% interval of a percentile of FEWEST_RUNS, from order statistics; None if the runs are too few.

    The share of runs up to the percentile has a variance, estimated over blocks of runs. It gives the number of
    independent runs that say as much, and these the exact binomial bounds of the share (Clopper and Pearson 1934). The
    runs of these ranks are the bounds of the percentile (Woodruff 1952).
    """
    from scipy.special import betaincinv  # a finished run does not need it

    share = percent / 100
    independent = min(independent_runs(samples_ms, at) for at in {50.0, percent})
    if independent < FEWEST_RUNS[percent]:
        return None
    below, above = share * independent, (1 - share) * independent
    low, high = betaincinv(below, above + 1, 0.025), betaincinv(below + 1, above, 0.975)
    return Interval(nearest_rank(samples_ms, 100 * float(low)), nearest_rank(samples_ms, 100 * float(high)))


def independent_runs(samples_ms: Samples, percent: float) -> float:
    """The number of independent runs whose share up to a percentile varies as that of these runs, at most all.

    Runs share clocks, caches and neighbors, so the variance of the share is `spread_of_mean`. Student's distribution
    stands for the few blocks (Steiger and Wilson 2002).
    """
    count, share = len(samples_ms), percent / 100
    is_below = (samples_ms <= nearest_rank(samples_ms, percent)).astype(np.float64)
    blocks = min(MOST_BLOCKS, count // 4)
    if blocks < 2:
        return float(count)
    spread = spread_of_mean(is_below, blocks)
    variance = max(spread.variance, share * (1 - share) / count)
    return max(1.0, float(share * (1 - share) / (variance * (students_t(spread.freedom) / NORMAL) ** 2)))


def spread_of_mean(values: Samples, blocks: int) -> Spread:
    """The variance of the mean of values that follow one another and may depend on each other.

    It is the variance over blocks of values. Blocks are joined in pairs until neighbors hardly depend on each other,
    and the dependence that is left widens it as in an AR(1) process.

    Args:
        blocks: the number of blocks to begin with, at least 2.
    """
    while True:
        means = np.array([block.mean() for block in np.array_split(values, blocks)])
        dependence = _dependence(means)
        if dependence <= 1 / math.sqrt(blocks) or blocks // 2 < FEWEST_BLOCKS:
            break
        blocks //= 2
    widened = (1 + dependence) / (1 - dependence)
    return Spread(float(means.var(ddof=1)) / blocks * widened, max(2.0, (blocks - 1) / widened))


def students_t(freedom: float) -> float:
    """The 97.5% quantile of Student's distribution."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.975))


def _dependence(values: Samples) -> float:
    """Correlation of neighbors, from 0 to 0.9, without its bias, which is (1 + 4ρ) / n for n values (Kendall 1954).

    Of many values, of which dependent ones are joined, the bias is taken as 1 / n.
    """
    centered, count = values - values.mean(), len(values)
    square = float(centered @ centered)
    if square == 0:
        return 0.0
    correlation = float(centered[:-1] @ centered[1:]) / square + 1 / count
    if 4 < count < FEWEST_BLOCKS:
        correlation /= 1 - 4 / count
    return min(max(correlation, 0.0), 0.9)


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


def trend_chance(samples_ms: Samples) -> float:
    """The chance of so strong a rise or fall of the latency over TREND_BLOCKS blocks of runs, if there is none.

    Kendall's rank correlation of the blocks' medians with their order (Mann 1945).
    """
    from scipy.stats import kendalltau

    if len(samples_ms) < TREND_BLOCKS:
        return 1.0
    medians = [nearest_rank(block, 50) for block in np.array_split(samples_ms, TREND_BLOCKS)]
    chance = float(kendalltau(range(TREND_BLOCKS), medians).pvalue)
    return 1.0 if math.isnan(chance) else chance  # equal medians


def _rank(percent: float, count: int) -> int:
    # Rounded first: 0.55 * 100 is 55.00000000000001 in floating point, and its ceiling the wrong rank.
    return max(0, math.ceil(round(percent * count / 100, 9)) - 1)
