"""The most capable student within a budget, found with few timings."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgevit.selection.candidates import Candidate
from edgevit.selection.records import Timing

ROOM = 0.9  # of the budget: the upper bound of the p50 of an untrained student stays below it
MOST_TIMINGS = 6
NEAR = 1.25  # a candidate that is predicted within this factor of the limit is timed


@dataclass(frozen=True)
class Choice:
    """What was timed for a budget, and what was chosen.

    Attributes:
        best: the candidate with the most MACs that is within the limits; None if none is.
        timings: of the candidates that were timed, in the order of the timings.
    """

    latency_ms: float
    size_mib: float | None
    best: Candidate | None
    timings: dict[Candidate, Timing]

    @property
    def least_budget_ms(self) -> float | None:
        """The smallest latency budget that a timed candidate meets with room; None if none was timed."""
        within = [timing for timing in self.timings.values() if _has_size(timing, self.size_mib)]
        return min((timing.p50_high_ms / ROOM for timing in within), default=None)

    def next_larger(self) -> Candidate | None:
        """The timed candidate with the fewest MACs above the best; None if there is none."""
        least = self.best.macs if self.best else 0
        larger = [candidate for candidate in self.timings if candidate.macs > least]
        return min(larger, key=lambda candidate: candidate.macs, default=None)


def most_capable(
    candidates: Sequence[Candidate],
    latency_ms: float,
    time: Callable[[Candidate], Timing],
    size_mib: float | None = None,
    most: int = MOST_TIMINGS,
) -> Choice:
    """The candidate with the most MACs within the limits, with room for the scatter between two measurements.

    The first guess is by expected latency. Each timing corrects the expectation of the candidates near it. The largest
    candidate that may still be within the budget is timed next, so that a larger one is left out only if it was timed,
    or if its neighbors say that it is too slow.

    Args:
        candidates: by rising MACs.
        time: times one candidate untrained, in the form that will be deployed.
        most: number of timings.
    """
    timings: dict[Candidate, Timing] = {}
    while len(timings) < most:
        candidate = _next(candidates, timings, latency_ms, size_mib)
        if candidate is None:
            break
        timings[candidate] = time(candidate)
    return Choice(latency_ms, size_mib, _best(timings, latency_ms, size_mib), timings)


def meets(timing: Timing, latency_ms: float, size_mib: float | None) -> bool:
    """Whether a student is within the limits, with room."""
    return timing.p50_high_ms <= ROOM * latency_ms and _has_size(timing, size_mib)


def _has_size(timing: Timing, size_mib: float | None) -> bool:
    return size_mib is None or timing.size_bytes <= size_mib * 2**20


def _best(timings: dict[Candidate, Timing], latency_ms: float, size_mib: float | None) -> Candidate | None:
    within = [candidate for candidate, timing in timings.items() if meets(timing, latency_ms, size_mib)]
    return max(within, key=lambda candidate: candidate.macs, default=None)


def _next(
    candidates: Sequence[Candidate], timings: dict[Candidate, Timing], latency_ms: float, size_mib: float | None
) -> Candidate | None:
    """The largest open candidate that may be within the budget; the smallest if none is known to be within it."""
    best = _best(timings, latency_ms, size_mib)
    least = best.macs if best else 0
    large = {candidate.model for candidate, timing in timings.items() if not _has_size(timing, size_mib)}
    open_ = [each for each in candidates if each not in timings and each.macs > least and each.model not in large]
    limit = ROOM * latency_ms * (1.0 if best is None else NEAR)
    likely = [candidate for candidate in open_ if predicted_ms(candidate, timings) <= limit]
    if likely:
        return likely[-1]
    if best is not None or not open_:
        return None
    small = [candidate for candidate, timing in timings.items() if _has_size(timing, size_mib)]
    return None if any(candidate.macs <= open_[0].macs for candidate in small) else open_[0]


def predicted_ms(candidate: Candidate, timings: dict[Candidate, Timing]) -> float:
    """The upper bound of a candidate's p50, from those of the timed candidates below and above it.

    Between two of them, the ratio of measured and expected latency is interpolated over the logarithm of the expected
    latency. Outside them, the ratio of the nearest one holds.
    """
    at = math.log(candidate.expected_ms)
    ratios = sorted(
        (math.log(timed.expected_ms), timing.p50_high_ms / timed.expected_ms) for timed, timing in timings.items()
    )
    if not ratios:
        return candidate.expected_ms
    below, above = [pair for pair in ratios if pair[0] <= at], [pair for pair in ratios if pair[0] >= at]
    (x0, y0), (x1, y1) = (below or ratios)[-1] if below else above[0], above[0] if above else below[-1]
    share = (at - x0) / (x1 - x0) if x1 > x0 else 0.0
    return candidate.expected_ms * (y0 + share * (y1 - y0))
