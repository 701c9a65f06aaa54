"""Roofline: the rate of each layer beside the rate that this machine could reach with its arithmetic and its traffic.

Source: Williams, Waterman and Patterson 2009, "Roofline: an insightful visual performance model for multicore
architectures": attainable rate = min(peak rate, bandwidth × arithmetic intensity).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from edgevit.artifacts import Json

Bound = Literal["memory", "caches", "compute", "launch"]
FLOPS_A_MAC = 2


@dataclass(frozen=True)
class Peaks:
    """The most that a runtime reaches on this machine, measured by small kernels; or a board's figures.

    Attributes:
        gflops: billions of operations a second by precision, such as float32 and int8. A multiply-accumulate is two.
        bandwidth_gb_s: billions of bytes a second, read and written, in a copy that is larger than the caches.
        launch_ms: the time that one more kernel costs if it has nearly nothing to do.
        conditions: what they were measured with.
        warnings: reasons to doubt them, a sentence each.
        nominal_of: the board whose data sheet gives rates and bandwidth; "" where they were measured.
    """

    gflops: Mapping[str, float]
    bandwidth_gb_s: float
    launch_ms: float
    conditions: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    nominal_of: str = ""

    def ridge(self, precision: str) -> float:
        """The arithmetic intensity (operations a byte) from which on the peak rate is the lower roof."""
        return self.gflops[precision] / self.bandwidth_gb_s

    def attainable_gflops(self, intensity: float, precision: str) -> float:
        """The roof at an arithmetic intensity. Williams et al. 2009."""
        return min(self.gflops[precision], self.bandwidth_gb_s * intensity)

    def to_json(self) -> Json:
        return asdict(self)


@dataclass(frozen=True)
class Placement:
    """A layer under the roofline.

    Attributes:
        intensity: operations a byte. Only multiply-accumulates count as operations: 0 for a softmax.
        gflops: the rate that was attained, in billions of operations a second.
        attainable_gflops: the roof at this intensity.
        gb_s: billions of bytes a second that the layer reads and writes.
        bound: what takes the larger part of the least time, memory or compute; caches, where memory alone would take
            longer than was measured; launch, where there is no work, or a launch costs more, or is half of the time.
        share: the least time that the roofs allow, over the measured time. Above 1, the data came from caches, or, if
            compute is the bound, the peak that was measured is too low.
    """

    intensity: float
    gflops: float
    attainable_gflops: float
    gb_s: float
    bound: Bound
    share: float


def placed(ms: float, macs: int | None, bytes: int | None, precision: str, peaks: Peaks) -> Placement | None:
    """The place of a layer; None if its work or the peak of its precision is not known, or its time is 0.

    Args:
        ms: the time of a run.
        macs, bytes: multiply-accumulates, and bytes read and written, of a run.
        precision: a key of the peaks.
    """
    if macs is None or bytes is None or ms <= 0 or (macs and precision not in peaks.gflops):
        return None
    operations = FLOPS_A_MAC * macs
    compute_ms = operations / (1e6 * peaks.gflops[precision]) if macs else 0.0
    memory_ms = bytes / (1e6 * peaks.bandwidth_gb_s)
    least_ms = max(compute_ms, memory_ms)
    intensity = operations / bytes if bytes else 0.0
    return Placement(
        intensity=intensity,
        gflops=operations / (1e6 * ms),
        attainable_gflops=peaks.attainable_gflops(intensity, precision) if macs else 0.0,
        gb_s=bytes / (1e6 * ms),
        bound=_bound(ms, compute_ms, memory_ms, peaks.launch_ms),
        share=least_ms / ms,
    )


def _bound(ms: float, compute_ms: float, memory_ms: float, launch_ms: float) -> Bound:
    work_ms = max(compute_ms, memory_ms)
    if not work_ms or launch_ms > work_ms or 2 * launch_ms >= ms:
        return "launch"
    if compute_ms > memory_ms:
        return "compute"
    return "memory" if memory_ms <= ms else "caches"
