"""The scenarios of a profile: doubts about batches, a fixed rate of frames, a result by MLPerf's rules."""

from __future__ import annotations

from collections.abc import Iterator

from edgevit.profiling.latency_record import LatencyRecord
from edgevit.profiling.scenarios import MOST_LATE, FrameStream, LoadgenResult
from edgevit.report.text.numbers import milliseconds, significant

NOT_OFFICIAL = (
    "timed by edgevit, not by LoadGen; random images, any model, no accuracy run and no review of a submission"
)


def scenario_facts(latency: LatencyRecord) -> Iterator[tuple[str, str]]:
    """Labels and values of the scenario `fixed_rate`, and of a result by MLPerf's rules; doubts about batches.

    The first batch is that of the latency itself.
    """
    for batch in latency.offline[1:]:
        yield from ((f"Batch {batch.batch_size} is invalid", reason) for reason in batch.invalid)
        yield from ((f"Batch {batch.batch_size} is doubtful", doubt) for doubt in batch.warnings)
    if latency.fixed_rate:
        yield from _stream_facts(latency.fixed_rate)
    if latency.like_mlperf:
        yield from _loadgen_facts(latency.like_mlperf)


def _stream_facts(stream: FrameStream) -> Iterator[tuple[str, str]]:
    """Whether a rate of frames is kept, the late frames, and the latency from the arrival of a frame."""
    for reason in stream.invalid:
        yield "Fixed rate", f"INVALID: {reason}"
    untold = "not told whether it is kept; a longer duration may tell"
    if stream.invalid:
        untold = "not judged, since it is invalid"
    kept = {True: "kept", False: "NOT kept", None: untold}
    images = f" of {stream.batch_size} images" if stream.batch_size > 1 else ""
    rate, ended = f"{stream.rate_hz:g} frames{images} a second", f"{significant(stream.frames_per_s)} ended in a second"
    yield "Fixed rate", f"{rate}: {kept[stream.is_kept]}; {ended}"
    interval = f"95% interval {stream.late_low:.1%} to {stream.late_high:.1%}"
    yield "Late frames", f"{stream.late:.1%} ({interval}) had not ended when the next one came; {MOST_LATE:.0%} may"
    percentiles = zip((50, 90, 99), (stream.p50_ms, stream.p90_ms, stream.p99_ms), strict=True)
    latencies = ", ".join(f"p{percent} {milliseconds(value)}" for percent, value in percentiles)
    yield "From arrival to end", f"{latencies}, {stream.frames:,} frames"
    yield from (("Fixed rate is doubtful", doubt) for doubt in stream.warnings)


def _loadgen_facts(result: LoadgenResult) -> Iterator[tuple[str, str]]:
    """The result by LoadGen's rules, with what is missing."""
    p90 = "too few queries for p90" if result.p90_ms is None else f"p90 {milliseconds(result.p90_ms)} by early stopping"
    yield "Like MLPerf", f"{p90}, single stream, {result.queries:,} queries in {significant(result.seconds)} s"
    for shortfall in result.shortfalls:
        yield "Not as MLPerf", shortfall
    yield "Not official", NOT_OFFICIAL
