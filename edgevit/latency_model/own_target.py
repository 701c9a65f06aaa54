"""The latency of a graph on a target that was calibrated, predicted, with an interval from left-out models."""

from __future__ import annotations

from collections.abc import Iterator

from edgevit.configs.runtimes import RUNTIMES
from edgevit.latency_model.calibration import CalibratedForm, Calibration
from edgevit.latency_model.estimate import LAUNCHES_OF_UNKNOWN, Estimate, check_counted, notes_on_unknown
from edgevit.latency_model.kernels import KernelPlan
from edgevit.latency_model.unit_costs import parts_ms, units_of

NO_ENERGY = "not predictable: a calibration measures latencies alone"
FEWEST_FOR_90 = 9  # models; of fewer, no rank has a coverage of 90%


def estimate_on_target(
    plan: KernelPlan,
    calibration: Calibration,
    precision: str,
    *,
    batch_size: int = 1,
    runtime: str | None = None,
    threads: int | None = None,
    where: object = None,
) -> Estimate:
    """The predicted latency of kernels on a calibrated target.

    Args:
        precision: of the file. An INT8 file has Q/DQ pairs.
        runtime, threads: of the form of the calibration; None takes the first that has the precision.
        where: the file, for errors.

    Raises:
        TargetError: the target is not calibrated for this precision, runtime or number of threads.
        ArtifactError: the size of a product or convolution is open, or arithmetic has no rule.
    """
    form = calibration.form(precision, runtime, threads)
    check_counted(plan, where)
    parts = parts_ms(units_of(plan, batch_size), form.costs_ns)
    latency_ms = sum(parts.values())
    uncounted = {**plan.unsized, **plan.unknown}
    extra_ms = LAUNCHES_OF_UNKNOWN * sum(uncounted.values()) * form.costs_ns["node"] * 1e-6
    low, high = form.factor(0.8), form.factor(0.9)
    return Estimate(
        board=calibration.target,
        power_mode=None,
        precision=precision,
        batch_size=batch_size,
        tensorrt=None,
        latency_ms=latency_ms,
        low_80_ms=latency_ms / low,
        high_80_ms=latency_ms * low + extra_ms,
        low_90_ms=latency_ms / high,
        high_90_ms=latency_ms * high + extra_ms,
        shares={part: ms / latency_ms for part, ms in parts.items()},
        kernels=sum(kernel.nodes for kernel in plan.kernels),
        macs=plan.macs,
        unknown_operators=uncounted,
        energy_mj=None,
        why_no_energy=NO_ENERGY,
        notes=(*_notes(form, batch_size), *notes_on_unknown(uncounted)),
        is_coverage_known=batch_size == 1 and not uncounted and len(form.models) >= FEWEST_FOR_90,
        runtime=form.runtime,
        threads=form.threads,
    )


def _notes(form: CalibratedForm, batch_size: int) -> Iterator[str]:
    version = form.info.versions.get(form.runtime)
    yield (
        f"calibrated on {len(form.models)} models in {RUNTIMES[form.runtime].title} {version or ''}".rstrip()
        + f"; each left out, the median error is {form.median_error:.0%} and the largest {form.largest_error:.0%}"
    )
    if batch_size > 1:
        yield "the calibration measured one image at a time, so the interval of a batch is not known"
