"""Limits of ONNX graphs: numbers of nodes, depth and sizes, checked before any other work on a graph."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import onnx
import onnx.checker
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from edgevit.errors import ArtifactError, listed
from edgevit.graphs.guard import graph_tool, with_functions_inlined, with_inferred_shapes
from edgevit.graphs.walk import graphs_of, nodes, stored_tensors, subgraphs_of

MOST_NODES = 50_000
MOST_TENSORS = 1_000_000
DEEPEST_SUBGRAPH = 16
DEEPEST_CALL = 64  # of functions and subgraphs in each other
MOST_DIMENSIONS = 32
MOST_CLASSES = 100_000
LARGEST_TENSOR_BYTES = 2**30
LARGEST_BATCH = 256  # a larger fixed batch is not divided out of the sizes
GROWTH_OF_STORED = 8  # bytes that nodes may compute from a stored byte: two int4 to two float32
SMALL_ELEMENTS = 1024  # a constant with at most so many may be a shape
CHECKER_IR = (8, 10)  # versions of the file format that onnx's checker takes, with functions and unlisted weights
BYTES_UNKNOWN = 4
INVENTED = "unk__"  # prefix of the names that inference gives to unnamed open sizes


def check_structure(model: ModelProto, where: object) -> None:
    """Check the numbers of nodes and tensors, the depth of subgraphs, and that names are UTF-8.

    Raises ArtifactError beyond a limit, before any recursion over the graph.
    """
    depth = _depth(model)
    if depth > DEEPEST_SUBGRAPH:
        raise _too_much("subgraphs are nested too deeply", where, f"{depth} levels", DEEPEST_SUBGRAPH)
    count = _nodes_inlined(model, where)
    if count > MOST_NODES:
        raise _too_much("the graph has too many nodes", where, count, MOST_NODES)
    tensors = sum(len(graph.initializer) + len(graph.value_info) for graph in graphs_of(model))
    tensors += sum(len(node.input) + len(node.output) for node in nodes(model))
    if tensors > MOST_TENSORS:
        raise _too_much("the graph names too many tensors", where, tensors, MOST_TENSORS)
    not_text = next((name for name in _names(model) if not isinstance(name, str)), None)
    if not_text is not None:
        raise ArtifactError("a name in the file is not UTF-8 text", where=where, got=repr(not_text))


def check_stored_tensors(tensors: Iterable[TensorProto], where: object) -> None:
    """Check the declared shape and type of each stored tensor against its data.

    Raises ArtifactError for a tensor that cannot be read.
    """
    for tensor in tensors:
        if min(tensor.dims, default=0) < 0 or len(tensor.dims) > MOST_DIMENSIONS:
            got = f"'{tensor.name}' {_shape_text(tensor.dims)}"
            raise ArtifactError("the shape of a stored tensor is not valid", where=where, got=got)
        with graph_tool(f"the stored tensor '{tensor.name}' cannot be read", where):
            numpy_helper.to_array(tensor)


def outline_of(model: ModelProto, where: object) -> ModelProto:
    """The checked graph with large weights as inputs, and with all types and shapes that can be inferred.

    Functions are inlined. Open sizes stay open. An output has its inferred type, or else its declared one.

    Raises:
        ArtifactError: the graph is not valid, or has a tensor of more than a GiB for one image.
    """
    outline = with_functions_inlined(_without_large_weights(model), where)
    declared = [_completed(value) for value in model.graph.output]
    del outline.graph.output[:]
    outline.graph.output.extend(declared)
    with graph_tool("the graph is not valid", where):
        onnx.checker.check_model(outline)
    inferred = _inferred(outline)
    _check_sizes(inferred, model, where)
    return inferred


def _completed(value: ValueInfoProto) -> ValueInfoProto:
    """An output with a type and a shape, which onnx's checker needs and ONNX Runtime does not."""
    completed = ValueInfoProto()
    completed.CopyFrom(value)
    if not completed.type.WhichOneof("value"):
        completed.type.tensor_type.elem_type = TensorProto.FLOAT
    if completed.type.HasField("tensor_type"):
        completed.type.tensor_type.shape.SetInParent()
    return completed


def _inferred(outline: ModelProto) -> ModelProto:
    """The outline with inferred types; for outputs too, whatever is declared, as ONNX Runtime does."""
    bare = ModelProto()
    bare.CopyFrom(outline)
    del bare.graph.output[:]
    bare.graph.output.extend(ValueInfoProto(name=value.name) for value in outline.graph.output)
    inferred = with_inferred_shapes(bare)
    if inferred is bare:  # nothing can be inferred
        return outline
    for value, declared in zip(inferred.graph.output, outline.graph.output, strict=True):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param.startswith(INVENTED):
                size.ClearField("dim_param")
        if not value.type.tensor_type.HasField("shape"):
            value.CopyFrom(declared)
    return inferred


def _depth(model: ModelProto) -> int:
    """The levels of nested subgraphs."""
    level = [node for owner in (model.graph, *model.functions) for node in owner.node]
    depth = 0
    while level := [inner for node in level for graph in subgraphs_of(node) for inner in graph.node]:
        depth += 1
    return depth


def _nodes_inlined(model: ModelProto, where: object) -> int:
    """The number of nodes after inlining. Raises ArtifactError for recursive or too deeply nested functions."""
    bodies = {(function.domain, function.name, function.overload): function.node for function in model.functions}
    sizes: dict[tuple[str, str, str], tuple[int, int]] = {}
    open_calls: set[tuple[str, str, str]] = set()

    def check_depth(levels: int) -> None:
        if levels > DEEPEST_CALL:
            what = "functions and subgraphs are nested too deeply"
            raise _too_much(what, where, f"more than {DEEPEST_CALL} levels", DEEPEST_CALL)

    def size_of(body: Iterable[NodeProto], above: int) -> tuple[int, int]:
        """The number of nodes, and the levels of functions and subgraphs below them."""
        check_depth(above)
        count, levels = 0, 0
        for node in body:
            key = (node.domain, node.op_type, node.overload)
            inner = [size_of(graph.node, above + 1) for graph in subgraphs_of(node)]
            inner += [size_of_function(key, above + 1)] if key in bodies else []
            count += 1 + sum(inner_count for inner_count, _ in inner)
            levels = max([levels, *(1 + inner_levels for _, inner_levels in inner)])
        check_depth(above + levels)
        return count, levels

    def size_of_function(key: tuple[str, str, str], above: int) -> tuple[int, int]:
        if key in open_calls:
            raise ArtifactError("functions of the model call each other recursively", where=where, got="::".join(key))
        if key not in sizes:
            open_calls.add(key)
            sizes[key] = size_of(bodies[key], above)
            open_calls.remove(key)
        return sizes[key]

    return size_of(model.graph.node, 0)[0]


def _names(model: ModelProto) -> Iterator[object]:
    """Every name that this package reads. protobuf gives bytes for a name that is not UTF-8."""
    for imports in (model.opset_import, *(function.opset_import for function in model.functions)):
        yield from (entry.domain for entry in imports)
    for function in model.functions:
        yield from (function.domain, function.name, *function.input, *function.output, *function.attribute)
    for node in nodes(model):
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        for attribute in node.attribute:
            yield from (attribute.name, attribute.ref_attr_name)
    for graph in graphs_of(model):
        yield from _names_in(graph)


def _names_in(graph: GraphProto) -> Iterator[object]:
    yield graph.name
    yield from (tensor.name for tensor in graph.initializer)
    yield from (tensor.values.name for tensor in graph.sparse_initializer)
    for value in (*graph.input, *graph.output, *graph.value_info):
        yield value.name
        yield from (size.dim_param for size in value.type.tensor_type.shape.dim)


def _without_large_weights(model: ModelProto) -> ModelProto:
    outline = ModelProto(opset_import=model.opset_import, functions=model.functions)
    outline.ir_version = min(max(model.ir_version, CHECKER_IR[0]), CHECKER_IR[1])
    graph = outline.graph
    graph.name = model.graph.name or "graph"
    for field in ("node", "output", "value_info"):
        getattr(graph, field).extend(getattr(model.graph, field))
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) <= SMALL_ELEMENTS:
            graph.initializer.add().CopyFrom(tensor)
        else:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    for sparse in model.graph.sparse_initializer:
        values = sparse.values
        graph.input.append(helper.make_tensor_value_info(values.name, values.data_type, list(sparse.dims)))
    weights = {weight.name for weight in (*graph.input, *graph.initializer)}
    graph.input.extend(value for value in model.graph.input if value.name not in weights)
    return outline


def _check_sizes(inferred: ModelProto, model: ModelProto, where: object) -> None:
    """Raise ArtifactError for a tensor, or for computed constants together, of more than LARGEST_TENSOR_BYTES.

    An open size and a fixed batch count as 1. The limit of computed constants grows with the stored bytes.
    """
    inputs = {value.name for value in model.graph.input}
    constant, computed = _computed_constants(inferred, inputs)
    batch = _fixed_batch(inputs, inferred)
    for value in _typed_values(inferred):
        first = next(iter(value.type.tensor_type.shape.dim), None)
        is_batched = first is not None and first.dim_value == batch and value.name not in constant
        size = _bytes_of(value) // (batch if is_batched else 1)
        if size > LARGEST_TENSOR_BYTES:
            got = f"'{value.name}', {_gib(size)}"
            raise _too_much("a tensor of the graph is too large", where, got, _gib(LARGEST_TENSOR_BYTES))
    stored = sum(_bytes(tensor.dims, tensor.data_type) for tensor in stored_tensors(model))
    if computed > (most := LARGEST_TENSOR_BYTES + GROWTH_OF_STORED * stored):
        raise _too_much("the constants that nodes compute are too large", where, _gib(computed), _gib(most))


def _computed_constants(model: ModelProto, inputs: set[str]) -> tuple[set[str], int]:
    """Names of the constants of the main graph, and the bytes of the constants that nodes compute."""
    sizes = {value.name: _bytes_of(value) for value in _typed_values(model)}
    constant = {value.name for value in (*model.graph.initializer, *model.graph.input)} - inputs
    computed = 0
    for node in model.graph.node:
        if all(name in constant for name in node.input if name):
            constant.update(node.output)
            computed += sum(sizes.get(name, 0) for name in node.output)
    return constant, computed


def _fixed_batch(inputs: set[str], model: ModelProto) -> int:
    """The batch size that an input, or else an output, fixes; 1 if it is open or larger than LARGEST_BATCH."""
    values = [*(value for value in model.graph.input if value.name in inputs), *model.graph.output]
    sizes = [value.type.tensor_type.shape.dim[0].dim_value for value in values if value.type.tensor_type.shape.dim]
    return next((size for size in sizes if 1 <= size <= LARGEST_BATCH), 1)


def _typed_values(model: ModelProto) -> Iterator[ValueInfoProto]:
    for graph in graphs_of(model):
        yield from (*graph.input, *graph.output, *graph.value_info)


def _bytes_of(value: ValueInfoProto) -> int:
    tensor = value.type.tensor_type
    if len(tensor.shape.dim) > MOST_DIMENSIONS:
        return LARGEST_TENSOR_BYTES + 1
    return _bytes([size.dim_value if size.HasField("dim_value") else 1 for size in tensor.shape.dim], tensor.elem_type)


def _bytes(sizes: Iterable[int], element_type: int) -> int:
    try:
        width = helper.tensor_dtype_to_np_dtype(element_type).itemsize
    except KeyError:
        width = BYTES_UNKNOWN
    return int(math.prod(max(size, 1) for size in sizes) * width)


def _gib(size: int) -> str:
    return f"{size / 2**30:.3g} GiB"


def _shape_text(sizes: Iterable[int]) -> str:
    return f"({listed([str(size) for size in sizes])})"


def _too_much(what: str, where: object, got: object, most: object) -> ArtifactError:
    return ArtifactError(what, where=where, got=got, expected=f"at most {most}")
