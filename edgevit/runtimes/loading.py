"""ONNX files in the runtimes that open them on a CPU. Python 3.8 or later and the runtime are all it needs.

Bundles hold this file, and devices run it, as it is.
"""

from __future__ import annotations

import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence  # noqa: UP035 - Python 3.8 cannot subscript the others

Run = Callable[[List[str], Dict[str, Any]], Sequence[Any]]  # noqa: UP006 - (names of outputs, input by its name)

PROVIDER = "CPUExecutionProvider"
ERRORS_ONLY, FATAL_ERRORS_ONLY = 3, 4  # printed; all errors are raised
EXACT_SUMS = "session.x64quantprecision"  # slower kernels on every x86 CPU, which add INT8 products in 32 bits
# Parts of the names of operators that compute with integers at any level of optimization
INTEGER_OPERATORS = (b"QLinear", b"QGemm", b"QAttention", b"MatMulInteger", b"ConvInteger", b"DynamicQuantize")
OPENVINO_PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}

# The ONNX file of y = a · b: int8 b (16, 16) is 127 everywhere, uint8 a (1, 16) is the input, int32 y the output.
LARGEST_WEIGHT, LARGEST_ACTIVATION, TERMS = 127, 255, 16
PRODUCT = (
    b'\x08\x04:\xdc\x02\n\x18\n\x01a\n\x01b\x12\x01y"\rMatMulInteger\x12\x07product'
    + b"*\x8c\x02\x08\x10\x08\x10\x10\x03B\x01bJ\x80\x02"
    + bytes([LARGEST_WEIGHT]) * TERMS**2
    + b"Z\x13\n\x01a\x12\x0e\n\x0c\x08\x02\x12\x08\n\x02\x08\x01\n\x02\x08\x10"
    + b"b\x13\n\x01y\x12\x0e\n\x0c\x08\x06\x12\x08\n\x02\x08\x01\n\x02\x08\x10B\x04\n\x00\x10\n"
)


def onnxruntime_options(session_options: dict[str, Any], threads: int) -> Any:
    """ONNX Runtime's SessionOptions for the session options of a file.

    Args:
        session_options: {"graph_optimization_level": "all" | "disabled", "exact_sums": true | false, …}; "all" and true
            where they are left out. Exact sums cost time only on a CPU where the fastest kernels overflow.
    """
    import onnxruntime

    levels = onnxruntime.GraphOptimizationLevel
    is_off = session_options.get("graph_optimization_level") == "disabled"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = ERRORS_ONLY
    options.graph_optimization_level = levels.ORT_DISABLE_ALL if is_off else levels.ORT_ENABLE_ALL
    if not is_off and session_options.get("exact_sums", True) and sums_overflow():
        options.add_session_config_entry(EXACT_SUMS, "1")
        options.log_severity_level = FATAL_ERRORS_ONLY  # `onnxruntime_session` may try twice
    return options


@lru_cache(maxsize=None)  # noqa: UP033 - Python 3.8 has no functools.cache
def sums_overflow() -> bool:
    """Whether ONNX Runtime's fastest INT8 kernels overflow on this CPU, as they do on x86 without VNNI."""
    import numpy
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(PRODUCT, options, providers=[PROVIDER])
    (sums,) = session.run(None, {"a": numpy.full((1, TERMS), LARGEST_ACTIVATION, numpy.uint8)})
    return bool((sums != TERMS * LARGEST_ACTIVATION * LARGEST_WEIGHT).any())


def onnxruntime_session(model: Path, options: Any, **arguments: Any) -> Any:
    """ONNX Runtime's InferenceSession.

    With exact sums, ONNX Runtime cannot open a file in which two nodes read one int8 constant (1.31 raises "Attempt to
    replace the existing tensor"). If the integers are in Q/DQ pairs alone, the file is then opened with the basic
    optimizations, and a warning says so: the layers between the pairs compute in float, without overflow.
    """
    import onnxruntime

    try:
        return onnxruntime.InferenceSession(str(model), options, **arguments)
    except Exception:  # its exceptions have no base class of their own
        if not _has_exact_sums(options) or _has_integer_operators(model):
            raise
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session = onnxruntime.InferenceSession(str(model), options, **arguments)
    warnings.warn(f"{model}: ONNX Runtime cannot add its INT8 products exactly: they compute in float", stacklevel=2)
    return session


def _has_exact_sums(options: Any) -> bool:
    try:
        return bool(options.get_session_config_entry(EXACT_SUMS) == "1")
    except RuntimeError:  # the option is not set
        return False


def _has_integer_operators(model: Path) -> bool:
    content = model.read_bytes() if model.is_file() else b""
    return any(name in content for name in INTEGER_OPERATORS)


def openvino_properties(session_options: dict[str, Any], threads: int) -> dict[str, Any]:
    """OpenVINO's properties: one stream on `threads` threads.

    Float operators compute in session_options["inference_precision"], float32 by default. OpenVINO's own default is
    bfloat16 on a CPU that has it.
    """
    return {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": OPENVINO_PRECISIONS[session_options.get("inference_precision", "float32")],
    }


def in_onnxruntime(model: Path, session_options: dict[str, Any], threads: int) -> Run:
    """A loaded model in ONNX Runtime: a function from names of outputs and the input to the outputs."""
    session = onnxruntime_session(
        model,
        onnxruntime_options(session_options, threads),
        providers=[PROVIDER],
        disabled_optimizers=session_options.get("disabled_optimizers"),
    )
    run: Run = session.run
    return run


def in_openvino(model: Path, session_options: dict[str, Any], threads: int) -> Run:
    """A loaded model in OpenVINO, with a batch of one image if the file leaves the batch open."""
    import openvino

    core = openvino.Core()
    network = core.read_model(model)
    network.reshape([1 if axis.is_dynamic else axis.get_length() for axis in network.input().partial_shape])
    properties = openvino_properties(session_options, threads)
    request = core.compile_model(network, "CPU", properties).create_infer_request()

    def run(outputs: list[str], feed: dict[str, Any]) -> list[Any]:
        results = request.infer(feed)
        return [results[name] for name in outputs]

    return run


LOADERS = {"onnxruntime": in_onnxruntime, "openvino": in_openvino}
