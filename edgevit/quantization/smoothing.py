"""SmoothQuant: scales move large channels of activations into the weights that read them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from edgevit.errors import ArtifactError
from edgevit.graphs.tensors import without_unread_weights
from edgevit.graphs.walk import integer_attribute, read_elsewhere
from edgevit.quantization.calibration import Batches, ProbeSession

SMALLEST = 1e-5
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class _Norm:
    """A LayerNormalization that only products read, and these products."""

    node: NodeProto
    products: tuple[NodeProto, ...]

    @property
    def output(self) -> str:
        return str(self.node.output[0])


def smoothed(model: ModelProto, batches: Batches, strength: float, threads: int, where: object) -> ModelProto:
    """A copy with equal outputs, in which the channels of layer norms have similar ranges.

    Channel j of a norm's output is divided by s_j = max|X_j|^α / max|W_j|^(1-α), and row j of the weights that read it
    is multiplied by s_j. Xiao et al. 2023, "SmoothQuant", eq. 3 and 4.

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
    norms = list(_norms(copy, weights))
    if not norms:
        raise ArtifactError(
            "there is nothing to smooth",
            where=where,
            expected="a LayerNormalization whose output only products with weights read",
            next="leave smoothquant out",
        )
    largest = _largest(model, [norm.output for norm in norms], batches, threads)
    for norm in norms:
        rows = np.max([np.abs(_by_channel(node, weights)).max(1) for node in norm.products], axis=0)
        scale = largest[norm.output] ** strength / np.maximum(rows, SMALLEST) ** (1 - strength)
        scale = np.maximum(scale, SMALLEST).astype(np.float32)
        for position in range(1, len(norm.node.input)):
            _replace_input(copy, norm.node, position, numpy_helper.to_array(weights[norm.node.input[position]]) / scale)
        for node in norm.products:
            _replace_input(copy, node, 1, _as_stored(node, _by_channel(node, weights) * scale[:, None]))
    return without_unread_weights(copy)


def _norms(model: ModelProto, weights: Mapping[str, TensorProto]) -> Iterator[_Norm]:
    readers: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        for name in dict.fromkeys(node.input):
            readers.setdefault(name, []).append(node)
    elsewhere = read_elsewhere(model)
    for node in model.graph.node:
        if node.op_type != "LayerNormalization" or node.output[0] in elsewhere:
            continue
        products = tuple(readers.get(node.output[0], []))
        is_stored = all(name in weights for name in node.input[1:])
        if products and is_stored and all(_multiplies(product, node.output[0], weights) for product in products):
            yield _Norm(node, products)


def _multiplies(node: NodeProto, tensor: str, weights: Mapping[str, TensorProto]) -> bool:
    """Whether a node is a product of the tensor, not transposed, with a stored matrix."""
    is_product = node.op_type in ("MatMul", "Gemm") and not integer_attribute(node, "transA", 0)
    has_matrix = is_product and node.input[1] in weights and len(weights[node.input[1]].dims) == 2
    return has_matrix and node.input[0] == tensor


def _largest(model: ModelProto, tensors: list[str], batches: Batches, threads: int) -> dict[str, Floats]:
    """The largest magnitude of each channel, the last axis, over all images."""
    with TemporaryDirectory() as folder:
        probe = ProbeSession(model, tensors, Path(folder), threads)
        largest: dict[str, Floats] = {}
        for images in batches():
            for name, values in probe.run(images).items():
                in_batch = np.abs(values).reshape(-1, values.shape[-1]).max(0)
                largest[name] = np.maximum(largest.get(name, in_batch), in_batch)
    return largest


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
