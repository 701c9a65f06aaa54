"""The peaks of a runtime on this CPU, measured once by small kernels and kept in the user's cache folder.

<cache>/peaks/<key>.json, where the key holds what they depend on: CPU, runtime with its version, threads.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from pydantic import TypeAdapter, ValidationError

from edgevit.artifacts import IOSpec, Json, Preprocess, sha256_of
from edgevit.configs.runtimes import OPENVINO, RUNTIMES, TORCH
from edgevit.context import usable_cpus
from edgevit.disks import cache_folder, whole_or_not_at_all
from edgevit.model_file import OpenvinoOptions, RuntimeOptions, options_for
from edgevit.profiling import MeasurePlan, Work, measure
from edgevit.profiling.conditions import cpu
from edgevit.profiling.roofline import FLOPS_A_MAC, Peaks
from edgevit.provenance import version_of
from edgevit.runtimes.base import HostSession
from edgevit.runtimes.sessions import file_session

KERNELS = 3  # raised when the kernels below change
VALID_S, DISTURBED_VALID_S = 30 * 86_400, 3600
LARGEST_BYTES = 65_536
PLAN = MeasurePlan(warmup_s=0.1, duration_s=0.2, min_runs=10)
ROUNDS = 3  # of which the shortest time counts
ROWS, WIDTH = 768, 512  # of the product: 768 × 512 by 512 × 512
CHANNELS, SIDES = 96, (48, 48)  # of the convolution, 3 × 3
MACS_OF_CONVOLUTION = CHANNELS * CHANNELS * 9 * math.prod(SIDES)
CHAIN, NARROW = 64, 16  # products in the chain, and their width. Convolutions in files: no runtime fuses these
COPY_BYTES = (64 * 2**20, 256 * 2**20)  # least and most of the array that is copied
FEWEST_CACHES = 2  # below, the bandwidth is in doubt
CACHES = 4  # the array is so many times the largest cache, within these
LARGE, SMALL = "large", "small"  # the names of the nodes that are timed
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_PEAKS = TypeAdapter(Peaks)

Floats = NDArray[np.float32]
Constants = dict[str, Any]


def peaks_here(runtime: str, threads: int, say: Callable[[str], None]) -> Peaks:
    """The kept peaks of a runtime on this CPU, or else new ones, which are kept.

    Args:
        say: receives a line where a user waits.
    """
    depends_on = _depends_on(runtime, threads)
    folder = cache_folder()
    file = None if folder is None else folder / "peaks" / f"{sha256_of(depends_on)[:40]}.json"
    if (kept := _kept(file)) is not None:
        return kept
    say(f"measuring once what {RUNTIMES[runtime].title} reaches on this CPU (some seconds)")
    peaks = measured_peaks(runtime, threads, depends_on)
    if file is not None:
        with suppress(OSError), whole_or_not_at_all(file) as part:
            part.write_bytes(_PEAKS.dump_json(peaks, indent=1))
    return peaks


def _depends_on(runtime: str, threads: int) -> Json:
    return {
        "runtime": runtime,
        "version": version_of(RUNTIMES[runtime].package),
        "threads": threads,
        "cpu": cpu(),
        "usable_cpus": usable_cpus(),
        "kernels": KERNELS,
    }


def _kept(file: Path | None) -> Peaks | None:
    try:
        if file is None or file.stat().st_size > LARGEST_BYTES:
            return None
        age_s = time.time() - file.stat().st_mtime
        peaks = _PEAKS.validate_json(file.read_bytes())
    except (OSError, ValidationError):
        return None
    values = (*peaks.gflops.values(), peaks.bandwidth_gb_s)
    if not (peaks.gflops and all(0 < value < math.inf for value in values) and 0 <= peaks.launch_ms < math.inf):
        return None
    return peaks if 0 <= age_s <= (DISTURBED_VALID_S if peaks.warnings else VALID_S) else None


class Timed(NamedTuple):
    """The small kernels of a runtime.

    Attributes:
        gflops: the rates of a product and a convolution, by precision.
        launch_ms: the time that one more small product takes: of CHAIN in a row less that of one.
        warnings: of the timings; see `Measurement`.
    """

    gflops: dict[str, list[float]]
    bandwidth_gb_s: float
    launch_ms: float
    warnings: tuple[str, ...]


def measured_peaks(runtime: str, threads: int, conditions: Json) -> Peaks:
    """The peaks of a runtime on this CPU: of a product and a convolution, the higher rate."""
    array_bytes = copied_bytes()
    if runtime == TORCH.name:
        from edgevit.runtimes.torch.peaks import timed_in_torch

        timed = timed_in_torch(threads, array_bytes)
    else:
        timed = _timed_in_files(runtime, threads, array_bytes)
    cache_bytes = largest_cache()
    return Peaks(
        gflops={precision: max(rates) for precision, rates in timed.gflops.items()},
        bandwidth_gb_s=timed.bandwidth_gb_s,
        launch_ms=timed.launch_ms,
        conditions={**conditions, "copied_mib": array_bytes // 2**20, "largest_cache_mib": cache_bytes // 2**20},
        warnings=tuple(dict.fromkeys((*_cache_warnings(array_bytes, cache_bytes), *timed.warnings))),
    )


def largest_cache(folder: Path = _CACHES) -> int:
    """Bytes of the last cache before memory; 0 if the system does not tell them."""
    sizes = [0]
    for file in folder.glob("index*/size"):
        with suppress(OSError, ValueError):
            sizes.append(int(file.read_text(encoding="ascii").strip().removesuffix("K")) * 2**10)
    return max(sizes)


def _cache_warnings(array_bytes: int, cache_bytes: int) -> tuple[str, ...]:
    if cache_bytes == 0:
        return ("the size of the caches is not known: the bandwidth may be that of a cache",)
    is_small = array_bytes < FEWEST_CACHES * cache_bytes
    return ("the copied array is not much larger than the caches: the bandwidth may be theirs",) if is_small else ()


def copied_bytes() -> int:
    """Bytes of the array that is copied."""
    least, most = COPY_BYTES
    return min(most, max(least, CACHES * largest_cache()))


class KernelTime(NamedTuple):
    """The time of a kernel, with the warnings of its timing."""

    ms: float
    warnings: tuple[str, ...]


def run_ms(work: Work) -> KernelTime:
    """The shortest time of a function: a peak is what can be reached."""
    measurement = measure(work, PLAN)
    return KernelTime(float(measurement.samples_ms.min()), measurement.warnings)


def rate_gflops(macs: int, ms: float) -> float:
    """Billions of operations a second."""
    return FLOPS_A_MAC * macs / (1e6 * ms)


# Small graphs for ONNX Runtime and OpenVINO -------------------------------------------------------------------


def _timed_in_files(runtime: str, threads: int, array_bytes: int) -> Timed:
    kernels, rates = list[KernelTime](), dict[str, list[float]]()
    for precision in ("float32", "int8", *(["bfloat16"] if _has_bfloat16(runtime) else [])):
        for graph, macs in (
            (_product(precision), ROWS * WIDTH * WIDTH),
            (_convolution(precision), MACS_OF_CONVOLUTION),
        ):
            options = OpenvinoOptions(inference_precision="bfloat16") if precision == "bfloat16" else None
            kernels.append(_large_kernel(graph, runtime, threads, options))
            rates.setdefault(precision, []).append(rate_gflops(macs, kernels[-1].ms))
    copied = _large_kernel(_copy(array_bytes), runtime, threads)
    small = _small_kernel(runtime, threads)
    return Timed(
        rates,
        2 * array_bytes / (1e6 * copied.ms),
        small.ms,
        tuple(warning for kernel in (*kernels, copied, small) for warning in kernel.warnings),
    )


def _has_bfloat16(runtime: str) -> bool:
    if runtime != OPENVINO.name:
        return False
    from edgevit.runtimes.openvino.session import has_bfloat16

    return has_bfloat16()


def _large_kernel(graph: ModelProto, runtime: str, threads: int, options: RuntimeOptions | None = None) -> KernelTime:
    """The least time of the large kernel of a graph by the profiler, as layers are timed, over ROUNDS.

    It is the time of the whole run, with a warning, if the profiler does not name the kernel.
    """
    with _session(graph, runtime, threads, options) as session:
        rounds = [_large_of(session) for _ in range(ROUNDS)]
    return min(rounds, key=lambda one: one.ms)


def _large_of(session: HostSession) -> KernelTime:
    times = session.layers(PLAN)
    assert times is not None  # both runtimes tell them
    large = [layer.median_ms for layer in times.layers if LARGE in layer.nodes]
    if not large:
        return KernelTime(times.engine_ms, ("the profiler does not name a kernel: its peak is that of a whole run",))
    return KernelTime(max(large), (*times.warnings, *times.invalid))


def _small_kernel(runtime: str, threads: int) -> KernelTime:
    """The time that one more kernel costs if it has nearly nothing to do, without the profiler."""
    found = list[KernelTime]()
    for length in (1, CHAIN):
        with _session(small_chain(length), runtime, threads) as session:
            found.append(run_ms(session.work(PLAN)))
    one, many = found
    return KernelTime(max(0.0, (many.ms - one.ms) / (CHAIN - 1)), (*one.warnings, *many.warnings))


@contextmanager
def _session(
    graph: ModelProto, runtime: str, threads: int, options: RuntimeOptions | None = None
) -> Iterator[HostSession]:
    height, width = (dim.dim_value for dim in graph.graph.input[0].type.tensor_type.shape.dim[2:])
    spec = IOSpec.for_classifier(Preprocess(height=height, width=width), ("peak",), batch=1)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        onnx.save(graph, file)
        yield file_session(file, spec, options or options_for(runtime), threads)


def _product(precision: str) -> ModelProto:
    weight = _weights(WIDTH, WIDTH)
    return _graph((ROWS // 3, WIDTH), (ROWS, WIDTH), *_quantizable("MatMul", weight, precision))


def _convolution(precision: str) -> ModelProto:
    weight = _weights(CHANNELS, CHANNELS, 3, 3)
    nodes = _quantizable("Conv", weight, precision, pads=[1, 1, 1, 1])
    return _graph((CHANNELS * SIDES[0] // 3, SIDES[1]), (1, CHANNELS, *SIDES), *nodes)


def _copy(array_bytes: int) -> ModelProto:
    """A small array is repeated, and the large one copied with its sign changed."""
    row = 3 * 64 * 64
    repeats = np.asarray([array_bytes // (4 * row), 1], np.int64)
    nodes = [_node("Tile", ["x", "repeats"], "large"), _node("Neg", ["large"], "made", name=LARGE)]
    return _graph((64, 64), (1, row), nodes, {"repeats": repeats})


def small_chain(length: int) -> ModelProto:
    """Small convolutions, 1 × 1, one after another. Their weights differ, so that none is left out."""
    names = ["x", *(f"x{place}" for place in range(1, length)), "made"]
    nodes = [
        _node("Conv", [names[place], f"w{place}"], names[place + 1], name=f"{SMALL}{place}") for place in range(length)
    ]
    weights = {f"w{place}": _weights(NARROW, NARROW, 1, 1, seed=place) for place in range(length)}
    return _graph((1, NARROW), (1, NARROW, 1, 3), nodes, weights)


def _quantizable(operator: str, weight: Floats, precision: str, **attributes: Any) -> tuple[list[NodeProto], Constants]:
    """x → operator → made; in int8, with Q/DQ pairs around it, as `quantize` writes them.

    bfloat16 is an option of the session; its graph is that of float32.
    """
    if precision != "int8":
        return [_node(operator, ["x", "w"], "made", name=LARGE, **attributes)], {"w": weight}
    scale = np.float32(np.abs(weight).max() / 127)
    constants = {
        "w": np.clip(np.round(weight / scale), -127, 127).astype(np.int8), "w_scale": scale, "w_zero": np.int8(0),
        "scale": np.float32(0.05), "zero": np.uint8(128),
    }  # fmt: skip
    nodes = [
        _node("QuantizeLinear", ["x", "scale", "zero"], "x8"),
        _node("DequantizeLinear", ["x8", "scale", "zero"], "xf"),
        _node("DequantizeLinear", ["w", "w_scale", "w_zero"], "wf"),
        _node(operator, ["xf", "wf"], "y", name=LARGE, **attributes),
        _node("QuantizeLinear", ["y", "scale", "zero"], "y8"),
        _node("DequantizeLinear", ["y8", "scale", "zero"], "made"),
    ]
    return nodes, constants


def _graph(
    image: tuple[int, int], shape: Sequence[int], nodes: Sequence[NodeProto], constants: Constants
) -> ModelProto:
    """image (1, 3, …) in another shape → x → … → made → its largest value, (1, 1)."""
    around = {"shape": np.asarray(shape, np.int64), "row": np.asarray([1, 1], np.int64), **constants}
    ends = [_node("ReduceMax", ["made"], "largest", keepdims=0), _node("Reshape", ["largest", "row"], "logits")]
    graph = helper.make_graph(
        [_node("Reshape", ["image", "shape"], "x"), *nodes, *ends],
        "peak",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, *image])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 1])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in around.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def _node(operator: str, inputs: Sequence[str], output: str, name: str = "", **attributes: Any) -> NodeProto:
    return helper.make_node(operator, inputs, [output], name=name or f"make_{output}", **attributes)


def _weights(*shape: int, seed: int = 0) -> Floats:
    values: Floats = np.random.default_rng(seed).uniform(-0.1, 0.1, shape).astype(np.float32)
    return values
