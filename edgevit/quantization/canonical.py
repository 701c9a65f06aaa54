"""A float graph of any exporter in the form that the writers of Q/DQ nodes expect."""

from __future__ import annotations

import itertools
import math
import re
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgevit.graphs.guard import with_functions_inlined
from edgevit.graphs.tensors import float_weights, with_stored_constants
from edgevit.graphs.walk import graphs_of, nodes, sort_nodes, with_unique_node_names
from edgevit.quantization.dialects import Dialect, axis_of_inputs, why_float

# Suffixes that onnxruntime's writer, its converter to float16 and the writers here append to the name of a tensor.
SUFFIX = re.compile(
    r"_(scale|zero_point|quantized|QuantizeLinear|DequantizeLinear|convert|rounded|float8|float32|restored|cast_to_fp)"
)
MADE_BY_CONVERTER = re.compile(r"graph_(input|output)_cast")
NEW_NAME, MOST_DIGITS = "edgevit_tensor_", 20  # names of new tensors: this and a number
Role = tuple[str, object]  # how a node uses a weight: nodes with equal roles may share it


def canonical(model: ModelProto, dialect: Dialect, where: object) -> ModelProto:
    """A copy of a model in canonical form, with equal outputs.

    Functions are inlined, constants are initializers, and every node has a unique name. A weight that nodes use in
    different roles is stored once for each role. The bias of a Gemm is a vector. No tensor has a name that a writer
    would give to a new tensor.

    Args:
        dialect: selects the products and convolutions that will be quantized.
        where: the file or stage, for errors.

    Raises:
        ArtifactError: the functions of the model cannot be inlined.
    """
    copy = with_stored_constants(with_unique_node_names(with_functions_inlined(model, where)))
    _store_identities(copy)
    _drop_trailing_blanks(copy)
    _give_vector_biases(copy, dialect)
    _give_own_weights(copy, dialect)
    _keep_names_apart(copy)
    return copy


def _store_identities(model: ModelProto) -> None:
    """Replace Identity nodes of weights by copies of the weights.

    TorchScript's exporter shares equal weights by Identity nodes. A convolution whose bias comes from such a node would
    get no quantized bias, and ONNX Runtime would leave it float.
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    outputs = {value.name for value in model.graph.output}
    kept = []
    for node in model.graph.node:
        if node.op_type == "Identity" and node.input[0] in weights and node.output[0] not in outputs:
            weights[node.output[0]] = _stored_copy(model, weights[node.input[0]], node.output[0])
        else:
            kept.append(node)
    _replace_nodes(model, kept)


def _drop_trailing_blanks(model: ModelProto) -> None:
    """Remove empty names at the end of a node's inputs: they stand for inputs that the node does not have."""
    for node in model.graph.node:
        while node.input and not node.input[-1]:
            del node.input[-1]


def _give_vector_biases(model: ModelProto, dialect: Dialect) -> None:
    """Store the bias of each quantized Gemm as a vector. Another bias is added by an Add node."""
    weights, stored = float_weights(model), {tensor.name: tensor for tensor in model.graph.initializer}
    names = _unused_names(model)
    kept: list[NodeProto] = []
    for node in model.graph.node:
        kept.append(node)
        if node.op_type != "Gemm" or len(node.input) < 3 or why_float(node, weights, dialect):
            continue
        outputs, bias = weights[node.input[1]][1 - axis_of_inputs(node)], node.input[2]
        if weights.get(bias) == (outputs,):
            continue
        if bias in weights and math.prod(weights[bias][:-1]) == 1:  # one row, for all images
            value = numpy_helper.to_array(stored[bias]).reshape(-1)
            node.input[2] = next(names)
            vector = np.ascontiguousarray(np.broadcast_to(value, outputs))
            model.graph.initializer.append(numpy_helper.from_array(vector, node.input[2]))
        else:
            product = next(names)
            kept.append(helper.make_node("Add", [product, bias], [node.output[0]], f"{node.name}_bias"))
            del node.input[2]
            node.output[0] = product
    _replace_nodes(model, kept)


def _give_own_weights(model: ModelProto, dialect: Dialect) -> None:
    """Store a weight once for each role: quantized along an axis, a bias, or float."""
    weights, names = float_weights(model), _unused_names(model)
    roles: defaultdict[str, dict[Role, list[tuple[NodeProto, int]]]] = defaultdict(dict)
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            if name in weights:
                role = _role(node, place, not why_float(node, weights, dialect))
                roles[name].setdefault(role, []).append((node, place))
    read_inside = {name for graph in list(graphs_of(model))[1:] for node in graph.node for name in node.input}
    read_inside.update(value.name for graph in graphs_of(model) for value in graph.output)
    stored = {tensor.name: tensor for tensor in list(model.graph.initializer)}
    for name, uses in roles.items():
        kept_role = FLOAT_ROLE if FLOAT_ROLE in uses or name in read_inside else next(iter(uses))
        for role, places in uses.items():
            if role != kept_role:
                copy = _stored_copy(model, stored[name], next(names)).name
                for node, place in places:
                    node.input[place] = copy


FLOAT_ROLE: Role = ("float", None)


def _role(node: NodeProto, place: int, is_quantized: bool) -> Role:
    if not is_quantized or place not in (1, 2):
        return FLOAT_ROLE
    if place == 2:
        return "bias", node.name
    return "weight", 0 if node.op_type == "Conv" else 1 - axis_of_inputs(node)


def _keep_names_apart(model: ModelProto) -> None:
    """Rename tensors whose names are another tensor's name with a writer's suffix.

    Names of the graph's inputs and outputs stay. If such a name has the suffix, the other tensor is renamed; an input
    or output to be renamed gets an Identity node.
    """
    outside = {value.name for value in (*model.graph.input, *model.graph.output)}
    used, unused = _names_used(model), _unused_names(model)
    renamed: dict[str, str] = {}
    for name in used:
        bases = [name[: match.start()] for match in SUFFIX.finditer(name) if name[: match.start()] in used]
        if (bases or MADE_BY_CONVERTER.match(name)) and name not in outside:
            renamed.setdefault(name, next(unused))
        elif bases:
            renamed |= {base: next(unused) for base in bases if base not in renamed}
    if not renamed:
        return
    _rename(model, renamed)
    inputs = [value.name for value in model.graph.input if value.name in renamed]
    outputs = [value.name for value in model.graph.output if value.name in renamed]
    identities = [(name, renamed[name]) for name in inputs] + [(renamed[name], name) for name in outputs]
    for source, target in identities:
        model.graph.node.append(helper.make_node("Identity", [source], [target], next(unused)))
    sort_nodes(model)


def _rename(model: ModelProto, renamed: dict[str, str]) -> None:
    """Rename tensors in all nodes, also in subgraphs. Inputs and outputs of the main graph keep their names."""
    for node in nodes(model):
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    for graph in graphs_of(model):
        is_main = graph is model.graph
        for value in (*graph.value_info, *graph.initializer, *(() if is_main else (*graph.input, *graph.output))):
            value.name = renamed.get(value.name, value.name)


def _names_used(model: ModelProto) -> dict[str, None]:
    """Names of all tensors, in the order of the graph."""
    names: dict[str, None] = {}
    for graph in graphs_of(model):
        names |= dict.fromkeys(value.name for value in (*graph.input, *graph.output, *graph.initializer))
    for node in nodes(model):
        names |= dict.fromkeys(filter(None, (*node.input, *node.output)))
    return names


def _unused_names(model: ModelProto) -> Iterator[str]:
    """Names that no tensor has, and with which no tensor's name begins."""
    longest = len(NEW_NAME) + MOST_DIGITS
    similar = [name[:longest] for name in _names_used(model) if name.startswith(NEW_NAME)]
    beginnings = {name[:end] for name in similar for end in range(len(NEW_NAME), len(name) + 1)}
    for number in itertools.count():
        if (name := f"{NEW_NAME}{number}") not in beginnings:
            yield name


def _stored_copy(model: ModelProto, tensor: TensorProto, name: str) -> TensorProto:
    copy: TensorProto = model.graph.initializer.add()
    copy.CopyFrom(tensor)
    copy.name = name
    return copy


def _replace_nodes(model: ModelProto, kept: list[NodeProto]) -> None:
    del model.graph.node[:]
    model.graph.node.extend(kept)
