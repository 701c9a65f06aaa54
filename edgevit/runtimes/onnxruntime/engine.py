"""ONNX file → the graph that ONNX Runtime optimizes for this machine."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import onnx

from edgevit.artifacts import Artifact
from edgevit.graphs.files import onnx_file, read_onnx, write_onnx
from edgevit.graphs.tensors import shapes_of_weights
from edgevit.model_file import AS_WRITTEN, ONNX_FILE, ModelFile, TargetInfo
from edgevit.runtimes.onnxruntime.session import inference_session

PRODUCT, BIAS = "MatMulIntegerToFloat", 6  # the operator, and the position of its bias among its inputs
OWN_LAYOUT = "com.microsoft.nchwc"


def engine_from_onnx(model: Artifact, out: Path, machine: TargetInfo) -> ModelFile:
    """Write the graph that ONNX Runtime optimizes for this machine to `out`/model.onnx, and return its record.

    Fusions and memory layouts are chosen now, for this CPU and this version of ONNX Runtime, and not again at load. So
    the file loads faster, and the tested graph is the one that runs. Another CPU or version may refuse the file or run
    it slowly, and INT8 products of a CPU with VNNI overflow on one without: compile the source ONNX file again there.
    """
    with TemporaryDirectory() as folder:
        optimized = Path(folder) / ONNX_FILE
        inference_session(onnx_file(model), model.model_file.options, threads=1, optimized_path=optimized)
        write_engine(onnx.load(optimized), model, out)
    return compiled_file(model, machine)


def write_engine(optimized: onnx.ModelProto, model: Artifact, out: Path) -> None:
    """Write the graph that ONNX Runtime has optimized from a model to `out`/model.onnx."""
    graph = _with_stable_names(with_biases_inside(optimized))
    if not all(value.type.tensor_type.HasField("shape") for value in graph.graph.output):
        del graph.graph.output[:]
        graph.graph.output.extend(read_onnx(onnx_file(model)).graph.output)  # with inferred shapes
    write_onnx(graph, out / ONNX_FILE, model.io, AS_WRITTEN)


def compiled_file(model: Artifact, machine: TargetInfo) -> ModelFile:
    """The record of a graph that was optimized from a model for one machine."""
    return ModelFile(weight_precision=model.model_file.weight_precision, options=AS_WRITTEN, bound_to=machine)


def with_biases_inside(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph, in place, with the biases of ONNX Runtime's INT8 products as inputs of the products.

    Its optimizer leaves an Add of a constant after each product. As the operator's last input, the bias is added in one
    pass with the product.
    """
    sizes = shapes_of_weights(model)
    output_names = {output.name for output in model.graph.output}
    nodes, folded = list(model.graph.node), set[int]()
    readers: dict[str, list[int]] = {}
    for place, node in enumerate(nodes):
        for name in node.input:
            readers.setdefault(name, []).append(place)
    for node in nodes:
        next_places = readers.get(node.output[0], [])
        if node.op_type != PRODUCT or len(next_places) != 1 or node.output[0] in output_names:
            continue
        add = nodes[next_places[0]]
        (bias,) = [name for name in add.input if name != node.output[0]] if add.op_type == "Add" else [""]
        weight = sizes.get(node.input[1], ())
        if len(weight) > 1 and sizes.get(bias) == weight[-1:] and len(node.input) <= BIAS:
            node.input.extend([""] * (BIAS - len(node.input)) + [bias])
            node.output[0] = add.output[0]
            folded.add(next_places[0])
    del model.graph.node[:]
    model.graph.node.extend(node for place, node in enumerate(nodes) if place not in folded)
    return model


def _with_stable_names(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model, in place, with names by position for nodes of ONNX Runtime's layout; its names vary between runs."""
    for index, node in enumerate(model.graph.node):
        if node.domain == OWN_LAYOUT:
            node.name = f"{node.op_type}_{index}"
    return model
