"""Whether the INT8 products of a CPU overflow. Weights of 7 bits, whose products cannot, are then taken.

x86 CPUs without VNNI add two products of uint8 and int8 in 16 bits, and cut off what exceeds 32,767 (instruction
PMADDUBSW). 255 · 127 + 255 · 127 = 64,770, and 255 · 64 + 255 · 64 = 32,640. ONNX Runtime has slower kernels that add
in 32 bits; edgevit's sessions take them on such CPUs for weights of 8 bits. OpenVINO has none.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgevit.artifacts import IOSpec, Preprocess
from edgevit.configs.runtimes import TENSORRT
from edgevit.graphs.files import artifact_from_onnx, write_onnx
from edgevit.quantization.dialects import DIALECTS, Dialect, with_reduced_range
from edgevit.runtimes.base import SessionOptions
from edgevit.runtimes.loading import sums_overflow
from edgevit.targets import Target

SIDE, CHANNELS = 8, 16
LEAST_SHARE = 0.9  # of the exact result; where products overflow, it is about a half


def overflows_here(runtime: str) -> bool:
    """Whether this machine's CPU overflows in the fastest kernels of a runtime. ONNX Runtime is asked for all."""
    return runtime != TENSORRT.name and sums_overflow()


def overflows_on(target: Target, runtime: str) -> bool:
    """Whether the CPU of a target overflows in the fastest kernels of a runtime."""
    if runtime == TENSORRT.name:  # tensor cores add in 32 bits
        return False
    dialect = DIALECTS[runtime]
    model, exact = _largest_products(dialect)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "largest.onnx"
        write_onnx(model, file, _spec(), with_reduced_range(dialect).options)
        with target.open(artifact_from_onnx(file), SessionOptions(threads=1)) as session:
            given = session.infer({"image": np.ones((1, 3, SIDE, SIDE), np.float32)})["logits"]
    return bool(given.mean() < LEAST_SHARE * exact)


def reduced_text(place: str) -> str:
    """The sentence that says why weights have 7 bits."""
    return f"INT8 weights have 7 bits: products of 8 bits overflow on {place}"


def _spec() -> IOSpec:
    classes = tuple(map(str, range(CHANNELS)))
    return IOSpec.for_classifier(Preprocess(height=SIDE, width=SIDE), classes, batch=1)


def _largest_products(dialect: Dialect) -> tuple[ModelProto, float]:
    """A convolution and a matrix product whose integers are all the largest ones, and what they give for ones."""
    largest, integer = (255, np.uint8) if dialect.activations.name == "QUInt8" else (127, np.int8)
    taps, inputs = 3 * 3 * 3, CHANNELS * (SIDE - 2) ** 2
    tensors = {
        "kernel": np.full((CHANNELS, 3, 3, 3), 127, np.int8),
        "matrix": np.full((inputs, CHANNELS), 127, np.int8),
        "scales": np.full(CHANNELS, 1 / 127, np.float32),
        "zeros": np.zeros(CHANNELS, np.int8),
        "one": np.float32(1 / largest),
        "taps": np.float32(taps / largest),
        "zero": integer(0),
        "flat": np.array([1, inputs]),
    }
    weights = [
        helper.make_node("DequantizeLinear", ["kernel", "scales", "zeros"], ["w"], axis=0),
        helper.make_node("DequantizeLinear", ["matrix", "scales", "zeros"], ["v"], axis=1),
    ]
    convolved = [
        *_pair("image", "one"),
        helper.make_node("Conv", ["image_rounded", "w"], ["convolved"]),
        *_pair("convolved", "taps"),
    ]
    product = [
        helper.make_node("Reshape", ["convolved_rounded", "flat"], ["features"]),
        *_pair("features", "taps"),
        helper.make_node("MatMul", ["features_rounded", "v"], ["logits"]),
    ]
    graph = helper.make_graph(
        [*weights, *convolved, *product],
        "largest_products",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, CHANNELS])],
        [numpy_helper.from_array(np.asarray(values), name) for name, values in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", dialect.opset)], ir_version=8)
    return model, float(taps * inputs)


def _pair(tensor: str, scale: str) -> tuple[NodeProto, NodeProto]:
    """A Q/DQ pair behind a tensor."""
    return (
        helper.make_node("QuantizeLinear", [tensor, scale, "zero"], [f"{tensor}_integers"]),
        helper.make_node("DequantizeLinear", [f"{tensor}_integers", scale, "zero"], [f"{tensor}_rounded"]),
    )
