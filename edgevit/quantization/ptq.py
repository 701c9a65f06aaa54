"""Post-training quantization: float ONNX graph → graph with Q/DQ nodes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
import onnx.version_converter
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from edgevit.configs import Calibrator, QuantizedPrecision
from edgevit.errors import ArtifactError
from edgevit.graphs.float16 import with_float16
from edgevit.graphs.guard import graph_tool
from edgevit.graphs.precision import is_quantized
from edgevit.graphs.tensors import constants_of, float_weights
from edgevit.graphs.walk import operator_counts, opset_of, read_elsewhere, sort_nodes
from edgevit.model_file import RuntimeOptions
from edgevit.quantization.calibration import Batches, Ranges, activation_ranges
from edgevit.quantization.canonical import canonical
from edgevit.quantization.dialects import (
    BLOCK,
    PLACEMENTS,
    Dialect,
    Integers,
    Placement,
    dialect_of,
    is_placed,
    why_float,
)
from edgevit.quantization.fp8_int4 import with_float8, with_int4
from edgevit.quantization.overflow import overflows_here
from edgevit.quantization.rounding import with_kept_sums
from edgevit.runtimes.float16_range import Magnitudes, beyond_float16

SIGMOID_RANGE = (0.0, 1.0)  # of outputs


@dataclass(frozen=True)
class Quantized:
    """A quantized graph, with the number of quantized and float nodes by operator."""

    model: ModelProto
    options: RuntimeOptions
    quantized_ops: dict[str, int]
    float_ops: dict[str, int]


class RoundedLayer(NamedTuple):
    """A quantized product or convolution, by the names of its tensors.

    Attributes:
        input: the activation that gets a Q/DQ pair before the node.
        output: of the node.
        rounded_output: the tensor that gets an output Q/DQ pair: the node's output, or that of the Relu or Clip folded
            into the range; None if there is none.
        shared: whether other nodes read `input` too; the writer makes them read the rounded values.
    """

    input: str
    output: str
    rounded_output: str | None
    shared: bool


@dataclass(frozen=True)
class CalibratedModel:
    """A float graph in canonical form with the ranges of the activations that a dialect quantizes.

    Attributes:
        beyond_float16: activations outside the range of float16, if the dialect's floats are float16. The nodes that
            make or read them compute in float32.
        kept_float: names of nodes that stay float.
        keeps_sums: whether int8 weights of convolutions are rounded by `with_kept_sums`; else to the nearest integers,
            as those of products are.
    """

    model: ModelProto
    dialect: Dialect
    ranges: Ranges
    where: object
    beyond_float16: Mapping[str, Magnitudes] = field(default_factory=dict)
    kept_float: frozenset[str] = frozenset()
    keeps_sums: bool = True

    @cached_property
    def integers(self) -> Mapping[str, Integers]:
        """The integers of each activation that has a range, at every placement."""
        readers = _readers(_quantizable_nodes(self.model, self.dialect))
        return {name: self.dialect.integers(bounds, readers.get(name, ())) for name, bounds in self.ranges.items()}

    def nodes(self, placement: Placement = "all") -> list[NodeProto]:
        """The products and convolutions that a placement quantizes."""
        nodes = _quantizable_nodes(self.model, self.dialect)
        return [node for node in nodes if is_placed(node, placement) and node.name not in self.kept_float]

    def layers(self) -> list[RoundedLayer]:
        """The layers that placement `all` quantizes, in the order of the graph."""
        nodes = self.nodes()
        clipped = {node.input[0]: node.output[0] for node in _clipping_nodes(nodes, self.model, self.dialect)}
        readers = Counter(name for node in self.model.graph.node if node.op_type != "Shape" for name in node.input)
        quantized_readers = Counter(node.input[0] for node in nodes)
        return [
            RoundedLayer(
                node.input[0],
                node.output[0],
                None if node.op_type in self.dialect.float_outputs else clipped.get(node.output[0], node.output[0]),
                shared=readers[node.input[0]] > quantized_readers[node.input[0]],
            )
            for node in nodes
        ]

    def placements(self) -> list[Placement]:
        """The placements that quantize different, non-empty sets of nodes."""
        by_nodes: dict[tuple[str, ...], Placement] = {}
        for placement in PLACEMENTS:
            if names := tuple(node.name for node in [*self.nodes(placement), *self._sigmoids(placement)]):
                by_nodes.setdefault(names, placement)
        return list(by_nodes.values())

    def quantized(self, placement: Placement = "all") -> Quantized:
        """The graph with Q/DQ nodes at a placement. Raises ArtifactError if the placement quantizes nothing."""
        chosen = self.nodes(placement)
        if not chosen:
            raise _nothing_to_quantize(self.model, self.dialect, self.where)
        clipping = _clipping_nodes(chosen, self.model, self.dialect)
        sigmoids = self._sigmoids(placement)
        written = self._written([*chosen, *clipping, *sigmoids])
        if self.dialect.floats == "float16":
            written = with_float16(written, self.where, self.beyond_float16)
        quantized, dropped = (Counter(node.op_type for node in nodes) for nodes in ([*chosen, *sigmoids], clipping))
        left_float = operator_counts(self.model) - quantized - dropped
        return Quantized(written, self.dialect.options, dict(quantized), dict(left_float))

    def _sigmoids(self, placement: Placement) -> list[NodeProto]:
        """The Sigmoid nodes that a placement rounds: those that read the rounded output of a convolution."""
        if placement != "sigmoid" or "Conv" in self.dialect.float_outputs:
            return []
        convolved = {node.output[0] for node in self.nodes(placement) if node.op_type == "Conv"}
        return [node for node in self.model.graph.node if node.op_type == "Sigmoid" and node.input[0] in convolved]

    def in_float16(self) -> ModelProto:
        """The graph without Q/DQ nodes, with float16 tensors."""
        return with_float16(self.model, self.where, self.beyond_float16)

    def _written(self, chosen: list[NodeProto]) -> ModelProto:
        if self.dialect.precision == "float8":
            return with_float8(self.model, chosen, self.ranges)
        if self.dialect.precision == "int4":
            return with_int4(self.model, chosen)
        rounded = with_kept_sums(self.model, chosen, self.dialect.largest_weight) if self.keeps_sums else self.model
        sigmoids = {node.output[0]: SIGMOID_RANGE for node in chosen if node.op_type == "Sigmoid"}
        return _with_qdq(rounded, chosen, {**sigmoids, **self.ranges}, self.integers, self.dialect, self.where)


def calibrated(
    model: ModelProto,
    batches: Batches,
    calibrator: Calibrator,
    runtime: str,
    threads: int,
    where: object,
    trained: Mapping[str, tuple[float, float]] | None = None,
    precision: QuantizedPrecision = "int8",
    reduce_range: bool | None = None,
) -> CalibratedModel:
    """Find the ranges of all activations that the dialect of `runtime` for `precision` quantizes.

    Args:
        batches: gives the calibration batches, equal at each call.
        where: the file or stage, for errors.
        trained: known ranges by the tensors' names. Only the other tensors are calibrated. With them, all weights are
            rounded to the nearest integers, as in quantization-aware training.
        reduce_range: whether int8 weights have 7 bits; None: where products of 8 bits overflow on this machine's CPU.

    Raises:
        ArtifactError: the graph is quantized already, its opset is too old, or there is nothing to quantize.
        DataError: there are no calibration images, or activations that are not finite.
    """
    dialect = dialect_of(runtime, precision, overflows_here(runtime) if reduce_range is None else reduce_range)
    _check_quantizable(model, dialect.oldest_opset, where)
    named = canonical(_raised(model, dialect.opset, where), dialect, where)
    nodes = _quantizable_nodes(named, dialect)
    if not nodes:
        raise _nothing_to_quantize(named, dialect, where)
    clipping = _clipping_nodes(nodes, named, dialect)
    known = dict(trained or {})
    known |= {node.output[0]: known[node.input[0]] for node in clipping if node.input[0] in known}
    tensors = _activations([*nodes, *clipping], dialect)
    unknown = [name for name in tensors if name not in known]
    readers = _readers(nodes)

    def is_symmetric(name: str, bounds: tuple[float, float]) -> bool:
        return dialect.integers(bounds, readers.get(name, ())).symmetric

    measured = activation_ranges(named, unknown, batches, calibrator, threads, is_symmetric) if unknown else {}
    ranges = {name: known.get(name) or measured[name] for name in tensors}
    beyond = beyond_float16(named, batches, threads) if dialect.floats == "float16" else {}
    return CalibratedModel(named, dialect, ranges, where, beyond, keeps_sums=trained is None)


def _nothing_to_quantize(model: ModelProto, dialect: Dialect, where: object) -> ArtifactError:
    sizes = {"int8": "", "float8": " of 16 channels or more", "int4": f" of several blocks of {BLOCK} inputs"}
    weights = float_weights(model)
    layers = [node for node in model.graph.node if node.op_type in dialect.operators]
    chosen_float = "left float by the placement, or to stay close to float"
    reasons = Counter((node.op_type, why_float(node, weights, dialect) or chosen_float) for node in layers)
    lines = [f"{count} {operator}: {reason}" for (operator, reason), count in reasons.items()]
    return ArtifactError(
        "there is nothing to quantize",
        where=where,
        got="; ".join(lines) or f"no {' or '.join(dialect.operators)}",
        expected=f"any of {', '.join(dialect.operators)} with weights{sizes[dialect.precision]}",
        next=None if dialect.precision == "int8" else "take precision: int8",
    )


def _check_quantizable(model: ModelProto, oldest_opset: int, where: object) -> None:
    if is_quantized(model):
        raise ArtifactError("the model is quantized already", where=where, expected="a float model")
    if any(tensor.data_type == TensorProto.FLOAT16 for tensor in model.graph.initializer):
        raise ArtifactError(
            "the model's weights are float16 already",
            where=where,
            expected="a float32 model",
            next="export it in float32; quantize --runtime tensorrt writes the layers that stay float in float16",
        )
    computed = {name for node in model.graph.node for name in node.output}
    if passed_through := [output.name for output in model.graph.output if output.name not in computed]:
        raise ArtifactError(
            "an output of the graph is an input or a weight of it",
            where=where,
            got=", ".join(passed_through),
            expected="outputs that nodes compute",
            next="export it without that output, or with an Identity node before it",
        )
    opset = opset_of(model)
    if opset < oldest_opset:
        raise ArtifactError(
            "the model's opset is too old for these Q/DQ nodes",
            where=where,
            got=opset,
            expected=f"opset {oldest_opset} or later",
            next="export it again with a newer opset",
        )


def _raised(model: ModelProto, opset: int, where: object) -> ModelProto:
    """The model, converted to `opset` if its own is older."""
    if opset_of(model) >= opset:
        return model
    with graph_tool(f"the model cannot be written in opset {opset}", where, f"export it again with opset: {opset}"):
        raised: ModelProto = onnx.version_converter.convert_version(model, opset)
        onnx.shape_inference.infer_shapes(raised, strict_mode=True)
    return raised


def _quantizable_nodes(model: ModelProto, dialect: Dialect) -> list[NodeProto]:
    weights = float_weights(model)
    return [node for node in model.graph.node if not why_float(node, weights, dialect)]


def _clipping_nodes(chosen: list[NodeProto], model: ModelProto, dialect: Dialect) -> list[NodeProto]:
    """The Relu and Clip nodes after convolutions that the writer drops, because the range of the output pair clips too.

    A pair before them would spend integers on values that they cut off: MobileNetV2 has 1.7 dB with it, 14 without.
    """
    if "Conv" in dialect.float_outputs:
        return []
    readers = Counter(name for node in model.graph.node for name in node.input)
    elsewhere = read_elsewhere(model)
    convolved = {node.output[0] for node in chosen if node.op_type == "Conv"}
    constants = constants_of(model)
    read_once = {name for name in convolved - elsewhere if readers[name] == 1}
    return [
        node
        for node in model.graph.node
        if node.input and node.input[0] in read_once and node.output[0] not in elsewhere and _clips(node, constants)
    ]


def _clips(node: NodeProto, constants: Mapping[str, TensorProto]) -> bool:
    """Whether a node is Relu, or Clip to an interval around 0. Every range of integers contains 0."""
    if node.op_type != "Clip":
        return node.op_type == "Relu"
    bounds = [numpy_helper.to_array(constants[name]).item() for name in node.input[1:3] if name in constants]
    return len(bounds) == 2 and bounds[0] <= 0 <= bounds[1]


def _readers(nodes: list[NodeProto]) -> Mapping[str, set[str]]:
    """The types of the nodes that read each tensor."""
    readers: defaultdict[str, set[str]] = defaultdict(set)
    for node in nodes:
        readers[node.input[0]].add(node.op_type)
    return readers


def _activations(chosen: list[NodeProto], dialect: Dialect) -> list[str]:
    """Tensors that get a Q/DQ pair, in the order of the graph."""
    tensors = dict.fromkeys(node.input[0] for node in chosen)
    tensors |= dict.fromkeys(node.output[0] for node in chosen if node.op_type not in dialect.float_outputs)
    return list(tensors)


def _with_qdq(
    model: ModelProto,
    chosen: list[NodeProto],
    ranges: Ranges,
    integers: Mapping[str, Integers],
    dialect: Dialect,
    where: object,
) -> ModelProto:
    limits = {
        name: TensorData(lowest=np.float32(low), highest=np.float32(high)) for name, (low, high) in ranges.items()
    }
    overrides = {
        name: [{"quant_type": each.type, "symmetric": each.symmetric}]
        for name, each in integers.items()
        if each != dialect.usual_integers
    }
    with graph_tool("onnxruntime's quantizer cannot write this graph", where):
        quantizer = QDQQuantizer(
            model,
            per_channel=True,
            reduce_range=dialect.reduce_range,
            weight_qType=QuantType.QInt8,
            activation_qType=dialect.activations,
            tensors_range=TensorsData(CalibrationMethod.MinMax, limits),
            nodes_to_quantize=[node.name for node in chosen],
            nodes_to_exclude=[],
            op_types_to_quantize=[*dialect.operators, "Relu", "Clip", "Sigmoid"],
            extra_options={
                **dialect.writer_options,
                "OpTypesToExcludeOutputQuantization": list(dialect.float_outputs),
                "TensorQuantOverrides": overrides,
            },
        )
        quantizer.quantize_model()
    quantized: ModelProto = quantizer.model.model
    sort_nodes(quantized)
    for output in model.graph.output:
        _skip_output_pair(quantized, output.name)
    return quantized


def _skip_output_pair(model: ModelProto, output: str) -> None:
    """If the writer put a Q/DQ pair before an output of the graph, make the pair's input the output."""
    makers = {name: node for node in model.graph.node for name in node.output}
    if makers[output].op_type != "DequantizeLinear":
        return
    unrounded = makers[makers[output].input[0]].input[0]
    renamed = {unrounded: output, output: f"{output}_rounded"}
    for node in model.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
