"""ONNX files in the runtimes that open them on a CPU. Python 3.8 or later and the runtime are all it needs.

Bundles hold this file, and devices run it, as it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence  # noqa: UP035 - Python 3.8 cannot subscript the others

Run = Callable[[List[str], Dict[str, Any]], Sequence[Any]]  # noqa: UP006 - (names of outputs, input by its name)

PROVIDER = "CPUExecutionProvider"
ERRORS_ONLY = 3
EXACT_SUMS = "session.x64quantprecision"  # without it, INT8 products overflow on x86 CPUs without VNNI
OPENVINO_PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


def onnxruntime_options(session_options: dict[str, Any], threads: int) -> Any:
    """ONNX Runtime's SessionOptions for the session options of a file.

    Args:
        session_options: {"graph_optimization_level": "all" | "disabled", "exact_sums": true | false, …}; "all" and true
            where they are left out.
    """
    import onnxruntime

    levels = onnxruntime.GraphOptimizationLevel
    is_off = session_options.get("graph_optimization_level") == "disabled"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = ERRORS_ONLY
    options.graph_optimization_level = levels.ORT_DISABLE_ALL if is_off else levels.ORT_ENABLE_ALL
    if session_options.get("exact_sums", True):
        options.add_session_config_entry(EXACT_SUMS, "1")
    return options


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
    import onnxruntime

    session = onnxruntime.InferenceSession(
        str(model),
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
