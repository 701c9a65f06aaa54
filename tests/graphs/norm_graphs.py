"""Small classifiers with a norm that is written out as arithmetic, over tokens of any size."""

from __future__ import annotations

import numpy as np
import onnx.reference
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

WIDTH, HIDDEN, CLASSES, SIDE, PATCH = 128, 64, 4, 16, 4
NORMS = ("layer norm by Pow", "layer norm by Mul", "rms norm", "l2 norm")


def normed_classifier(norm: str, gain: float, epsilon: float = 1e-6) -> ModelProto:
    """image (batch, 3, 16, 16) → 16 tokens of 128, `gain` in size → norm → MLP → mean → logits (batch, 4), opset 20."""
    generator = np.random.default_rng(0)

    def weight(*shape: int) -> NDArray[np.float32]:
        fan_in = shape[0] if len(shape) == 2 else int(np.prod(shape[1:]))
        return (generator.standard_normal(shape) / np.sqrt(fan_in)).astype(np.float32)

    constants = {
        "patches": weight(WIDTH, 3, PATCH, PATCH) * np.float32(gain),
        "token_shape": np.array([0, WIDTH, -1], np.int64),
        "w1": weight(WIDTH, HIDDEN),
        "w2": weight(HIDDEN, WIDTH),
        "w3": weight(WIDTH, CLASSES),
        "tokens_axis": np.array([1], np.int64),
        **norm_constants(epsilon),
    }
    nodes = [
        helper.make_node("Conv", ["image", "patches"], ["grid"], "patches", strides=[PATCH, PATCH]),
        helper.make_node("Reshape", ["grid", "token_shape"], ["rows"], "rows"),
        helper.make_node("Transpose", ["rows"], ["x"], "columns", perm=[0, 2, 1]),
        *norm_nodes(norm),
        helper.make_node("MatMul", ["normed", "w1"], ["hidden"], "fc1"),
        helper.make_node("Relu", ["hidden"], ["active"], "act"),
        helper.make_node("MatMul", ["active", "w2"], ["out"], "fc2"),
        helper.make_node("ReduceMean", ["out", "tokens_axis"], ["pooled"], "pool", keepdims=0),
        helper.make_node("MatMul", ["pooled", "w3"], ["logits"], "head"),
    ]
    read = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "normed",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items() if name in read],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def norm_constants(epsilon: float, dtype: type = np.float32) -> dict[str, NDArray[np.generic]]:
    return {
        "axis": np.array([-1], np.int64),
        "two": np.array(2, dtype),
        "epsilon": np.array(epsilon, dtype),
        "root_of_width": np.array(WIDTH**0.5, dtype),
    }


def norm_nodes(norm: str) -> list[NodeProto]:
    """x → normed, over the last axis."""
    node = helper.make_node
    if norm == "l2 norm":
        return [
            node("ReduceL2", ["x", "axis"], ["root"], "root"),
            node("Div", ["x", "root"], ["unit"], "unit"),
            node("Mul", ["unit", "root_of_width"], ["normed"], "normed"),
        ]
    centring = [node("ReduceMean", ["x", "axis"], ["mean"], "mean"), node("Sub", ["x", "mean"], ["centred"], "centred")]
    entering = "x" if norm == "rms norm" else "centred"
    by_pow = node("Pow", [entering, "two"], ["square"], "square")
    by_mul = node("Mul", [entering, entering], ["square"], "square")
    return [
        *([] if norm == "rms norm" else centring),
        by_pow if norm == "layer norm by Pow" else by_mul,
        node("ReduceMean", ["square", "axis"], ["mean_square"], "mean_square"),
        node("Add", ["mean_square", "epsilon"], ["total"], "total"),
        node("Sqrt", ["total"], ["root"], "root"),
        node("Div", [entering, "root"], ["normed"], "normed"),
    ]


def random_images(count: int = 16, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((count, 3, SIDE, SIDE)).astype(np.float32)


def answers(model: ModelProto, images: NDArray[np.float32], optimized: bool = True) -> NDArray[np.float32]:
    """Plain ONNX Runtime's logits."""
    options = onnxruntime.SessionOptions()
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"image": images})[0])


def as_declared(model: ModelProto, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """The logits by onnx's own reference, each operator in the types that the file declares."""
    with np.errstate(all="ignore"):
        return np.asarray(onnx.reference.ReferenceEvaluator(model).run(None, {"image": images})[0])


def noise_db(got: NDArray[np.floating], expected: NDArray[np.floating]) -> float:
    """Signal to noise of centred scores."""
    got, expected = (values - values.mean(1, keepdims=True) for values in (got, expected))
    return float(10 * np.log10(np.square(expected).sum() / np.square(got - expected).sum()))
