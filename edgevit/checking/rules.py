"""TensorRT's rules for a quantized graph.

From NVIDIA's "Working with Quantized Types" (explicit quantization), and from refusals of its parser and builder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from typing import Literal

import numpy as np
from onnx import NodeProto, TensorProto, numpy_helper

from edgevit.checking.float16 import float16_magnitudes
from edgevit.errors import ArtifactError
from edgevit.graphs.float16 import LARGEST
from edgevit.graphs.graph import INT8, LAYOUT, PAIR, PRODUCTS, Graph
from edgevit.graphs.norms import OLDEST_OPSET, WrittenOutNorm, written_out_norms
from edgevit.graphs.types import type_name
from edgevit.graphs.walk import integer_attribute, nodes
from edgevit.quantization.dialects import fills_tiles
from edgevit.runtimes.float16_range import HEADROOM

QUANTIZED_TYPES = (INT8, TensorProto.FLOAT8E4M3FN, TensorProto.INT4, getattr(TensorProto, "FLOAT4E2M1", -1))
FUSED_HEAD, FUSED_TOKENS = (16, 32, 64), 512
INT4_BLOCKS = (64, 128)


@dataclass(frozen=True)
class Diagnostic:
    """One place where a graph breaks a rule.

    Attributes:
        level: "error" if TensorRT refuses the node, runs it in float or computes something else; "warning" if the node
            costs time.
        what: the break of the rule, as a sentence.
        next: the next step.
    """

    rule: str
    level: Literal["error", "warning"]
    node: str
    what: str
    next: str


Rule = Callable[[Graph], Iterator[Diagnostic]]


def tensorrt_diagnostics(graph: Graph) -> list[Diagnostic]:
    """The diagnostics of all rules, errors first."""
    diagnostics = [diagnostic for rule in RULES for diagnostic in rule(graph)]
    return sorted(diagnostics, key=lambda diagnostic: diagnostic.level)


def symmetric(graph: Graph) -> Iterator[Diagnostic]:
    """Zero points are 0."""
    for node in graph.of_type(*PAIR):
        zero = graph.constants.get(node.input[2]) if len(node.input) > 2 else None
        if zero is not None and _array(zero).any():
            yield Diagnostic(
                "symmetric",
                "error",
                node.name,
                f"its zero point is {_first_nonzero(_array(zero))}, not 0",
                QUANTIZE_AGAIN,
            )


def integer_type(graph: Graph) -> Iterator[Diagnostic]:
    """Quantized types are int8, float8 or int4; not uint8, not 16 bits, and not int32 for a bias."""
    for node in graph.of_type("DequantizeLinear"):
        stored = graph.stored_type(node)
        if stored is None or stored in QUANTIZED_TYPES:
            continue
        next_step = "leave biases float" if stored == TensorProto.INT32 else QUANTIZE_AGAIN
        yield Diagnostic("integer_type", "error", node.name, f"it reads {type_name(stored)}, not int8", next_step)


def tensor_scale(graph: Graph) -> Iterator[Diagnostic]:
    """An activation has one scale; only weights may have one per channel."""
    for node in graph.of_type(*PAIR):
        scale = graph.constants.get(node.input[1])
        if scale is not None and int(np.prod(scale.dims)) > 1 and not graph.is_weight(node.input[0]):
            what = f"an activation has {int(np.prod(scale.dims))} scales"
            yield Diagnostic("tensor_scale", "error", node.name, what, "quantize activations per tensor")


def output_channel_axis(graph: Graph) -> Iterator[Diagnostic]:
    """The scales of a convolution's weights are along its output channels."""
    for node in graph.of_type("Conv", "ConvTranspose"):
        pair = graph.maker.get(node.input[1])
        scale = graph.constants.get(pair.input[1]) if pair is not None and len(pair.input) > 1 else None
        if pair is None or pair.op_type != "DequantizeLinear" or scale is None or int(np.prod(scale.dims)) == 1:
            continue
        if integer_attribute(pair, "block_size", 0):
            continue
        expected, axis = (0 if node.op_type == "Conv" else 1), integer_attribute(pair, "axis", 1)
        shape = graph.shape(node.input[1]) or graph.shape(pair.input[0])
        axis = axis + len(shape) if axis < 0 and shape else axis
        if axis != expected:
            what = f"the scales of its weights are along axis {axis}, its output channels along {expected}"
            yield Diagnostic("output_channel_axis", "error", node.name, what, QUANTIZE_AGAIN)


def int4_weights(graph: Graph) -> Iterator[Diagnostic]:
    """INT4 is for weights of products alone, in blocks of 64 or 128 of their inputs."""
    for node in graph.of_type("DequantizeLinear"):
        if graph.stored_type(node) != TensorProto.INT4:
            continue
        other_readers = sorted({reader.op_type for reader in graph.readers[node.output[0]]} - {"MatMul", "Gemm"})
        block = integer_attribute(node, "block_size", 0)
        if not graph.is_weight(node.input[0]):
            yield Diagnostic("int4_weights", "error", node.name, "an activation is int4", "leave activations float")
        elif other_readers:
            what = f"int4 weights are read by {', '.join(other_readers)}, which is not a product"
            yield Diagnostic("int4_weights", "error", node.name, what, "leave these weights float")
        elif block not in INT4_BLOCKS:
            what = f"int4 weights in {f'blocks of {block}' if block else 'no blocks'}, not of 64 or 128"
            yield Diagnostic("int4_weights", "warning", node.name, what, QUANTIZE_AGAIN)


def both_operands(graph: Graph) -> Iterator[Diagnostic]:
    """A product with quantized weights has a quantized activation; otherwise it stays float.

    A quantized activation with float weights is fine: a float product may read the INT8 output of another layer.
    """
    for node in graph.of_type(*PRODUCTS):
        ends = [graph.pair_end(name) for name in node.input[:2]]
        weights = [end for end in ends if end is not None and graph.is_weight(end.input[0])]
        if None in ends and weights and graph.stored_type(weights[0]) != TensorProto.INT4:
            what = "its weights are quantized, its activation is not: it stays float"
            yield Diagnostic("both_operands", "warning", node.name, what, QUANTIZE_AGAIN)


def used_pair(graph: Graph) -> Iterator[Diagnostic]:
    """A Q/DQ pair that no product reads rounds without gain, and may prevent fusions."""
    for node in graph.of_type("DequantizeLinear"):
        readers = graph.readers[node.output[0]]
        operators = {reader.op_type for reader in readers}
        if readers and not graph.is_weight(node.input[0]) and not operators.intersection(GAINS_BY_INT8):
            what = f"only {', '.join(sorted(operators))} reads it"
            yield Diagnostic("used_pair", "warning", node.name, what, "leave this tensor float")


def plain_operators(graph: Graph) -> Iterator[Diagnostic]:
    """All operators are ONNX's own, and none has integers inside (QLinearConv, MatMulInteger)."""
    for node in nodes(graph.model):
        if node.domain not in ("", "ai.onnx"):
            what, next_step = f"{node.domain}::{node.op_type} is not an operator of ONNX", "export it for tensorrt"
        elif node.op_type.startswith(("QLinear", "DynamicQuantize")) or node.op_type.endswith("Integer"):
            what, next_step = f"{node.op_type} has integers inside", QUANTIZE_AGAIN
        else:
            continue
        yield Diagnostic("plain_operators", "error", node.name, what, next_step)


def static_shapes(graph: Graph) -> Iterator[Diagnostic]:
    """Only the batch size is open."""
    for value in graph.model.graph.input:
        dims = value.type.tensor_type.shape.dim
        if value.name in graph.constants:
            continue
        open_sizes = [axis for axis, dim in enumerate(dims) if axis and not dim.HasField("dim_value")]
        if open_sizes:
            what = f"sizes {', '.join(map(str, open_sizes))} of the input '{value.name}' are open"
            yield Diagnostic("static_shapes", "error", value.name, what, "export it with a fixed image size")


def worthwhile_product(graph: Graph) -> Iterator[Diagnostic]:
    """Products and convolutions of 8 bits fill the tiles of tensor cores."""
    for node in graph.of_type(*PRODUCTS):
        weight = graph.shape(node.input[1])
        if graph.asked_precision(node) not in ("int8", "float8") or not weight or not graph.is_weight(node.input[1]):
            continue
        sizes = [size for size in weight if size is not None]
        if len(sizes) == len(weight) and not fills_tiles(node, sizes):
            what = f"weights of {' × '.join(map(str, sizes))} do not fill tiles"
            yield Diagnostic("worthwhile_product", "warning", node.name, what, "leave it float, and measure both")


def fusible_attention(graph: Graph) -> Iterator[Diagnostic]:
    """Attention in INT8 fuses with heads of 16, 32 or 64 and up to 512 tokens."""
    for softmax in (node for node in graph.attentions if node.op_type == "Softmax"):
        product = graph.maker.get(_before(softmax, graph))
        if product is None or product.op_type != "MatMul" or graph.asked_precision(product) != "int8":
            continue
        head, tokens = _last(graph.shape(product.input[0])), _last(graph.shape(product.output[0]))
        if (head is not None and head not in FUSED_HEAD) or (tokens is not None and tokens > FUSED_TOKENS):
            what = f"INT8 attention over {tokens} tokens with heads of {head} does not fuse"
            yield Diagnostic("fusible_attention", "warning", product.name, what, "leave both its products float")


def float16_range(graph: Graph) -> Iterator[Diagnostic]:
    """Float16 tensors stay below 65504, with headroom for other images."""
    try:
        measured = float16_magnitudes(graph)
    except ArtifactError as error:
        what = f"the range of its float16 tensors was not measured: {error.what} ({error.got})"
        yield Diagnostic("float16_range", "warning", graph.model.graph.name, what, FROM_FLOAT32)
        return
    for name, magnitude in measured.items():
        if magnitude.overflows and name in graph.maker:
            reached = f"its float16 output '{name}' reaches {magnitude.largest:.5g} on a random image"
            if magnitude.largest >= INFINITE:
                level: Literal["error", "warning"] = "error"
                what = f"{reached}; {LARGEST:.0f} is the largest"
            else:
                level = "warning"
                what = f"{reached}; {HEADROOM:g} times as much, as other images may give, exceeds {LARGEST:.0f}"
            yield Diagnostic("float16_range", level, graph.maker[name].name, what, FROM_FLOAT32)


def float16_norm(graph: Graph) -> Iterator[Diagnostic]:
    """Written-out norms are float32, at least from the squares to their root.

    A layer norm in float16 is an error. Another norm is an error if a random image gives it values beyond 255.
    """
    norms = [
        norm
        for norm in written_out_norms(graph.model)
        if any(graph.element_type(name) == TensorProto.FLOAT16 for name in norm.squares)
    ]
    roots = {norm.node: _root_of_squares(norm, graph) for norm in norms if not norm.centered}
    measured = _measured_or_none(graph, set(roots.values())) if roots else {}
    for norm in norms:
        largest = measured.get(roots.get(norm.node, ""), 0.0)
        if norm.centered:
            what = f"a layer norm is written out in float16: {OVERFLOWING_SQUARE}"
            yield Diagnostic("float16_norm", "error", norm.node, what, WHOLE_NORM)
        elif largest > LARGEST_TO_SQUARE:
            what = f"a norm is written out in float16: the square of {largest:.4g} on a random image overflows"
            yield Diagnostic("float16_norm", "error", norm.node, what, FLOAT32_NORM)
        else:
            what = f"a norm is written out in float16: {OVERFLOWING_SQUARE}, as other images may give"
            yield Diagnostic("float16_norm", "warning", norm.node, what, FLOAT32_NORM)


RULES: tuple[Rule, ...] = (
    plain_operators,
    static_shapes,
    symmetric,
    integer_type,
    tensor_scale,
    output_channel_axis,
    int4_weights,
    both_operands,
    used_pair,
    worthwhile_product,
    fusible_attention,
    float16_range,
    float16_norm,
)
INFINITE = 65520.0  # float16 rounds smaller values down to 65504
FROM_FLOAT32 = "write it from the float32 model by `export --precision float16` or `quantize --runtime tensorrt`"
OVERFLOWING_SQUARE = "the square of a value beyond 255 overflows"
LARGEST_TO_SQUARE = LARGEST**0.5
FLOAT32_NORM = "leave this norm in float32; `export --precision float16` and `quantize --runtime tensorrt` do"
WHOLE_NORM = (
    f"export it with opset {OLDEST_OPSET} or later, where a layer norm is one operator, or leave this norm in float32; "
    "`export --precision float16` and `quantize --runtime tensorrt` do both"
)
QUANTIZE_AGAIN = "quantize the float model with --runtime tensorrt"
# Operators that run in INT8, or pass integers on to operators that do.
GAINS_BY_INT8 = (*PRODUCTS, *LAYOUT, "Add", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat", "Split", "Slice")


def _root_of_squares(norm: WrittenOutNorm, graph: Graph) -> str:
    """The tensor whose square is the norm's first float16 square: its input, or the root that ReduceL2 gives."""
    square = graph.maker[norm.squares[0]]
    return str(square.output[0] if square.op_type == "ReduceL2" else square.input[0])


def _measured_or_none(graph: Graph, names: Set[str]) -> dict[str, float]:
    """The largest magnitudes of float16 tensors; empty if they cannot be measured, as `float16_range` says."""
    try:
        return {name: magnitude.largest for name, magnitude in float16_magnitudes(graph, names).items()}
    except ArtifactError:
        return {}


def _before(softmax: NodeProto, graph: Graph) -> str:
    """The tensor that enters a softmax, before scales and masks."""
    name = softmax.input[0]
    while (maker := graph.maker.get(name)) is not None and maker.op_type in ("Add", "Mul", "Div", "Cast", *PAIR):
        name = next((operand for operand in maker.input if operand not in graph.constants), maker.input[0])
    return str(name)


def _last(shape: tuple[int | None, ...] | None) -> int | None:
    return shape[-1] if shape else None


def _array(tensor: TensorProto) -> np.ndarray:
    return np.asarray(numpy_helper.to_array(tensor))


def _first_nonzero(values: np.ndarray) -> str:
    flat = values.reshape(-1)
    return str(flat[np.flatnonzero(flat)[0]])
