"""A float graph in the one form that writers of Q/DQ nodes know, whichever tool wrote it."""

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

# What onnxruntime's writer, its converter to float16 and the writers here put behind the name of a tensor.
ADDED = re.compile(
    r"_(scale|zero_point|quantized|QuantizeLinear|DequantizeLinear|convert|rounded|float8|float32|restored|cast_to_fp)"
)
MADE_BY_CONVERTER = re.compile(r"graph_(input|output)_cast")
FRESH, MOST_DIGITS = "edgevit_tensor_", 20  # begins the names of new tensors; a number follows
Role = tuple[str, object]  # how a node uses a weight: nodes of one role may share it


def canonical(model: ModelProto, dialect: Dialect, where: object) -> ModelProto:
    """A copy of a model in one form, with the same outputs.

    Functions are inlined, constants are initializers, and every node has a name. A weight that nodes use in different
    ways is stored once for each way. The bias of a Gemm is a vector. No tensor has a name that a writer would give.

    Args:
        dialect: whose products and convolutions will be quantized.
        where: what errors name.

    Raises:
        ArtifactError: the functions of the model cannot be inlined.
    """
    made = with_stored_constants(with_unique_node_names(with_functions_inlined(model, where)))
    _store_identities(made)
    _drop_trailing_blanks(made)
    _give_vector_biases(made, dialect)
    _give_own_weights(made, dialect)
    _keep_names_apart(made)
    return made


def _store_identities(model: ModelProto) -> None:
    """Replace Identity nodes that hand on a weight: each becomes a weight of its own.

    TorchScript's exporter shares equal weights so. A convolution whose bias comes from such a node would get no
    quantized bias, and ONNX Runtime would leave it float.
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
    """An input without a name at the end of a node is one that the node does not have."""
    for node in model.graph.node:
        while node.input and not node.input[-1]:
            del node.input[-1]


def _give_vector_biases(model: ModelProto, dialect: Dialect) -> None:
    """Store the bias of each Gemm that will be quantized as a vector; add what is no vector by a node of its own."""
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
    """Store a weight once for each way in which nodes use it: as weights along an axis, as a bias, or as a float."""
    weights, names = float_weights(model), _unused_names(model)
    roles: defaultdict[str, dict[Role, list[tuple[NodeProto, int]]]] = defaultdict(dict)
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            if name in weights:
                role = _role(node, place, not why_float(node, weights, dialect))
                roles[name].setdefault(role, []).append((node, place))
    inside = {name for graph in list(graphs_of(model))[1:] for node in graph.node for name in node.input}
    inside.update(value.name for graph in graphs_of(model) for value in graph.output)
    stored = {tensor.name: tensor for tensor in list(model.graph.initializer)}
    for name, uses in roles.items():
        stays = FLOAT_ROLE if FLOAT_ROLE in uses or name in inside else next(iter(uses))
        for role, places in uses.items():
            if role != stays:
                own = _stored_copy(model, stored[name], next(names)).name
                for node, place in places:
                    node.input[place] = own


FLOAT_ROLE: Role = ("float", None)


def _role(node: NodeProto, place: int, is_quantized: bool) -> Role:
    if not is_quantized or place not in (1, 2):
        return FLOAT_ROLE
    if place == 2:
        return "bias", node.name
    return "weight", 0 if node.op_type == "Conv" else 1 - axis_of_inputs(node)


def _keep_names_apart(model: ModelProto) -> None:
    """Rename tensors whose names begin with another's and go on as a writer's do, and that other where it must be.

    Names of the graph's inputs and outputs stay: behind an Identity node their tensors have others.
    """
    outside = {value.name for value in (*model.graph.input, *model.graph.output)}
    used, fresh = _names_used(model), _unused_names(model)
    renamed: dict[str, str] = {}
    for name in used:
        longer = MADE_BY_CONVERTER.match(name)
        shorter = [name[: match.start()] for match in ADDED.finditer(name) if name[: match.start()] in used]
        if (longer or shorter) and name not in outside:
            renamed.setdefault(name, next(fresh))
        elif shorter:
            renamed |= {one: next(fresh) for one in shorter if one not in renamed}
    if not renamed:
        return
    _rename(model, renamed)
    inputs = [value.name for value in model.graph.input if value.name in renamed]
    results = [value.name for value in model.graph.output if value.name in renamed]
    handed_on = [(name, renamed[name]) for name in inputs] + [(renamed[name], name) for name in results]
    for source, target in handed_on:
        model.graph.node.append(helper.make_node("Identity", [source], [target], next(fresh)))
    sort_nodes(model)


def _rename(model: ModelProto, renamed: dict[str, str]) -> None:
    """Rename tensors wherever nodes name them, in subgraphs too; inputs and outputs of the main graph stay."""
    for node in nodes(model):
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    for graph in graphs_of(model):
        is_main = graph is model.graph
        for value in (*graph.value_info, *graph.initializer, *(() if is_main else (*graph.input, *graph.output))):
            value.name = renamed.get(value.name, value.name)


def _names_used(model: ModelProto) -> dict[str, None]:
    """Names of all tensors, in the order of the graph."""
    found: dict[str, None] = {}
    for graph in graphs_of(model):
        found |= dict.fromkeys(value.name for value in (*graph.input, *graph.output, *graph.initializer))
    for node in nodes(model):
        found |= dict.fromkeys(filter(None, (*node.input, *node.output)))
    return found


def _unused_names(model: ModelProto) -> Iterator[str]:
    """Names that no tensor has or goes on from."""
    longest = len(FRESH) + MOST_DIGITS
    ours = [one[:longest] for one in _names_used(model) if one.startswith(FRESH)]
    begun = {one[:end] for one in ours for end in range(len(FRESH), len(one) + 1)}
    for number in itertools.count():
        if (name := f"{FRESH}{number}") not in begun:
            yield name


def _stored_copy(model: ModelProto, tensor: TensorProto, name: str) -> TensorProto:
    copy: TensorProto = model.graph.initializer.add()
    copy.CopyFrom(tensor)
    copy.name = name
    return copy


def _replace_nodes(model: ModelProto, kept: list[NodeProto]) -> None:
    del model.graph.node[:]
    model.graph.node.extend(kept)
