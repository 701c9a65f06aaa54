"""A latency as the metrics of a profile record it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgevit.configs.targets import LOCAL_TARGETS
from edgevit.profiling.telemetry import NOT_SAMPLED


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

    @property
    def is_judged(self) -> bool:
        """Whether a budget is judged by it, and other latencies are compared with it."""
        return self.label == "measured" and not self.invalid

    @classmethod
    def of_metrics(cls, metrics: Mapping[str, Any]) -> LatencyRecord:
        """The record in the metrics of a latency artifact."""
        latency = metrics["latency_ms"]
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
        )

    def differences(self, other: LatencyRecord) -> list[str]:
        """`threads: 1 and 4` for each condition that differs, apart from runtime and precision."""
        names = ("target", "threads", "batch_size", "boundary", "label")
        both = [(name.replace("_", " "), getattr(self, name), getattr(other, name)) for name in names]
        return [f"{name}: {own} and {others}" for name, own, others in both if own != others]
