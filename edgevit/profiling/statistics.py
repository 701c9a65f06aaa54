"""Percentiles and intervals of latencies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float64]

MOST_BLOCKS, FEWEST_BLOCKS = 64, 16  # of a run; blocks are joined until neighbors hardly depend on each other
TREND_BLOCKS = 20  # of a measurement
FEWEST_TREND_BLOCKS = 4  # of each start
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
    independent = _fewest_independent(samples_ms, percent)
    if independent < FEWEST_RUNS[percent]:
        return None
    below, above = share * independent, (1 - share) * independent
    low, high = betaincinv(below, above + 1, 0.025), betaincinv(below + 1, above, 0.975)
    return Interval(nearest_rank(samples_ms, 100 * float(low)), nearest_rank(samples_ms, 100 * float(high)))


def percentile_interval_over_starts(starts: Sequence[Samples], percent: float) -> Interval | None:
    """95% interval of a percentile of all runs, from the runs of each start; None if the runs are too few.

    Sectioning: the interval lies about the percentile of all runs, and its width is that of Student's interval for the
    scatter of the starts' percentiles about it (Asmussen and Glynn 2007, III.5b; Nakayama 2014), on logarithms. Starts
    are independent, so it holds what varies between starts and what varies within them. With one start, the interval is
    that of `percentile_interval`, which holds what varies within it.
    """
    if len(starts) < 2:
        return percentile_interval(starts[0], percent)
    if sum(_fewest_independent(samples_ms, percent) for samples_ms in starts) < FEWEST_RUNS[percent]:
        return None
    return about(
        nearest_rank(np.concatenate(starts), percent), [nearest_rank(samples_ms, percent) for samples_ms in starts]
    )


def about(value: float, of_starts: Sequence[float]) -> Interval:
    """Student's 95% interval about a value, from the scatter of its parts about it, on logarithms (see above).

    Args:
        of_starts: the values of two or more starts, which are independent.
    """
    if min(value, *of_starts) <= 0:
        return Interval(min(value, *of_starts), max(value, *of_starts))
    starts = len(of_starts)
    spread = math.sqrt(float(np.square(np.log(of_starts) - math.log(value)).sum()) / (starts - 1))
    half = math.exp(students_t(starts - 1) * spread / math.sqrt(starts))
    return Interval(value / half, value * half)


def _fewest_independent(samples_ms: Samples, percent: float) -> float:
    """The number of independent runs at the median and at a percentile, the smaller one."""
    return min(independent_runs(samples_ms, at) for at in {50.0, percent})


def independent_runs(samples_ms: Samples, percent: float) -> float:
    """The number of independent runs whose share up to a percentile varies as that of these runs, at most all."""
    return _independent(samples_ms <= nearest_rank(samples_ms, percent), percent / 100)


def _independent(is_counted: NDArray[np.bool_], share: float) -> float:
    """The number of independent runs whose share varies as that of these runs, at most all.

    Runs share clocks, caches and neighbors, so the variance of the share is `spread_of_mean`. Student's distribution
    stands for the few blocks (Steiger and Wilson 2002).
    """
    count = len(is_counted)
    blocks = min(MOST_BLOCKS, count // 4)
    if blocks < 2 or not 0 < share < 1:
        return float(count)
    spread = spread_of_mean(is_counted.astype(np.float64), blocks)
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


def share_interval(is_counted: NDArray[np.bool_]) -> Interval:
    """95% interval of the share of runs that are counted: Clopper and Pearson (1934), for runs that may depend."""
    from scipy.special import betaincinv

    share = float(is_counted.mean())
    independent = _independent(is_counted, share)
    inside, outside = share * independent, (1 - share) * independent
    low = float(betaincinv(inside, outside + 1, 0.025)) if inside else 0.0
    return Interval(low, float(betaincinv(inside + 1, outside, 0.975)) if outside else 1.0)


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


def trend_chance(starts: Sequence[Samples]) -> float:
    """The chance of so strong a rise of the latency within the starts if there is none; for a fall, 1 minus it.

    Kendall's rank correlation of the medians of blocks with their order (Mann 1945), summed over the starts (Hirsch,
    Slack and Smith 1982), so that a difference between starts is no trend. It is 0.5 if there are too few runs.
    """
    each = max(FEWEST_TREND_BLOCKS, TREND_BLOCKS // len(starts))
    long = [samples_ms for samples_ms in starts if len(samples_ms) >= each]
    risen = sum(_risen([nearest_rank(block, 50) for block in np.array_split(one, each)]) for one in long)
    variance = len(long) * each * (each - 1) * (2 * each + 5) / 18
    if risen == 0:
        return 0.5
    return 0.5 * math.erfc((risen - math.copysign(1, risen)) / math.sqrt(2 * variance))


def _risen(medians: Sequence[float]) -> int:
    """Pairs whose later value is larger, minus those whose later value is smaller."""
    return sum((later > earlier) - (later < earlier) for earlier, later in combinations(medians, 2))


def _rank(percent: float, count: int) -> int:
    # Rounded first: 0.55 * 100 is 55.00000000000001 in floating point, and its ceiling the wrong rank.
    return max(0, math.ceil(round(percent * count / 100, 9)) - 1)
