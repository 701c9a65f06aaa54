"""Which nodes of a file a node of the optimized graph computes."""

from __future__ import annotations

import numpy as np
import onnx

from edgevit.graphs.graph import Graph
from edgevit.graphs.index import GraphIndex
from edgevit.graphs.marks import marked, marks_in, shown_name, sources_of
from tests.checking.graphs import model, node


def source() -> Graph:
    """scale → MatMul → Add of a bias → Gelu → Relu."""
    nodes = [
        node("Mul", ["image", "half"], "scaled"),
        node("MatMul", ["scaled", "w"], "product"),
        node("Add", ["product", "b"], "sum"),
        node("Relu", ["sum"], "active"),
        node("Transpose", ["active"], "logits", perm=[0, 1]),
    ]
    constants = {"half": np.float32(0.5), "w": np.ones((4, 2), np.float32), "b": np.ones(2, np.float32)}
    return Graph(model(nodes, constants, [1, 4], [1, 2]))


def optimized(*nodes: onnx.NodeProto) -> GraphIndex:
    return GraphIndex(model(list(nodes), {"w": np.ones((4, 2), np.float32)}, [1, 4], [1, 2]))


def named(operator: str, inputs: list[str], output: str, name: str) -> onnx.NodeProto:
    return onnx.helper.make_node(operator, inputs, [output], name=name)


def test_nodes_are_named_after_their_places() -> None:
    assert [one.name for one in marked(source().model).graph.node][:2] == ["edgevit_0_", "edgevit_1_"]
    assert marks_in("edgevit_3_/MatMulScaleFusion/") == [3]
    assert marks_in("image_abcd_acdb_edgevit_12_") == [12]
    assert marks_in("ReorderOutput") == []


def test_a_fused_node_computes_all_between_its_tensors() -> None:
    """The scale is in the product, whose mark alone is kept; Add and Relu are in a node without a mark."""
    graph = source()
    made = optimized(
        named("FusedMatMul", ["image", "w"], "product", "edgevit_1_/MatMulScaleFusion/"),
        named("BiasRelu", ["product", "b"], "active", "BiasRelu"),
        named("ReorderOutput", ["active"], "reordered", "ReorderOutput"),
        named("Transpose", ["reordered"], "logits", "edgevit_4_"),
    )
    names = [one.name for one in graph.nodes]
    assert sources_of(made, graph) == {
        "edgevit_1_/MatMulScaleFusion/": (names[0], names[1]),
        "BiasRelu": (names[2], names[3]),
        "ReorderOutput": (),
        "edgevit_4_": (names[4],),
    }


def test_a_node_of_another_layer_is_not_taken() -> None:
    """The second node reads a tensor of the runtime's own: the way back from its output would enter the product."""
    graph = source()
    made = optimized(
        named("MatMul", ["image", "w"], "own_layout", "edgevit_1_"), named("Other", ["own_layout"], "logits", "Other")
    )
    names = [one.name for one in graph.nodes]
    assert sources_of(made, graph) == {"edgevit_1_": tuple(names[:4]), "Other": (names[4],)}


def test_a_convolution_in_its_own_layout_is_found_by_its_tensor() -> None:
    """ONNX Runtime names it after what it made: the convolution's own output, or that of a fused activation."""
    nodes = [node("Conv", ["image", "w"], "features"), node("Relu", ["features"], "logits")]
    graph = Graph(model(nodes, {"w": np.ones((4, 4, 1, 1), np.float32)}, [1, 4, 2, 2], [1, 4, 2, 2]))
    convolution, activation = (one.name for one in graph.nodes)
    own, fused = (named("Conv", ["image", "reorder"], "token", f"{made}_nchwc") for made in ("features", "logits"))
    relu = named("Relu", ["token"], "logits", "edgevit_1_")
    assert sources_of(optimized(own, relu), graph) == {own.name: (convolution,), relu.name: (activation,)}
    assert sources_of(optimized(fused), graph) == {fused.name: (convolution, activation)}


def test_names_for_people() -> None:
    graph = source()
    names = [one.name for one in graph.nodes]
    assert shown_name("edgevit_1_/MatMulScaleFusion/", names[:2], graph) == names[1]
    assert shown_name("BiasRelu", names[2:4], graph) == names[2]
    assert shown_name("ReorderOutput", (), graph) == "ReorderOutput"
