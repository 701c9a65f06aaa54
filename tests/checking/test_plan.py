"""The builder's list of kernels, and what is read from it about each product."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgevit.checking.plan import Kernel, KernelTensor, kernels_of
from edgevit.checking.precision import got_in_plan, products
from edgevit.graphs.float16 import with_float16
from edgevit.graphs.graph import Graph
from tests.checking.graphs import attention, convolution, pair

# In the form that TensorRT for RTX 1.7.1 logs, of a product made for it.
LOG = """Layers:
Name: node_MatMul_1_myl0_3, LayerType: gemm, Inputs: [ { Name: a_myl0, Dimensions: [1,197,192], Strides: [37824,192,1], StrideOrder: [2,1,0], Datatype: Int8, Format: (Linear) Row major linear format }], Constants: [ { Name: w_myl0, Dimensions: [1,192,576], Strides: [110592,576,1], StrideOrder: [2,1,0], Datatype: Int8, Format: (Linear) Row major linear format }, { Name: s_myl0, Dimensions: [], Strides: [], StrideOrder: [], Datatype: Float, Format: (Linear) Row major linear format }], Outputs: [ { Name: c_myl0, Dimensions: [1,197,576], Strides: [113472,576,1], StrideOrder: [2,1,0], Datatype: Half, Format: (Arbitrary) Format with stride order = [1,2,0] }], TacticName: stub, StreamId: 0, Metadata: [ONNX Layer: node_MatMul_1][ONNX Layer: a_DequantizeLinear][ONNX Layer: node_MatMul_1]
Name: e_myl0_4, LayerType: signal, Inputs: [], Constants: [], Outputs: [], TacticName: , StreamId: 0, EventId: 1, Metadata: 
Name: _gemm_mha_v2_myl0_5, LayerType: kgen, Inputs: [ { Name: q_myl0, Dimensions: [3,197,64], Strides: [64,192,1], StrideOrder: [1,2,0], Datatype: Half, Format: (Arbitrary) Format }], Constants: [], Outputs: [ { Name: o_myl0, Dimensions: [3,197,64], Strides: [64,192,1], StrideOrder: [1,2,0], Datatype: Int8, Format: (Arbitrary) Format }], TacticName: _gemm_mha_v2_0xff, StreamId: 0, Metadata: [ONNX Layer: softmax]
Engine Metadata:
 Multi-Device: Disabled"""  # noqa: E501


def test_kernels_are_read_with_types_and_bytes() -> None:
    product, attended = kernels_of(["something else", LOG])
    assert (product.kind, product.is_product, product.is_attention) == ("gemm", True, False)
    assert product.nodes == ("node_MatMul_1", "a_DequantizeLinear")
    assert [tensor.type for tensor in (*product.inputs, *product.constants)] == ["int8", "int8", "float"]
    assert product.bytes_moved == 197 * 192 + 192 * 576 + 4 + 2 * 197 * 576
    assert (attended.is_product, attended.is_attention) == (True, True)
    assert attended.bytes_moved == 3 * 197 * 64 * (2 + 1)


def test_four_bits_are_half_a_byte_rounded_up() -> None:
    assert KernelTensor("w", (3, 3), "int4").bytes == 5


def kernel(kind: str, nodes: tuple[str, ...], *types: str, constants: tuple[tuple[int, str], ...] = ()) -> Kernel:
    inputs = tuple(KernelTensor(f"in{place}", (4,), one) for place, one in enumerate(types))
    return Kernel("k", kind, inputs, tuple(KernelTensor("c", (size,), one) for size, one in constants), (), nodes)


@pytest.mark.parametrize(
    ("kernels", "got", "fell_back"),
    [
        ([kernel("gemm", ("Conv_logits",), "int8")], "int8", False),
        ([kernel("kgen", ("Conv_logits",), "float"), kernel("correlation", ("Conv_logits",), "int8")], "int8", False),
        ([kernel("correlation", ("Conv_logits",), "half")], "half", True),
        ([kernel("kgen", ("Conv_logits",), "float", constants=((4, "float"), (99, "int8")))], "int8", False),
        ([kernel("kgen", ("Conv_logits",), "float", constants=((99, "half"),))], "half", True),
        ([kernel("gemm", ("another",), "float")], "", False),
        ([kernel("Myelin", ("Conv_logits",), "half")], "", False),
        ([kernel("Myelin", ("Conv_logits",), "half"), kernel("gemm", ("Conv_logits",), "int8")], "int8", False),
        ([kernel("kgen", ("Conv_logits",), "float"), kernel("ForeignNode", ("Conv_logits",), "half")], "", False),
        ([kernel("gemm", ("Conv_logits",), ""), kernel("kgen", ("Conv_logits",), "float")], "", False),
    ],
)
def test_what_a_product_gets(kernels: list[Kernel], got: str, fell_back: bool) -> None:
    graph = Graph(convolution())
    (product,) = products(graph, got_in_plan(graph, kernels))
    assert (product.asked, product.got, product.fell_back) == ("int8", got, fell_back)


@pytest.mark.parametrize(
    ("name", "got"), [("__myl_MulCastReluMulCast_myl0_2", "half"), ("__myl_MulReluMul_2", "float")]
)
def test_a_product_of_activations_in_a_generated_kernel(name: str, got: str) -> None:
    """Sums and scales of what comes before it are none of its operands."""
    graph = Graph(with_float16(attention(1, 16, quantized=False), "here"))
    nodes = tuple(node.name for node in graph.of_type("MatMul"))
    merged = replace(kernel("kgen", nodes, "float", constants=((4, "float"),)), name=name)
    found = products(graph, got_in_plan(graph, [merged]))
    assert [(one.asked, one.got, one.fell_back) for one in found] == [("half", got, got == "float")] * 2


def test_a_conversion_does_not_excuse_a_product_with_weights() -> None:
    graph = Graph(convolution())
    merged = replace(kernel("kgen", ("Conv_logits",), "float", constants=((99, "half"),)), name="__myl_MulCastMul_1")
    (product,) = products(graph, got_in_plan(graph, [merged]))
    assert product.fell_back


def test_what_a_product_asks_for() -> None:
    def asked(model) -> list[str]:
        return [product.asked for product in products(Graph(model), {})]

    assert asked(convolution()) == ["int8"]
    # As onnxruntime likes it: activations of uint8, weights of int8.
    assert asked(convolution(*pair("image", "rounded", zero="unsigned"), unsigned=np.uint8(128))) == ["int8"]
    assert asked(attention(16, 16, quantized=False)) == ["float", "float"]
    # A transposed copy of what was dequantized is not dequantized itself; the builder sees through it all the same.
    assert asked(attention(16, 16, quantized=True))[1] == "int8"


def test_a_name_that_is_taken_is_given_to_no_other() -> None:
    crowded = convolution()
    nodes = crowded.graph.node
    nodes[0].name, nodes[1].name, nodes[2].name = "", f"{nodes[0].op_type}_0", f"{nodes[0].op_type}_0"
    names = [node.name for node in Graph(crowded).nodes]
    assert len(set(names)) == len(names)
    assert names[1] == f"{nodes[0].op_type}_0"


def test_an_unnamed_graph_gets_names() -> None:
    bare = convolution()
    for node in bare.graph.node:
        node.name = ""
    names = [node.name for node in Graph(bare).nodes]
    assert len(set(names)) == len(names) == len(bare.graph.node)
    assert all(np.char.str_len(names) > 0)
