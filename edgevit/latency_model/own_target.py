"""The latency of a graph on a target that was calibrated, predicted, with an interval from left-out models."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from edgevit.configs.runtimes import RUNTIMES
from edgevit.latency_model.calibration import CalibratedForm, Calibration
from edgevit.latency_model.estimate import LAUNCHES_OF_UNKNOWN, Estimate, check_counted, notes_on_unknown
from edgevit.latency_model.kernels import KernelPlan
from edgevit.latency_model.unit_costs import UNITS, Floats, cost_errors, parts_ms, units_of
from edgevit.model_file import TargetInfo

NO_ENERGY = "not predictable: a calibration measures latencies alone"
FEWEST_FOR_90 = 9  # models; of fewer, no rank has a coverage of 90%
NORMAL_RANK = {0.8: 1.2816, 0.9: 1.6449}  # of a normal distribution, on both sides
RANGE_FACTOR = 2.0  # by which a latency may be beyond those of the calibration. Chosen
NEW_SHARE = 0.05  # of the time, from which on a note names what the calibration hardly has. Chosen


def estimate_on_target(
    plan: KernelPlan,
    calibration: Calibration,
    precision: str,
    *,
    batch_size: int = 1,
    runtime: str | None = None,
    threads: int | None = None,
    now: Callable[[str], TargetInfo] | None = None,
    where: object = None,
) -> Estimate:
    """The predicted latency of kernels on a calibrated target.

    Args:
        precision: of the file. An INT8 file has Q/DQ pairs.
        runtime, threads: of the form of the calibration; None takes the first that has the precision.
        now: tells the target's fingerprint for a runtime, where it is known without asking the target.
        where: the file, for errors.

    Raises:
        TargetError: the target is not calibrated for this precision, runtime or number of threads.
        ArtifactError: the size of a product or convolution is open, or arithmetic has no rule.
    """
    form = calibration.form(precision, runtime, threads)
    check_counted(plan, where)
    units = units_of(plan, batch_size, precision)
    parts = parts_ms(units, form.costs_ns)
    latency_ms = sum(parts.values())
    unseen, beyond = _unseen_error(form, units), _beyond(form, latency_ms)
    changed = "; ".join(_changes(form.info, now(form.runtime))) if now is not None else ""
    uncounted = {**plan.unsized, **plan.unknown}
    extra_ms = LAUNCHES_OF_UNKNOWN * sum(uncounted.values()) * form.costs_ns["node"] * 1e-6
    low, high = (_wider(form.factor(level), unseen * rank) for level, rank in NORMAL_RANK.items())
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
        notes=(
            *_notes(form, batch_size),
            *([_unseen_note(form, units)] if unseen else []),
            *([beyond] if beyond else []),
            *([f"the machine is not as it was calibrated, so the interval is not known: {changed}"] if changed else []),
            *notes_on_unknown(uncounted),
        ),
        is_coverage_known=batch_size == 1
        and not (uncounted or unseen or beyond or changed)
        and len(form.models) >= FEWEST_FOR_90,
        runtime=form.runtime,
        threads=form.threads,
    )


def _notes(form: CalibratedForm, batch_size: int) -> Iterator[str]:
    version = form.info.versions.get(form.runtime)
    yield (
        f"calibrated on {len(form.models)} models in {RUNTIMES[form.runtime].title} {version or ''}".rstrip()
        + f"; each left out, the median error is {form.median_error:.1%} and the largest {form.largest_error:.1%}"
    )
    if batch_size > 1:
        yield "the calibration measured one image at a time, so the interval of a batch is not known"


def _changes(then: TargetInfo, now: TargetInfo) -> Iterator[str]:
    """What differs between the machine of a calibration and the machine now, as far as both are told."""
    for before, after in ((then.versions, now.versions), (then.hardware, now.hardware)):
        for name in before.keys() & after.keys():
            if before[name] != after[name]:
                yield f"{name} {before[name]} then, {after[name]} now"


def _unseen_error(form: CalibratedForm, units: Floats) -> float:
    """The usual log error by costs that the calibration models hardly show; 0 for a graph like them.

    A graph is like them if the fit knows its sum of costs no worse than that of some left-out model. Otherwise the
    error is what is not known beyond that.
    """
    models = [np.array(model.units) for model in form.models]
    *seen, new = cost_errors(models, form.costs_ns, is_int8=form.precision == "int8", new=units)
    return math.sqrt(max(0.0, new**2 - max(seen) ** 2))


def _wider(factor: float, log_error: float) -> float:
    """The factor with an independent log error added."""
    return math.exp(math.hypot(math.log(factor), log_error))


def _unseen_note(form: CalibratedForm, units: Floats) -> str:
    """A sentence on what takes more than twice the share of the time that it takes in any calibration model."""
    costs = np.array([form.costs_ns[unit] for unit in UNITS])
    times = np.array([units, *(model.units for model in form.models)]) * costs
    own, *seen = times / times.sum(axis=1, keepdims=True)
    of_units = zip(UNITS, own, np.max(seen, axis=0), strict=True)
    shares = {unit: share for unit, share, most in of_units if share > max(NEW_SHARE, 2 * most)}
    if not shares:
        return "the interval is wider: the graph is unlike the models of the calibration"
    named = ", ".join(map(_title, sorted(shares, key=lambda unit: -shares[unit])))
    return (
        "the interval is wider: the models of the calibration have little or nothing of what takes "
        f"{sum(shares.values()):.0%} of the predicted time ({named})"
    )


def _title(unit: str) -> str:
    """int8_spatial_conv is INT8 spatial conv."""
    return unit.replace("int8", "INT8").replace("_", " ")


def _beyond(form: CalibratedForm, latency_ms: float) -> str | None:
    """A sentence if the latency is far beyond those of the calibration."""
    times = [model.p50_ms for model in form.models]
    if min(times) / RANGE_FACTOR <= latency_ms <= max(times) * RANGE_FACTOR:
        return None
    return (
        f"the calibration measured models of {min(times):.3g} to {max(times):.3g} ms, so the interval is not known "
        "this far beyond"
    )
