"""The times of a model's layers, by the profiler of its runtime.

A profiler slows a run, and TensorRT's times each layer by itself. So the layers are timed in a run of their own, beside
a run without the profiler, and their sum is another number than the latency.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from edgevit.artifacts import Json
from edgevit.profiling.loop import SHORTEST_MS, MeasurePlan, WallClock, Work
from edgevit.profiling.measure import Label, Measurement, disturbed_runs

MOST_TIMES = 100_000  # that a profiler keeps: of all layers in all runs, half of them for the warm-up
FEWEST_RUNS = 10


@dataclass(frozen=True)
class LayerTime:
    """The time of a layer in a run: mean and median over the runs, in ms.

    Attributes:
        operator: in the runtime's names; "" where it is not told.
        nodes: the nodes of the ONNX file in it; of a checkpoint, its module. Empty if the runtime does not tell them.
        bytes: that it reads and writes, weights included; None where they are not told.
        macs: multiply-accumulates, where the runtime tells them; None otherwise.
        is_int8: whether it multiplies in 8 bits.
    """

    name: str
    mean_ms: float
    median_ms: float
    operator: str = ""
    nodes: tuple[str, ...] = ()
    bytes: int | None = None
    macs: int | None = None
    is_int8: bool = False


@dataclass(frozen=True)
class LayerTimes:
    """The times of the layers of a model, in the order of execution.

    Attributes:
        runs: the number of runs that the profiler has timed.
        batch_size: images in a run.
        engine_ms: the median time of a run without the profiler.
        warnings, invalid: of that run and of the run with the profiler, a sentence each; see `Measurement`.
        profiled_ms: the median time of a run with the profiler; None where it is not told.
        runtime: with its version; "" for an engine, whose record tells it.
        threads: CPU threads; None on a GPU.
        statistic: what `median_ms` of a layer is: OpenVINO tells means alone.
        is_in_microseconds: whether the runtime tells times in whole microseconds, rounded down.
    """

    layers: tuple[LayerTime, ...]
    runs: int
    batch_size: int
    engine_ms: float
    target: str
    label: Label
    warnings: tuple[str, ...] = ()
    invalid: tuple[str, ...] = ()
    profiled_ms: float | None = None
    runtime: str = ""
    threads: int | None = None
    statistic: Literal["median", "mean"] = "median"
    is_in_microseconds: bool = False

    @property
    def overhead(self) -> float | None:
        """The time that the profiler adds to a run, as a share of a run without it; None where it is not told."""
        return None if self.profiled_ms is None else self.profiled_ms / max(self.engine_ms, SHORTEST_MS) - 1

    @property
    def sum_ms(self) -> float:
        """The sum of the layers' medians."""
        return sum(layer.median_ms for layer in self.layers)

    def by_layer(self, names: Sequence[str]) -> list[float | None]:
        """The median time of each layer of the inspector, in ms; None if the profiler does not name it.

        Layers of one name are told apart by their order.
        """
        return self._told_apart(names)[0]

    def elsewhere_ms(self, names: Sequence[str]) -> float:
        """The time of layers that the inspector does not name, in ms."""
        return self._told_apart(names)[1]

    def _told_apart(self, names: Sequence[str]) -> tuple[list[float | None], float]:
        """The time of each of these layers, and the sum of the others' times, in ms."""
        waiting = defaultdict[str, deque[float]](deque)
        for layer in self.layers:
            waiting[layer.name].append(layer.median_ms)
        times = [waiting[name].popleft() if waiting[name] else None for name in names]
        return times, sum(sum(left) for left in waiting.values())

    def to_json(self) -> Json:
        """Everything but the layers' own times."""
        told = {name: value for name, value in asdict(self).items() if name != "layers"}
        return {**told, "sum_ms": self.sum_ms, "overhead": self.overhead}


@dataclass(frozen=True)
class ProfiledRuns:
    """Runs under a profiler.

    Attributes:
        warmup: runs at the start that do not count.
        samples_ms: the time of each counted run.
    """

    warmup: int
    samples_ms: tuple[float, ...]


def run_profiled(work: Work, plan: MeasurePlan, plain: Measurement, layers: int) -> ProfiledRuns:
    """Run a model under its profiler for about the time of a plan.

    Args:
        plain: the run without the profiler.
        layers: the number of times that the profiler keeps of a run, which limits the runs.
    """
    expected_ms = max(plain.percentile_ms(50), SHORTEST_MS)
    most = max(FEWEST_RUNS, MOST_TIMES // (2 * max(1, layers)))
    runs = min(most, max(plan.min_runs, round(1e3 * plan.duration_s / expected_ms)))
    warmup = min(runs, max(0, round(1e3 * plan.warmup_s / expected_ms)))
    clock = WallClock()
    for _ in range(warmup):
        work()
    return ProfiledRuns(warmup, tuple(clock.time_ms(work) for _ in range(runs)))


def times_by_layer(runs: Iterable[Iterable[tuple[str, float]]]) -> dict[tuple[str, int], list[float]]:
    """Times (ms) of each layer over the runs, by its name and its place among layers of that name in a run."""
    times = defaultdict[tuple[str, int], list[float]](list)
    for run in runs:
        seen = defaultdict[str, int](int)
        for name, ms in run:
            times[name, seen[name]].append(ms)
            seen[name] += 1
    return dict(times)


def layer_times(
    layers: Sequence[LayerTime], profiled: ProfiledRuns, plain: Measurement, target: str, runtime: str, threads: int
) -> LayerTimes:
    """The times of a model on this machine, from its layers and from the runs with and without the profiler.

    Both are judged, as a latency is.
    """
    samples_ms = np.asarray(profiled.samples_ms)
    with_profiler = Measurement(samples_ms, plain.plan, disturbed=disturbed_runs(samples_ms, plain.plan))
    return LayerTimes(
        tuple(layers),
        runs=len(profiled.samples_ms),
        batch_size=plain.plan.batch_size,
        engine_ms=plain.percentile_ms(50),
        target=target,
        label=plain.label,
        warnings=(*plain.warnings, *(f"with the profiler: {one}" for one in with_profiler.warnings)),
        invalid=(*plain.invalid, *(f"with the profiler: {one}" for one in with_profiler.invalid)),
        profiled_ms=float(np.median(samples_ms)),
        runtime=runtime,
        threads=threads,
    )


def mean_and_median(times_ms: Sequence[float]) -> tuple[float, float]:
    """Of the times of a layer, in ms."""
    return float(np.mean(times_ms)), float(np.median(times_ms))
