"""Builds ONNX files with NVIDIA's parser and builder, in a process of its own that may crash. Run by nvidia.py only.

    python nvidia_child.py RECORDS.json MODEL.onnx …

It imports nothing of edgevit, and runs with NVIDIA's libraries in LD_LIBRARY_PATH. The records are rewritten after each
file, so that a crash loses no earlier record.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

sys.modules["tensorrt_libs"] = None  # type: ignore[assignment]  # an installed TensorRT must not be loaded
import tensorrt_bindings as trt  # noqa: E402


class Log(trt.ILogger):  # type: ignore[misc]
    """Keeps the errors, and the messages that list the kernels."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.layers: list[str] = []
        self.errors: list[str] = []

    def log(self, severity: object, message: str) -> None:
        if message.startswith("Layers:"):
            self.layers.append(message)
        elif severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
            self.errors.append(message)


def record_of(path: str) -> dict[str, object]:
    """Whether the file was built, with the kernels, or the refusals and errors."""
    log = Log()
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    start = time.perf_counter()
    with open(path, "rb") as file:
        parsed = parser.parse(file.read())
    refused = [_refusal(parser.get_error(index)) for index in range(parser.num_errors)]
    engine = _built(builder, network) if parsed else None
    return {
        "built": engine is not None,
        "bytes": engine.nbytes if engine is not None else 0,
        "seconds": time.perf_counter() - start,
        "refused": refused,
        "errors": log.errors,
        "layers": log.layers,
    }


def _built(builder: Any, network: Any) -> Any:
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    profile, dynamic = builder.create_optimization_profile(), False
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        if -1 in tuple(tensor.shape):
            dynamic, shape = True, tuple(1 if size == -1 else size for size in tensor.shape)
            profile.set_shape(tensor.name, shape, shape, shape)
    if dynamic:
        config.add_optimization_profile(profile)
    return builder.build_serialized_network(network, config)


def _refusal(error: Any) -> dict[str, str]:
    return {"node": error.node_name(), "operator": error.node_operator(), "reason": error.desc()}


def main() -> None:
    out, *paths = sys.argv[1:]
    records: list[dict[str, object]] = []
    for path in paths:
        records.append(record_of(path))
        with open(f"{out}.half", "w", encoding="utf-8") as file:
            json.dump(records, file)
        os.replace(f"{out}.half", out)


if __name__ == "__main__":
    main()
