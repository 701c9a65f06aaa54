"""Nodes that a runtime does not tell go to the kernel that computes them, each to one."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from edgevit.graphs.graph import Graph
from edgevit.graphs.kernels import completed
from tests.checking.graphs import model, node


def graph(*nodes: NodeProto) -> Graph:
    weights = {name: np.ones((4, 4), np.float32) for name in ("w", "v")}
    return Graph(model(nodes, weights, [4, 4], [4, 4]))


def test_a_product_goes_to_the_kernel_that_its_value_reaches() -> None:
    """Of MatMul → Mul → Relu, the Relu is told: MatMul and Mul lead to it. The Abs before is told by itself."""
    source = graph(
        node("Abs", ["image"], "a"),
        node("MatMul", ["a", "w"], "b"),
        node("Mul", ["b", "v"], "c"),
        node("Relu", ["c"], "logits"),
    )
    assert completed([{0}, {3}], source) == [(0,), (1, 2, 3)]


def test_both_products_of_an_attention() -> None:
    """MatMul → Softmax → MatMul of two told products; the keys are transposed in the fused kernel."""
    source = graph(
        node("MatMul", ["image", "w"], "q"),
        node("MatMul", ["image", "v"], "k"),
        node("Transpose", ["k"], "kt", perm=[1, 0]),
        node("MatMul", ["q", "kt"], "a"),
        node("Softmax", ["a"], "p"),
        node("MatMul", ["p", "image"], "logits"),
    )
    places = completed([{0}, {1}, {4, 5}], source)
    assert [{3, 4, 5} <= set(found) for found in places] == [False, False, True]
    assert sorted(place for found in places for place in found) == list(range(6))


def test_what_is_behind_a_product_goes_to_the_last_kernel_that_it_reads() -> None:
    """The residual Add and the Relu behind it: the first product cannot have computed them."""
    source = graph(
        node("MatMul", ["image", "w"], "a"),
        node("MatMul", ["a", "v"], "b"),
        node("Add", ["a", "b"], "c"),
        node("Relu", ["c"], "d"),
        node("Softmax", ["d"], "logits"),
    )
    assert completed([{0}, {1}, {4}], source) == [(0,), (1, 2, 3), (4,)]


def test_what_is_before_all_kernels_goes_to_the_kernel_that_reads_it() -> None:
    source = graph(node("Mul", ["image", "v"], "a"), node("MatMul", ["a", "w"], "logits"))
    assert completed([{1}], source) == [(0, 1)]


def test_a_twin_is_in_no_kernel() -> None:
    """Two products of the same tensors: the runtime computes one of them, and the Add reads it twice."""
    source = graph(
        node("MatMul", ["image", "w"], "a"), node("MatMul", ["image", "w"], "b"),
        node("Neg", ["a"], "c"), node("Neg", ["b"], "d"), node("Add", ["c", "d"], "logits"),
    )  # fmt: skip
    assert completed([{1}, {3}, {4}], source) == [(1,), (3,), (4,)]
