"""An ONNX file → the graph as ONNX Runtime optimises it for this machine."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import onnx

from edgevit.artifacts import Artifact, Json
from edgevit.graphs.files import onnx_file, read_onnx, write_onnx
from edgevit.graphs.tensors import shapes_of_weights
from edgevit.runtimes.onnxruntime.session import inference_session

ENGINE = "model.onnx"
PRODUCT, BIAS = "MatMulIntegerToFloat", 6  # the operator, and the place of its bias among its inputs
OWN_LAYOUT = "com.microsoft.nchwc"


def engine_from_onnx(model: Artifact, out: Path) -> Json:
    """Write the optimised graph to `out`/model.onnx and return the session options to load it with.

    Fusions and memory layouts are chosen now, for this CPU and this version of ONNX Runtime, and not again at load:
    it loads faster, and what was tested is what runs. Another CPU or version may not load it, or not fast; there, the
    ONNX file that this was made from is compiled again.
    """
    with TemporaryDirectory() as folder:
        optimized = Path(folder) / ENGINE
        inference_session(onnx_file(model), model.manifest.session_options, threads=1, optimized_path=optimized)
        session_options: Json = {"graph_optimization_level": "disabled"}
        graph = _with_stable_names(with_biases_inside(onnx.load(optimized)))
        if not all(value.type.tensor_type.HasField("shape") for value in graph.graph.output):
            del graph.graph.output[:]
            graph.graph.output.extend(read_onnx(onnx_file(model)).graph.output)  # with the shapes that are inferred
        write_onnx(graph, out / ENGINE, model.io, session_options)
    return session_options


def with_biases_inside(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph, changed in place: ONNX Runtime's INT8 products add their biases themselves.

    Its optimiser leaves an Add of a constant behind each; the operator's last input does the same in the same pass.
    """
    sizes = shapes_of_weights(model)
    given_out = {output.name for output in model.graph.output}
    nodes, added = list(model.graph.node), set[int]()
    readers: dict[str, list[int]] = {}
    for place, node in enumerate(nodes):
        for name in node.input:
            readers.setdefault(name, []).append(place)
    for node in nodes:
        behind = readers.get(node.output[0], [])
        if node.op_type != PRODUCT or len(behind) != 1 or node.output[0] in given_out:
            continue
        add = nodes[behind[0]]
        (bias,) = [name for name in add.input if name != node.output[0]] if add.op_type == "Add" else [""]
        weight = sizes.get(node.input[1], ())
        if len(weight) > 1 and sizes.get(bias) == weight[-1:] and len(node.input) <= BIAS:
            node.input.extend([""] * (BIAS - len(node.input)) + [bias])
            node.output[0] = add.output[0]
            added.add(behind[0])
    del model.graph.node[:]
    model.graph.node.extend(node for place, node in enumerate(nodes) if place not in added)
    return model


def _with_stable_names(model: onnx.ModelProto) -> onnx.ModelProto:
    """ONNX Runtime numbers the nodes that it adds for its own memory layout in an order that changes between runs."""
    for index, node in enumerate(model.graph.node):
        if node.domain == OWN_LAYOUT:
            node.name = f"{node.op_type}_{index}"
    return model
