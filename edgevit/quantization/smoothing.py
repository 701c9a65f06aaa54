"""SmoothQuant: large channels of activations are handed over to the weights behind them, where they do less harm."""

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
    """A LayerNormalization and the products that read it, which nothing else does."""

    node: NodeProto
    products: tuple[NodeProto, ...]

    @property
    def output(self) -> str:
        return str(self.node.output[0])


def smoothed(model: ModelProto, batches: Batches, strength: float, threads: int, where: object) -> ModelProto:
    """The same function with its layer norms' channels made more alike, for the products behind them to make up for.

    Channel j of a norm's output is divided by s_j = max|X_j|^α / max|W_j|^(1-α), and row j of the weights that read it
    multiplied by that. Xiao et al. 2023, "SmoothQuant", eq. 3 and 4.

    Args:
        batches: input batches, for the largest values of each channel.
        strength: α, from 0 (all to the activations) to 1 (all to the weights).
        where: what errors name.

    Raises:
        ArtifactError: no norm is read by products with stored weights alone.
    """
    made = ModelProto()
    made.CopyFrom(model)
    weights = {tensor.name: tensor for tensor in made.graph.initializer}
    norms = list(_norms(made, weights))
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
            _give(made, norm.node, position, numpy_helper.to_array(weights[norm.node.input[position]]) / scale)
        for node in norm.products:
            _give(made, node, 1, _as_stored(node, _by_channel(node, weights) * scale[:, None]))
    return without_unread_weights(made)


def _norms(model: ModelProto, weights: Mapping[str, TensorProto]) -> Iterator[_Norm]:
    readers: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        for name in dict.fromkeys(node.input):
            readers.setdefault(name, []).append(node)
    not_alone = read_elsewhere(model)
    for node in model.graph.node:
        if node.op_type != "LayerNormalization" or node.output[0] in not_alone:
            continue
        behind = tuple(readers.get(node.output[0], []))
        stored = all(name in weights for name in node.input[1:])
        if behind and stored and all(_takes(one, node.output[0], weights) for one in behind):
            yield _Norm(node, behind)


def _takes(node: NodeProto, tensor: str, weights: Mapping[str, TensorProto]) -> bool:
    """Whether a node is a product of the tensor, as it is, with a stored matrix."""
    is_product = node.op_type in ("MatMul", "Gemm") and not integer_attribute(node, "transA", 0)
    has_matrix = is_product and node.input[1] in weights and len(weights[node.input[1]].dims) == 2
    return has_matrix and node.input[0] == tensor


def _largest(model: ModelProto, tensors: list[str], batches: Batches, threads: int) -> dict[str, Floats]:
    """The largest magnitude of each channel, the last axis, over all images."""
    with TemporaryDirectory() as folder:
        probe = ProbeSession(model, tensors, Path(folder), threads)
        found: dict[str, Floats] = {}
        for images in batches():
            for name, values in probe.run(images).items():
                largest = np.abs(values).reshape(-1, values.shape[-1]).max(0)
                found[name] = np.maximum(found.get(name, largest), largest)
    return found


def _by_channel(node: NodeProto, weights: Mapping[str, TensorProto]) -> Floats:
    """A product's weights, (channels of its input, outputs)."""
    return _as_stored(node, numpy_helper.to_array(weights[node.input[1]]))


def _as_stored(node: NodeProto, matrix: Floats) -> Floats:
    return matrix.T if integer_attribute(node, "transB", 0) else matrix


def _give(model: ModelProto, node: NodeProto, position: int, values: Floats) -> None:
    """Values of its own in place of a tensor that other nodes may share."""
    name = f"{node.input[position]}_smoothed_for_{node.output[0]}"
    model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values, np.float32), name))
    node.input[position] = name
