"""Recorded times of another model on another board, replayed. Nothing is measured here."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tests.targets.standin.trtexec.log import Log, number
from tests.targets.standin.trtexec.options import Options
from tests.targets.standin.trtexec.settings import TrtexecSettings


class Recorded(NamedTuple):
    """What a summary says about a time, in ms."""

    least: float
    median: float
    p90: float
    p95: float
    p99: float
    largest: float


# TensorRT 10.3 on a Jetson with JetPack 6, ResNet-50 in FP16.
COMPUTE = Recorded(3.12671, 3.14062, 3.14587, 3.14771, 3.15039, 3.15479)
ENQUEUE = Recorded(0.844238, 0.872437, 0.932861, 0.953735, 1.0658, 2.05505)
# TensorRT 10 on a desktop GPU.
TO_DEVICE = Recorded(0.243774, 0.247559, 0.24939, 0.249756, 0.255188, 0.261108)
TO_HOST = Recorded(0.0695801, 0.177734, 0.182312, 0.184814, 0.1875, 0.187988)
# Of the first layers of a ResNet-50 on an A100, in percent of a run. Layers that are not run have none.
SHARES = (7.95569, 10.9768, 6.143, 5.23666, 0, 0, 5.23666, 0, 5.03525)
SLOWED = 1.2  # every fourth run of a variant with unstable times
MOST_RUNS = 20_000


@dataclass(frozen=True)
class Trace:
    """The times of one run, in ms from the start."""

    enqueue: tuple[float, float]
    to_device: tuple[float, float]
    compute: tuple[float, float]
    to_host: tuple[float, float]

    @property
    def latency_ms(self) -> float:
        return sum(end - start for start, end in (self.to_device, self.compute, self.to_host))


def report(options: Options, settings: TrtexecSettings, unstable: bool, log: Log, speed: float = 1) -> None:
    """Print the summary of the replayed runs, and write --exportTimes. Compute times are divided by `speed`."""
    traces = _traces(options, unstable, speed)
    wall_s = (traces[-1].to_host[1] - traces[0].to_device[0]) / 1000
    log.info(
        f"Warmup completed {math.ceil(options.warm_up_ms / COMPUTE.median)} queries over {options.warm_up_ms:g} ms"
    )
    log.info(f"Timing trace has {len(traces)} queries over {number(wall_s)} s")
    log.info()
    log.info("=== Trace details ===")
    log.info("Trace averages of 10 runs:")
    for start in range(0, min(len(traces), 20) - 9, 10):
        _average(traces[start : start + 10], log)
    log.info()
    log.info("=== Performance summary ===")
    log.info(f"Throughput: {number(len(traces) / wall_s)} qps")
    compute = [trace.compute[1] - trace.compute[0] for trace in traces]
    for name, value in METRICS.items():
        log.info(f"{name}: {_summary(list(map(value, traces)), options.percentiles)}")
    log.info(f"Total Host Walltime: {number(wall_s)} s")
    log.info(f"Total GPU Compute Time: {number(sum(compute) / 1000)} s")
    _warn_if_unstable(compute, settings, log)
    log.info("Explanations of the performance metrics are printed in the verbose logs.")
    log.info()
    if options.export_times:
        Path(options.export_times).write_text(_times_json(traces))


def profile_json(names: Sequence[str], options: Options) -> str:
    """The file of --exportProfile in the form of sampleReporting.cpp: the layers share the replayed time of a run."""
    count = max(options.iterations, math.ceil(options.duration_s * 1000 / COMPUTE.median), 1)
    shares = [SHARES[place % len(SHARES)] for place in range(len(names))]
    lines = [f'[\n  {{ "count" : {count} }}\n']
    for name, share in zip(names, shares, strict=True):
        ms = COMPUTE.median * share / sum(shares)
        lines.append(
            f', {{ "name" : "{name}", "timeMs" : {number(ms * count)}, "averageMs" : {number(ms)}, "medianMs" : '
            f'{number(ms)}, "percentage" : {number(100 * share / sum(shares))} }}\n'
        )
    return "".join([*lines, "]\n"])


METRICS: dict[str, Callable[[Trace], float]] = {
    "Latency": lambda trace: trace.latency_ms,
    "Enqueue Time": lambda trace: trace.enqueue[1] - trace.enqueue[0],
    "H2D Latency": lambda trace: trace.to_device[1] - trace.to_device[0],
    "GPU Compute Time": lambda trace: trace.compute[1] - trace.compute[0],
    "D2H Latency": lambda trace: trace.to_host[1] - trace.to_host[0],
}


def _traces(options: Options, unstable: bool, speed: float) -> list[Trace]:
    """As many runs as the options ask for, one after another, in an order that is always the same."""
    wanted = math.ceil(options.duration_s * 1000 / COMPUTE.median)
    count = min(max(options.iterations, wanted, 1), MOST_RUNS)
    order = np.random.default_rng(0)
    compute, enqueue = _replayed(COMPUTE, count, order), _replayed(ENQUEUE, count, order)
    copies = (_replayed(TO_DEVICE, count, order), _replayed(TO_HOST, count, order))
    to_device, to_host = copies if options.transfers else (np.zeros(count), np.zeros(count))
    compute /= speed
    if unstable:
        compute[::4] *= SLOWED
    now, traces = options.warm_up_ms, []
    for run in range(count):
        ends = np.cumsum([now, to_device[run], compute[run], to_host[run]]).tolist()
        spans = itertools.pairwise(ends)
        traces.append(Trace((now - enqueue[run], now), *spans))
        now = ends[-1]
    return traces


def _replayed(recorded: Recorded, count: int, order: np.random.Generator) -> np.ndarray:
    """Times with the recorded quantiles. The least and the largest are single ones; below the median is a guess."""
    usual_low = max(recorded.least, 2 * recorded.median - recorded.p90)
    points = {
        0.0: recorded.least, 0.002: usual_low, 0.5: recorded.median, 0.9: recorded.p90, 0.95: recorded.p95,
        0.99: recorded.p99, 0.992: recorded.p99, 1.0: recorded.largest,
    }  # fmt: skip
    return order.permutation(np.interp(np.linspace(0, 1, count), list(points), list(points.values())))


def _average(traces: Sequence[Trace], log: Log) -> None:
    compute, latency, enqueue = (
        number(sum(map(METRICS[name], traces)) / len(traces))
        for name in ("GPU Compute Time", "Latency", "Enqueue Time")
    )
    log.info(f"Average on {len(traces)} runs - GPU latency: {compute} ms - Host latency: {latency} ms (enqueue "
             f"{enqueue} ms)")  # fmt: skip


def _summary(times: list[float], percentiles: Sequence[float]) -> str:
    """As in sampleReporting.cpp: `percentile(90%)` is the last of the fastest 90%."""
    times = sorted(times)
    parts = {"min": times[0], "max": times[-1], "mean": sum(times) / len(times), "median": float(np.median(times))}
    for share in percentiles:
        excluded = int((1 - share / 100) * len(times))
        parts[f"percentile({share:g}%)"] = times[max(len(times) - 1 - excluded, 0)]
    return ", ".join(f"{name} = {number(value)} ms" for name, value in parts.items())


def _warn_if_unstable(compute: Sequence[float], settings: TrtexecSettings, log: Log) -> None:
    limit = 1.0 if settings.version < (10, 13, 2) else 2.5
    variation = float(np.std(compute) / np.mean(compute) * 100)
    if variation <= limit:
        return
    advice = "" if settings.version >= (11,) else " or adding --useSpinWait"
    log.warning(f"* GPU compute time is unstable, with coefficient of variance = {number(variation)}%.")
    log.warning(f"  If not already in use, locking GPU clock frequency{advice} may improve the stability.")


def _times_json(traces: Sequence[Trace]) -> str:
    lines = ["[\n"]
    for position, trace in enumerate(traces):
        fields = {
            "startEnqMs": trace.enqueue[0], "endEnqMs": trace.enqueue[1], "startH2dMs": trace.to_device[0],
            "endH2dMs": trace.to_device[1], "startComputeMs": trace.compute[0], "endComputeMs": trace.compute[1],
            "startD2hMs": trace.to_host[0], "endD2hMs": trace.to_host[1],
            **{name: value(trace) for name, value in SPANS.items()},
        }  # fmt: skip
        text = ", ".join(f'"{name}" : {number(value)}' for name, value in fields.items())
        lines.append(f"{', ' if position else '  '}{{ {text} }}\n")
    return "".join([*lines, "]\n"])


SPANS: dict[str, Callable[[Trace], float]] = {
    "h2dMs": METRICS["H2D Latency"],
    "computeMs": METRICS["GPU Compute Time"],
    "d2hMs": METRICS["D2H Latency"],
    "latencyMs": METRICS["Latency"],
}
