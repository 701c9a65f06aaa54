"""SmoothQuant: scales move large channels of activations into the weights that read them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from edgevit.errors import ArtifactError, listed
from edgevit.graphs.index import GraphIndex
from edgevit.graphs.tensors import without_unread_weights
from edgevit.graphs.walk import integer_attribute, read_elsewhere
from edgevit.quantization.calibration import Batches, ProbeSession

SMALLEST = 1e-5
AUTOMATIC = 0.5  # the strength where a model has outlier channels
LEAVE_OUT = "leave smoothquant out"
GAIN_DB = 0.5  # least gain of SQNR for which a model with outlier channels is smoothed
OUTLIER = 8.0  # times the median channel; a median channel has 16 of INT8's 127 magnitudes then
LOOKED_AT = 32  # images
# Operators that choose tokens or average them, with the input that holds their axes; Gather has an attribute.
TOKEN_OPERATORS = {"Gather": None, "ReduceMean": 1, "Slice": 3, "Squeeze": 1}
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class NormedProducts:
    """A LayerNormalization and the products that read its channels, directly or behind a choice of tokens."""

    node: NodeProto
    products: tuple[NodeProto, ...]

    @property
    def inputs(self) -> list[str]:
        """Names of the tensors that enter the products."""
        return list(dict.fromkeys(product.input[0] for product in self.products))


def smoothed(model: ModelProto, batches: Batches, strength: float, threads: int, where: object) -> ModelProto:
    """A copy with equal outputs, in which the channels of layer norms have similar ranges.

    Channel j of a norm's output is divided by s_j = max|X_j|^α / max|W_j|^(1-α), and row j of the weights that read it
    is multiplied by s_j. Xiao et al. 2023, "SmoothQuant", eq. 3 and 4. Operators that choose or average tokens, such as
    the choice of the class token, may stand between a norm and its products.

    Args:
        batches: input batches, for the largest values of each channel.
        strength: α. With 0, the activations have the whole range of each channel; with 1, the weights have it.
        where: the file or stage, for errors.

    Raises:
        ArtifactError: there is no norm that only products with stored weights read.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    weights = {tensor.name: tensor for tensor in copy.graph.initializer}
    for norm, scale in smoothing_scales(copy, batches, strength, threads, where):
        for position in range(1, len(norm.node.input)):
            weight: Floats = numpy_helper.to_array(weights[norm.node.input[position]])
            _replace_input(copy, norm.node, position, weight / scale)
        for node in norm.products:
            _replace_input(copy, node, 1, _as_stored(node, _by_channel(node, weights) * scale[:, None]))
    return without_unread_weights(copy)


def smoothing_scales(
    model: ModelProto, batches: Batches, strength: float, threads: int, where: object
) -> list[tuple[NormedProducts, Floats]]:
    """The norms of a model that `smoothed` changes, each with s, (channels,). For arguments and errors see there."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    norms = list(_norms(model, weights))
    if not norms:
        raise ArtifactError(
            "there is nothing to smooth",
            where=where,
            expected="a LayerNormalization whose output only products with weights read",
            next=LEAVE_OUT,
        )
    largest = _largest(model, norms, batches, threads)
    scales = []
    for norm in norms:
        rows = np.max([np.abs(_by_channel(node, weights)).max(1) for node in norm.products], axis=0)
        scale = largest[norm.node.output[0]] ** strength / np.maximum(rows, SMALLEST) ** (1 - strength)
        scales.append((norm, np.maximum(scale, SMALLEST).astype(np.float32)))
    return scales


def outlier_channels(model: ModelProto, batches: Batches, threads: int) -> dict[str, float]:
    """The products whose inputs have a channel at least OUTLIER times as large as the median channel, with the ratio.

    Only products that `smoothed` changes count. They come in the order of the graph. The key is the node's name, or its
    output's name if it has none.

    Args:
        batches: input batches; the first LOOKED_AT images give the largest values of each channel.
    """
    norms = list(_norms(model, {tensor.name: tensor for tensor in model.graph.initializer}))
    largest = _largest(model, norms, lambda: _first_batches(batches()), threads) if norms else {}
    ratios: dict[str, float] = {}
    for norm in norms:
        channels = largest[norm.node.output[0]]
        ratio = float(channels.max() / max(np.median(channels), SMALLEST))
        if ratio >= OUTLIER:
            ratios |= dict.fromkeys((product.name or product.output[0] for product in norm.products), ratio)
    return ratios


def outliers_text(ratios: Mapping[str, float]) -> str:
    """The layers of `outlier_channels` with their ratios, as a sentence."""
    layers = [f"{name} ({ratio:.3g} times)" for name, ratio in ratios.items()]
    count = "1 layer" if len(layers) == 1 else f"{len(layers)} layers"
    return f"one channel is far larger than the median in {count}: {listed(layers, shown=3)}"


def comparison_text(before_db: float, after_db: float, is_used: bool) -> str:
    """Both SQNRs of a model that was smoothed by itself, and whether it stays so."""
    used = "used" if is_used else "not used"
    return f"SQNR: {before_db:.1f} dB without smoothquant, {after_db:.1f} dB with {AUTOMATIC:g} ({used})"


def _first_batches(batches: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
    """The first batches that hold LOOKED_AT images together; all batches if they hold fewer."""
    left = LOOKED_AT
    for batch in batches:
        yield batch
        left -= len(batch)
        if left <= 0:
            return


def _norms(model: ModelProto, weights: Mapping[str, TensorProto]) -> Iterator[NormedProducts]:
    graph, elsewhere = GraphIndex(model), read_elsewhere(model)
    for node in graph.of_type("LayerNormalization"):
        products = _products_behind(node.output[0], graph, weights, elsewhere)
        if products and all(name in weights for name in node.input[1:]):
            yield NormedProducts(node, tuple(products))


def _products_behind(
    tensor: str, graph: GraphIndex, weights: Mapping[str, TensorProto], elsewhere: Set[str]
) -> list[NodeProto]:
    """The products that read a tensor, directly or behind a choice of tokens; none if anything else reads it."""
    products: list[NodeProto] = []
    for reader in graph.readers[tensor]:
        if _multiplies(reader, tensor, weights):
            products.append(reader)
        elif _keeps_channels(reader, tensor, graph) and (
            behind := _products_behind(reader.output[0], graph, weights, elsewhere)
        ):
            products += behind
        else:
            return []
    return [] if tensor in elsewhere else products


def _keeps_channels(node: NodeProto, tensor: str, graph: GraphIndex) -> bool:
    """Whether a node chooses or averages tokens: each channel, the last axis, comes from that channel alone."""
    shape = graph.shape(tensor)
    if node.op_type not in TOKEN_OPERATORS or node.input[0] != tensor or shape is None:
        return False
    axes = _axes(node, graph)
    return bool(axes) and all(axis not in (-1, len(shape) - 1) for axis in axes)


def _axes(node: NodeProto, graph: GraphIndex) -> list[int]:
    """The axes that a token operator works on; empty if the graph does not store them."""
    place = TOKEN_OPERATORS[node.op_type]
    if place is None:
        return [integer_attribute(node, "axis", 0)]
    if len(node.input) > place:
        stored = graph.constants.get(node.input[place])
        return [] if stored is None else [int(axis) for axis in numpy_helper.to_array(stored).reshape(-1)]
    return [axis for attribute in node.attribute if attribute.name == "axes" for axis in attribute.ints]


def _multiplies(node: NodeProto, tensor: str, weights: Mapping[str, TensorProto]) -> bool:
    """Whether a node is a product of the tensor, not transposed, with a stored matrix."""
    is_product = node.op_type in ("MatMul", "Gemm") and not integer_attribute(node, "transA", 0)
    has_matrix = is_product and node.input[1] in weights and len(weights[node.input[1]].dims) == 2
    return has_matrix and node.input[0] == tensor


def _largest(model: ModelProto, norms: Sequence[NormedProducts], batches: Batches, threads: int) -> dict[str, Floats]:
    """The largest magnitude of each channel over all images and products, by the name of the norm's output."""
    tensors = list(dict.fromkeys(name for norm in norms for name in norm.inputs))
    by_tensor: dict[str, Floats] = {}
    with TemporaryDirectory() as folder:
        probe = ProbeSession(model, tensors, Path(folder), threads)
        for images in batches():
            for name, values in probe.run(images).items():
                in_batch = np.abs(values).reshape(-1, values.shape[-1]).max(0)
                by_tensor[name] = np.maximum(by_tensor.get(name, in_batch), in_batch)
    return {norm.node.output[0]: np.max([by_tensor[name] for name in norm.inputs], axis=0) for norm in norms}


def _by_channel(node: NodeProto, weights: Mapping[str, TensorProto]) -> Floats:
    """A product's weights, (channels of its input, outputs)."""
    return _as_stored(node, numpy_helper.to_array(weights[node.input[1]]))


def _as_stored(node: NodeProto, matrix: Floats) -> Floats:
    return matrix.T if integer_attribute(node, "transB", 0) else matrix


def _replace_input(model: ModelProto, node: NodeProto, position: int, values: Floats) -> None:
    """Store values as a new weight, and make one node read it in place of a weight that other nodes may share."""
    name = f"{node.input[position]}_smoothed_for_{node.output[0]}"
    model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values, np.float32), name))
    node.input[position] = name
