"""What is changed in a graph that ONNX Runtime optimised: INT8 products add their biases themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from edgevit.graphs.walk import operator_counts
from edgevit.runtimes.onnxruntime.engine import with_biases_inside


def product(
    bias_first: bool = False, read_twice: bool = False, bias_shape: tuple[int, ...] = (16,), stored: bool = True
) -> ModelProto:
    """x (uint8) → MatMulIntegerToFloat → Add of a constant → y; where it is read twice, → z too.

    What it is multiplied by is a weight or, where it is not stored, what another node makes.
    """
    generator = np.random.default_rng(0)
    tensors = {
        "w": generator.integers(-127, 128, (32, 16)).astype(np.int8),
        "a_scale": np.float32(0.02),
        "b_scale": generator.uniform(0.01, 0.02, 16).astype(np.float32),
        "a_zero": np.uint8(117),
        "b_zero": np.zeros(16, np.int8),
        "bias": generator.standard_normal(bias_shape).astype(np.float32),
    }
    operands = ["x", "w" if stored else "made", "a_scale", "b_scale", "a_zero", "b_zero"]
    nodes = [
        *([] if stored else [helper.make_node("Neg", ["w"], ["made"], "activation")]),
        helper.make_node("MatMulIntegerToFloat", operands, ["p"], "product", domain="com.microsoft"),
        helper.make_node("Add", ["bias", "p"] if bias_first else ["p", "bias"], ["y"], "sum"),
    ]
    nodes += [helper.make_node("Relu", ["p"], ["z"], "other")] if read_twice else []
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["n", 32])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
            for name in (["y", "z"] if read_twice else ["y"])
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()],
    )
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def answers(model: ModelProto) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(1).integers(0, 256, (5, 32)).astype(np.uint8)
    return list(session.run(None, {"x": x}))


@pytest.mark.parametrize("bias_first", [False, True])
def test_the_bias_goes_inside_and_the_answer_stays(bias_first: bool) -> None:
    expected = answers(product(bias_first))
    made = with_biases_inside(product(bias_first))
    assert operator_counts(made) == {"MatMulIntegerToFloat": 1}
    np.testing.assert_allclose(answers(made)[0], expected[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "options", [{"read_twice": True}, {"bias_shape": (5, 16)}, {"bias_shape": (), "stored": False}]
)
def test_what_is_no_bias_of_the_product_alone_stays(options: dict[str, Any]) -> None:
    expected = answers(product(**options))
    made = with_biases_inside(product(**options))
    assert operator_counts(made)["Add"] == 1
    for got, one in zip(answers(made), expected, strict=True):
        np.testing.assert_array_equal(got, one)
