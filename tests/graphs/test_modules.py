"""The modules from which the nodes of a graph come."""

from __future__ import annotations

import numpy as np
import onnx

from edgevit.graphs.files import onnx_file, read_onnx
from edgevit.graphs.graph import Graph
from edgevit.graphs.modules import module_paths
from edgevit.models import model_from_checkpoint
from tests.checking.graphs import model
from tests.small_models import checkpoint, float_onnx, int8_onnx


def made(operator: str, inputs: list[str], output: str, name: str) -> onnx.NodeProto:
    return onnx.helper.make_node(operator, inputs, [output], name=name)


def test_each_path_is_a_module_of_the_network() -> None:
    paths = {path for path, _ in model_from_checkpoint(checkpoint()).named_modules()}
    for artifact in (float_onnx(), int8_onnx()):
        graph = Graph(read_onnx(onnx_file(artifact)))
        found = module_paths(graph)
        assert set(found.values()) <= paths
        softmaxes = {found[one.name] for one in graph.of_type("Softmax")}
        assert softmaxes == {"blocks.0.attn", "blocks.1.attn"}
        assert {found[one.name] for one in graph.of_type("Gelu")} == {"blocks.0.mlp", "blocks.1.mlp"}


def test_the_name_of_a_weight_tells_the_module() -> None:
    nodes = [
        made("MatMul", ["image", "block.fc.weight"], "product", "node_1"),
        made("Add", ["product", "shared.bias"], "sum", "node_2"),
        made("Add", ["sum", "shared.bias"], "logits", "node_3"),
    ]
    constants = {"block.fc.weight": np.ones((2, 2), np.float32), "shared.bias": np.ones(2, np.float32)}
    found = module_paths(Graph(model(nodes, constants, [1, 2], [1, 2])))
    assert found == {"node_1": "block.fc", "node_2": "block.fc", "node_3": "block.fc"}  # equal biases are one tensor


def test_names_of_both_exporters_of_torch() -> None:
    nodes = [
        made("Relu", ["image"], "a", "/blocks/blocks.0/attn/qkv/Relu"),
        made("Relu", ["a"], "b", "node_relu"),
        made("Relu", ["b"], "logits", "node_relu_1"),
    ]
    entry = nodes[2].metadata_props.add()
    entry.key, entry.value = "pkg.torch.onnx.name_scopes", "['', 'blocks.0', 'blocks.0.mlp', 'relu_1']"
    found = module_paths(Graph(model(nodes, {}, [1, 2], [1, 2])))
    assert list(found.values()) == ["blocks.0.attn.qkv", "blocks.0", "blocks.0.mlp"]


def test_a_graph_without_names_tells_none() -> None:
    nodes = [made("Relu", ["image"], "a", "one"), made("Neg", ["a"], "logits", "two")]
    assert set(module_paths(Graph(model(nodes, {}, [1, 2], [1, 2]))).values()) == {""}
