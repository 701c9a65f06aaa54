"""The latency of a graph on a board, predicted, with an interval from the errors of rows that were held out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from edgevit.configs.runtimes import RUNTIMES, TENSORRT
from edgevit.errors import ArtifactError, RecipeError, TargetError
from edgevit.graphs.graph import OPERANDS, UNCOUNTED
from edgevit.latency_model.boards import board_rates, check_tensorrt, name_in_mode, power_mode_of
from edgevit.latency_model.constants import fitted
from edgevit.latency_model.kernels import KernelPlan
from edgevit.latency_model.roofline import PRECISIONS, BoardRates, Precision, times_of, work_of

LAUNCHES_OF_UNKNOWN = 10  # the most kernels that a node without a rule is taken for
NEWEST_CALIBRATED = (8, 7)  # compute capability
BOARD_OF_VITS = "Jetson Orin Nano 8GB"
NO_ENERGY = (
    "not predictable: the published energies are of one classifier, in INT8, at the wall, in a power mode whose "
    "clocks are not known"
)


@dataclass(frozen=True)
class Estimate:
    """A predicted latency. It was not measured.

    Attributes:
        board: a board of the table, or a target that `edgevit devices calibrate` has fitted.
        power_mode: whose clocks and bandwidth were taken; None of a calibrated target.
        latency_ms: of one batch, compute alone; of a board, as trtexec gives it.
        low_80_ms, high_80_ms, low_90_ms, high_90_ms: intervals that held 80% and 90% of latencies that the fit had not
            seen: of published ones of known boards, by other sources and of other families of networks; of the models
            of a calibration, each left out.
        shares: of the time, by what takes it: compute, memory, launches.
        kernels: launches that TensorRT is likely to need; operators, on a calibrated target.
        unknown_operators: the number of nodes by operator, for operators that the prediction does not know.
        energy_mj: None; `why_no_energy` says why.
        notes: what widens the interval, in sentences.
        is_coverage_known: whether held-out rows show the coverage of the intervals. A note says why not.
        runtime: in which the graph runs.
        threads: CPU threads; None on a GPU.
    """

    board: str
    power_mode: str | None
    precision: str
    batch_size: int
    tensorrt: str | None
    latency_ms: float
    low_80_ms: float
    high_80_ms: float
    low_90_ms: float
    high_90_ms: float
    shares: Mapping[str, float]
    kernels: int
    macs: int
    unknown_operators: Mapping[str, int]
    energy_mj: float | None
    why_no_energy: str
    notes: tuple[str, ...]
    is_coverage_known: bool
    label: Literal["predicted"] = "predicted"
    runtime: str = TENSORRT.name
    threads: int | None = None

    @property
    def bound_by(self) -> str:
        """What takes the largest share of the time: compute, memory or launches."""
        return max(self.shares, key=lambda name: self.shares[name])

    def as_json(self) -> dict[str, Any]:
        """All fields, and `bound_by`."""
        return {**asdict(self), "bound_by": self.bound_by}

    def sentences(self) -> list[str]:
        """The estimate for people."""
        shares = ", ".join(f"{name} {share:.0%}" for name, share in self.shares.items())
        nominal = "" if self.is_coverage_known else "nominal "
        counted = "kernels" if self.power_mode else "operators"
        return [
            f"predicted {self.latency_ms:.3g} ms, "
            f"{nominal}90% interval {self.low_90_ms:.3g} to {self.high_90_ms:.3g} ms, "
            f"{nominal}80% interval {self.low_80_ms:.3g} to {self.high_80_ms:.3g} ms",
            f"{self._where()}, {self.precision}, batch {self.batch_size}, compute alone",
            f"bound by {self.bound_by}: {shares}",
            f"{self.macs / 1e9:.3g} G MACs for an image, {self.kernels} {counted}",
            f"energy {self.why_no_energy}",
            *self.notes,
        ]

    def _where(self) -> str:
        if self.threads is None:
            return f"{self.board} in {self.power_mode}"
        return f"{self.board}, {RUNTIMES[self.runtime].title}, {self.threads} thread{'s' if self.threads > 1 else ''}"


def estimate_of(
    plan: KernelPlan,
    board: str,
    precision: str,
    *,
    batch_size: int = 1,
    power_mode: str | None = None,
    tensorrt: str | None = None,
    where: object = None,
    place: Callable[[str], str] = str,
) -> Estimate:
    """The predicted latency of kernels on a board.

    Args:
        board: a name of `BOARD_NAMES`.
        precision: float32, float16 or int8.
        power_mode: such as MAXN_SUPER; the board's fastest ordinary mode by default.
        tensorrt: such as "10.3". It is checked against the board. The effect of a version was not fitted.
        where: the file, for errors.
        place: an argument of this function as errors name it.

    Raises:
        RecipeError: an unknown board, power mode, precision or version.
        TargetError: no figures of the board are verified, or nothing calibrates this precision on it.
        ArtifactError: the size of a product or convolution is open, or arithmetic has no rule.
    """
    name = name_in_mode(board, power_mode, place("power_mode"))
    rates = board_rates(name, place("board"))
    checked = _checked_precision(precision, rates, place("precision"))
    _check_int8_of_attention(plan, checked, place("precision"))
    if tensorrt is not None:
        check_tensorrt(name, tensorrt, place("tensorrt"))
    check_counted(plan, where)
    calibrated = fitted()
    is_known = checked in calibrated["known"].get(rates.family, ())
    wider = tuple(_new_to_the_set(plan, rates, checked, batch_size, is_known))
    times = times_of(work_of(plan.kernels, rates, checked, batch_size), calibrated["constants"])
    scale = calibrated["boards"].get(rates.family, 1.0)
    parts = {
        "compute": float(times.compute_ms.sum()) * scale,
        "memory": float(times.memory_ms.sum()) * scale,
        "launches": float(times.launch_ms.sum()) * scale,
    }
    latency_ms = sum(parts.values())
    uncounted = {**plan.unsized, **plan.unknown}
    extra_ms = LAUNCHES_OF_UNKNOWN * sum(uncounted.values()) * parts["launches"] / len(plan.kernels)
    widths = _widths(calibrated["intervals"], rates, checked, is_new=bool(wider))
    return Estimate(
        board=name,
        power_mode=power_mode_of(name),
        precision=checked,
        batch_size=batch_size,
        tensorrt=tensorrt,
        latency_ms=latency_ms,
        low_80_ms=latency_ms / widths["80%"],
        high_80_ms=latency_ms * widths["80%"] + extra_ms,
        low_90_ms=latency_ms / widths["90%"],
        high_90_ms=latency_ms * widths["90%"] + extra_ms,
        shares={part: value / latency_ms for part, value in parts.items()},
        kernels=len(plan.kernels),
        macs=plan.macs,
        unknown_operators=uncounted,
        energy_mj=None,
        why_no_energy=NO_ENERGY,
        notes=(*wider, *_notes(rates, checked, uncounted)),
        is_coverage_known=not wider and not uncounted,
    )


def check_counted(plan: KernelPlan, where: object) -> None:
    """Raises ArtifactError if work of the graph cannot be counted, or there is none.

    Arithmetic may have no rule of multiply-accumulates, and the size of a product may be open.
    """
    uncounted = {operator: count for operator, count in plan.unknown.items() if operator in UNCOUNTED}
    inner = {
        operator: count for operator, count in plan.in_subgraphs.items() if operator in UNCOUNTED | OPERANDS.keys()
    }
    if uncounted or inner:
        named = [f"{count} × {operator}" for operator, count in uncounted.items()]
        named += [f"{count} × {operator} in subgraphs" for operator, count in inner.items()]
        what = "the multiply-accumulates of these operators are not counted, so no latency is predicted"
        next_step = "export attention and layers as MatMul, Gemm and Conv, without If, Loop and Scan"
        raise ArtifactError(what, where=where, got=", ".join(named), next=next_step)
    if unsized := [operator for operator in plan.unsized if operator in OPERANDS]:
        what = "the sizes of products are open, so their work cannot be counted"
        raise ArtifactError(what, where=where, got=", ".join(unsized), next="export the model with a fixed image size")
    if not plan.kernels:
        raise ArtifactError("the graph computes nothing", where=where, next="give the ONNX file of a network")


def _check_int8_of_attention(plan: KernelPlan, precision: Precision, where: str) -> None:
    """Raises TargetError for INT8 with attention: ViTs are reported as no faster in INT8 than in float16, or slower."""
    if precision == "int8" and _has_attention(plan):
        what = (
            "no latency is predicted for attention in INT8: ViTs are reported as no faster than in float16, or slower, "
            "and no such latency calibrates the prediction"
        )
        raise TargetError(what, where=where, got=precision, next="estimate the float file, and measure INT8")


def full_precision(name: str) -> str:
    """The full name of a precision: FP16 is float16. An unknown name is given back in lower case."""
    return {"fp32": "float32", "fp16": "float16"}.get(name.lower(), name.lower())


def _checked_precision(precision: str, rates: BoardRates, where: str) -> Precision:
    known = next((one for one in PRECISIONS if one == full_precision(precision)), None)
    if known is None:
        what = "no latency is predicted in this precision: none is published"
        raise RecipeError(what, where=where, got=precision, expected=", ".join(PRECISIONS))
    if known == "int8" and rates.int8_tops is None:
        is_old = not rates.has_tensor_cores
        what = f"{rates.name} {'does not run INT8' if is_old else 'has no verified figure for INT8'}"
        raise TargetError(what, where=where, got=precision, next="take float16")
    if known == "float32" and rates.generation == 2:
        what = f"TensorRT runs float32 in TF32 on {rates.name}, and no latency in TF32 calibrates the prediction"
        raise TargetError(what, where=where, got=precision, next="take float16")
    return known


def _new_to_the_set(
    plan: KernelPlan, rates: BoardRates, precision: Precision, batch_size: int, is_known: bool
) -> Iterator[str]:
    """Why the interval is that of a board that was left out, in sentences; none for what the set holds."""
    if not is_known:
        yield f"the interval is wider: few published latencies of this board in {precision} calibrate the prediction"
    if batch_size > 1:
        yield "the interval is wider: almost all published latencies are of one image"
    if _has_attention(plan) and rates.family != BOARD_OF_VITS:
        yield f"the interval is wider: latencies of ViTs are published for {BOARD_OF_VITS} alone"


def _has_attention(plan: KernelPlan) -> bool:
    return any(kernel.kind == "attention" for kernel in plan.kernels)


def _widths(
    intervals: Mapping[str, Mapping[str, float]], rates: BoardRates, precision: Precision, is_new: bool
) -> dict[str, float]:
    """The factor on both sides of a prediction, by level."""
    groups = ["new_board" if is_new else "known_board", *(["int8"] if precision == "int8" else [])]
    widths = {level: max(intervals[group][level] for group in groups) for level in ("80%", "90%")}
    times = 2 if rates.compute_capability > NEWEST_CALIBRATED else 1  # on a logarithmic scale
    return {level: width**times for level, width in widths.items()}


def _notes(rates: BoardRates, precision: Precision, uncounted: Mapping[str, int]) -> Iterator[str]:
    if rates.compute_capability > NEWEST_CALIBRATED:
        yield "the interval is doubled: no board of this GPU's generation calibrates the prediction"
    if precision == "int8":
        yield "the interval is wider: INT8 is calibrated on eleven latencies of two ResNets"
    yield from notes_on_unknown(uncounted)


def notes_on_unknown(uncounted: Mapping[str, int]) -> Iterator[str]:
    """A note on nodes without a rule, by operator; none without such nodes."""
    if uncounted:
        named = ", ".join(f"{count} × {operator}" for operator, count in uncounted.items())
        yield f"the interval is wider upwards: {sum(uncounted.values())} nodes are not known: {named}"
