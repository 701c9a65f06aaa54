"""Repair of ONNX graphs that ONNX Runtime runs and onnx's checker refuses."""

from __future__ import annotations

from onnx import ModelProto

from edgevit.graphs.walk import graphs_of, nodes, sort_nodes

ONNX_DOMAINS = ("", "ai.onnx")
OLDEST_IR_OF_UNLISTED_WEIGHTS = 4
RUNTIME_DOMAINS = ("ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc")  # ONNX Runtime's own
KNOWN_DOMAINS = (*ONNX_DOMAINS, *RUNTIME_DOMAINS)


def normalize(model: ModelProto) -> None:
    """Repair a model, in place, so that onnx's checker accepts it with the meaning that it has in ONNX Runtime.

    The graph gets a name, and an order in which its nodes can run. Each domain is imported once, ONNX's own as "".
    Weights are not listed as inputs, and have unique names. Negative sizes become open.
    """
    model.graph.name = model.graph.name or "graph"
    _import_domains_once(model)
    _unlist_weights(model)
    _open_negative_sizes(model)
    sort_nodes(model)


def _import_domains_once(model: ModelProto) -> None:
    """Import each domain once: of several versions the last, as ONNX Runtime does, and its own domains too."""
    for node in nodes(model):
        if node.domain == "ai.onnx":
            node.domain = ""
    for imports in (model.opset_import, *(function.opset_import for function in model.functions)):
        versions = {"" if entry.domain in ONNX_DOMAINS else entry.domain: entry.version for entry in imports}
        del imports[:]
        for domain, version in versions.items():
            imports.add(domain=domain, version=version)
    imported = {entry.domain for entry in model.opset_import}
    for domain in sorted({node.domain for node in nodes(model)} - imported):
        model.opset_import.add(domain=domain, version=1)


def _unlist_weights(model: ModelProto) -> None:
    """Remove weights from the inputs. Of weights with equal names, the last stays."""
    for graph in graphs_of(model):
        names = [tensor.name for tensor in graph.initializer]
        last = {name: index for index, name in enumerate(names)}
        for index in reversed(range(len(names))):
            if last[names[index]] != index:
                del graph.initializer[index]
        for index in reversed(range(len(graph.input))):
            if graph.input[index].name in last:
                del graph.input[index]
    model.ir_version = max(model.ir_version, OLDEST_IR_OF_UNLISTED_WEIGHTS)


def _open_negative_sizes(model: ModelProto) -> None:
    """Open the sizes for which some exporters write -1."""
    for graph in graphs_of(model):
        for value in (*graph.input, *graph.output, *graph.value_info):
            for size in value.type.tensor_type.shape.dim:
                if size.HasField("dim_value") and size.dim_value < 0:
                    size.ClearField("dim_value")
