"""A latency as the metrics of a profile record it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from edgevit.configs.targets import LOCAL_TARGETS
from edgevit.profiling.energy import EnergyRecord, NoEnergy, energy_in
from edgevit.profiling.loop import Start
from edgevit.profiling.scenarios import FrameStream, LoadgenResult, Throughput
from edgevit.profiling.telemetry import NOT_SAMPLED


class Percentile(NamedTuple):
    """A percentile by nearest rank, in ms, with its 95% interval.

    Attributes:
        low_ms, high_ms: None if the runs are too few for an interval, or it was not recorded.
        is_recorded: whether the release that measured it gave intervals of this percentile.
    """

    ms: float
    low_ms: float | None = None
    high_ms: float | None = None
    is_recorded: bool = True


@dataclass(frozen=True)
class LatencyRecord:
    """The latency of a model, and the conditions that decide whether two latencies may be compared.

    Attributes:
        p50_ms: median of `n` runs, with its 95% interval from `p50_low_ms` to `p50_high_ms`.
        boundary: "compute" or "end_to_end".
        label: "measured", "predicted" or "replayed".
        warnings: doubts about the measurement, a sentence each, without a full stop.
        threads, batch_size: None if they were not recorded.
        invalid: reasons why it is no latency of the device in its stated mode, a sentence each; see `Measurement`.
        variation: standard deviation of the runs over their mean; None if it was not recorded.
        cpus_used: processors that the process kept busy on average during the runs; None if it was not recorded.
        parts_ms: the median time of each part of a run from a photo to a class; empty if the model alone was timed.
        start: of the model in a process of its own; None if it was not measured.
        energy: for an image, or why it was not measured; None if the release that measured did not try.
        starts: number of fresh starts that the interval is over; None if it was not recorded.
        offline: the throughput with each batch size; empty unless the scenario was `offline`.
        fixed_rate: the frames of the scenario `fixed_rate`; None without it.
        like_mlperf: the result by the rules of LoadGen's single stream; None if they were not asked for.
        scenario_failed: a sentence, if the scenario broke off after what is recorded.
    """

    p50_ms: float
    p50_low_ms: float
    p50_high_ms: float
    n: int
    boundary: str
    label: str
    warnings: tuple[str, ...]
    runtime: str
    target: str
    threads: int | None
    batch_size: int | None
    invalid: tuple[str, ...] = ()
    p90: Percentile | None = None
    p99: Percentile | None = None
    variation: float | None = None
    precision: str | None = None
    cpus_used: float | None = None
    parts_ms: Mapping[str, float] = field(default_factory=dict)
    start: Start | None = None
    energy: EnergyRecord | NoEnergy | None = None
    starts: int | None = None
    offline: tuple[Throughput, ...] = ()
    fixed_rate: FrameStream | None = None
    like_mlperf: LoadgenResult | None = None
    scenario_failed: tuple[str, ...] = ()

    @property
    def is_judged(self) -> bool:
        """Whether a budget is judged by it, and other latencies are compared with it."""
        return self.label == "measured" and not self.invalid

    @property
    def percentiles(self) -> dict[Literal[50, 90, 99], Percentile]:
        """The recorded percentiles."""
        recorded = {50: Percentile(self.p50_ms, self.p50_low_ms, self.p50_high_ms), 90: self.p90, 99: self.p99}
        return {percent: value for percent, value in recorded.items() if value is not None}  # type: ignore[misc]

    @classmethod
    def of_metrics(cls, metrics: Mapping[str, Any]) -> LatencyRecord:
        """The record in the metrics of a latency artifact."""
        latency, start = metrics["latency_ms"], metrics.get("start")
        is_of_older_release = "invalid" not in latency  # older releases did not sample
        untold = (NOT_SAMPLED,) if is_of_older_release and metrics["target"] not in LOCAL_TARGETS else ()
        return cls(
            latency["p50"],
            latency["p50_low"],
            latency["p50_high"],
            latency["n"],
            latency["boundary"],
            latency["label"],
            (*untold, *latency["warnings"]),
            metrics["runtime"],
            metrics["target"],
            metrics.get("threads"),
            metrics.get("batch_size"),
            tuple(latency.get("invalid", ())),
            p90=_percentile(latency, "p90"),
            p99=_percentile(latency, "p99"),
            variation=latency.get("coefficient_of_variation"),
            precision=metrics.get("precision"),
            cpus_used=metrics.get("cpus_used"),
            parts_ms=metrics.get("parts_ms", {}),
            start=Start(**start) if start else None,
            energy=energy_in(metrics),
            starts=latency.get("starts"),
            offline=tuple(map(Throughput.of_json, metrics.get("offline", ()))),
            fixed_rate=FrameStream.of_json(stream) if (stream := metrics.get("fixed_rate")) else None,
            like_mlperf=LoadgenResult.of_json(result) if (result := metrics.get("like_mlperf")) else None,
            scenario_failed=tuple(metrics.get("scenario_failed", ())),
        )

    def numbers(self) -> dict[str, Any]:
        """The numbers as `latency_ms` of metrics and of report.json holds them; latencies in ms."""
        return {
            **{
                f"p{percent}{suffix}": value
                for percent, percentile in self.percentiles.items()
                for suffix, value in zip(("", "_low", "_high"), percentile[:3], strict=True)
            },
            "n": self.n,
            "starts": self.starts,
            "coefficient_of_variation": self.variation,
            "boundary": self.boundary,
            "label": self.label,
            "warnings": list(self.warnings),
            "invalid": list(self.invalid),
        }

    def differences(self, other: LatencyRecord) -> list[str]:
        """`threads: 1 and 4` for each condition that differs, apart from runtime and precision."""
        names = ("target", "threads", "batch_size", "boundary", "label")
        both = [(name.replace("_", " "), getattr(self, name), getattr(other, name)) for name in names]
        return [f"{name}: {own} and {others}" for name, own, others in both if own != others]


def _percentile(latency: Mapping[str, Any], name: str) -> Percentile | None:
    if name not in latency:
        return None
    bounds = latency.get(f"{name}_low"), latency.get(f"{name}_high")
    return Percentile(latency[name], *bounds, is_recorded=f"{name}_low" in latency)
