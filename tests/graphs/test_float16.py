"""Graphs in 16-bit floats: valid, and the same function."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, TensorProto, helper, numpy_helper

from edgevit.graphs.float16 import with_float16


def answer(model: ModelProto, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"image": images})[0])


def test_a_tensor_that_several_float32_operators_read() -> None:
    """CumSum has no 16-bit form in ONNX Runtime: the cast before it is shared, not written twice."""
    nodes = [
        helper.make_node("Mul", ["image", "w"], ["scaled"], "mul"),
        helper.make_node("CumSum", ["scaled", "rows"], ["down"], "down"),
        helper.make_node("CumSum", ["scaled", "columns"], ["right"], "right"),
        helper.make_node("Add", ["down", "right"], ["logits"], "add"),
    ]
    shape = [4, 4]
    graph = helper.make_graph(
        nodes,
        "sums",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
        [
            numpy_helper.from_array(np.asarray(np.float32(0.5)), "w"),
            numpy_helper.from_array(np.asarray(np.int64(0)), "rows"),
            numpy_helper.from_array(np.asarray(np.int64(1)), "columns"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    half = with_float16(model, "test")
    onnx.checker.check_model(half, full_check=True)
    images = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)
    np.testing.assert_allclose(answer(half, images), answer(model, images), atol=1e-2)
    assert answer(half, images).dtype == np.float32
    assert {one.data_type for one in half.graph.initializer if one.name == "w"} == {TensorProto.FLOAT16}
