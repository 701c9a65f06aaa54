"""The tensors inside a graph that can be further outputs, held against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from edgevit.artifacts import Artifact
from edgevit.checking.inner_tensors import InnerTensors
from edgevit.graphs.files import onnx_file, read_onnx
from tests.small_models import float_onnx, int8_onnx_for_tensorrt


def of(model: Artifact) -> InnerTensors:
    return InnerTensors(read_onnx(onnx_file(model)), model.id)


@pytest.mark.parametrize("quantized", [False, True])
def test_a_run_gives_each_in_the_shape_that_is_said(quantized: bool) -> None:
    model = int8_onnx_for_tensorrt() if quantized else float_onnx()
    inner = of(model)
    assert len(inner.tensors) > 30
    assert not {tensor.operator for tensor in inner.tensors} & {"QuantizeLinear", "DequantizeLinear", "Constant"}
    marked = inner.with_outputs(inner.tensors, "batch")
    session = onnxruntime.InferenceSession(marked.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [tensor.name for tensor in inner.tensors]
    values = session.run(names, {"image": np.zeros((3, 3, 32, 32), np.float32)})
    for tensor, value in zip(inner.tensors, values, strict=True):
        assert value.shape == (3, *tensor.shape), tensor
        assert value.dtype == helper.tensor_dtype_to_np_dtype(tensor.type)


def branches() -> ModelProto:
    """image → a → (b, c) → d, with a constant, sizes and a tensor without the batch beside them."""
    nodes = [
        helper.make_node("Relu", ["image"], ["a"], name="of_a"),
        helper.make_node("Neg", ["a"], ["b"], name="of_b"),
        helper.make_node("Exp", ["a"], ["c"], name="of_c"),
        helper.make_node("Abs", ["constant"], ["constant_too"], name="of_constant"),
        helper.make_node("ReduceMean", ["a"], ["without_batch"], name="of_mean", keepdims=0),
        helper.make_node("Shape", ["a"], ["sizes"], name="of_sizes"),
        helper.make_node("Sum", ["b", "c", "without_batch", "constant_too"], ["d"], name="of_d"),
        helper.make_node("Sqrt", ["d"], ["logits"], name="of_logits"),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in ("image", "logits")]
    constant = numpy_helper.from_array(np.ones(4, np.float32), "constant")
    graph = helper.make_graph(nodes, "branches", values[:1], values[1:], [constant])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def test_only_what_holds_a_row_for_each_image() -> None:
    inner = InnerTensors(branches(), "test")
    assert [(tensor.name, tensor.node, tensor.shape) for tensor in inner.tensors] == [
        ("a", "of_a", (4,)), ("b", "of_b", (4,)), ("c", "of_c", (4,)), ("d", "of_d", (4,)),
    ]  # fmt: skip


def test_what_is_before_a_tensor() -> None:
    inner = InnerTensors(branches(), "test")
    assert inner.before(["b"]) == {"a", "image"}
    assert inner.before(["logits"]) == {
        "image", "a", "b", "c", "d", "constant", "constant_too", "without_batch",
    }  # fmt: skip
    assert inner.maker("d").name == "of_d"
