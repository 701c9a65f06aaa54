"""The layer of a module that each matrix product and convolution of its ONNX graph comes from."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper
from torch import Tensor, nn

from edgevit.errors import ArtifactError, listed
from edgevit.graphs.metadata import TensorRanges
from edgevit.graphs.tensors import constants_of
from edgevit.models.folding import PLAIN_LAYERS
from edgevit.models.ranges import Range, TrainedRanges
from edgevit.models.timm_models import timm_model

PRODUCTS = ("Conv", "MatMul", "Gemm")


def layers_by_output(model: ModelProto, module: nn.Module, images: Tensor) -> dict[str, str]:
    """Paths of layers in the timm model, by the output tensors of their ONNX nodes.

    A node matches the layer with the same weight, byte for byte, transposed or not, for either exporter. Layers with
    equal weights are matched in the order of their calls, which is the order of the nodes. Layers are left out that are
    not called exactly once in a pass, that change their weight first, or whose weight the exporter changed.

    Args:
        model: the ONNX export of `module`.
        images: (N, 3, H, W); one forward pass on them shows the calls of the layers.
    """
    layers = dict(timm_model(module).named_modules())
    paths: list[tuple[str, set[bytes]]] = []
    for path in _called_once(module, images, lambda layer: type(layer) in PLAIN_LAYERS):
        weight = layers[path].weight.detach().cpu().numpy()
        paths.append((path, {_digest(form) for form in (weight, weight.T if weight.ndim == 2 else weight)}))
    return _matched(_digests(model, PRODUCTS, slice(1, 2)), paths)


def norms_by_output(model: ModelProto, module: nn.Module, images: Tensor) -> dict[str, str]:
    """Paths of the layer norms in the timm model, by the output tensors of their nodes; see `layers_by_output`."""
    norms = dict(timm_model(module).named_modules())
    paths = [
        (path, {_digest(*(weight.detach().cpu().numpy() for weight in norms[path].parameters(recurse=False)))})
        for path in _called_once(module, images, lambda layer: isinstance(layer, nn.LayerNorm))
    ]
    return _matched(_digests(model, ("LayerNormalization",), slice(1, None)), paths)


def _digests(model: ModelProto, operators: Collection[str], weights: slice) -> Iterator[tuple[str, bytes]]:
    """The first output of each node of some operators, and the digest of those of its inputs that are weights."""
    constants = constants_of(model)
    for node in model.graph.node:
        if node.op_type == "Identity" and node.input[0] in constants:  # TorchScript writes it for equal weights
            constants[node.output[0]] = constants[node.input[0]]
        if node.op_type in operators and all(name in constants for name in node.input[weights]):
            yield node.output[0], _digest(*(numpy_helper.to_array(constants[name]) for name in node.input[weights]))


def _matched(nodes: Iterable[tuple[str, bytes]], layers: Iterable[tuple[str, set[bytes]]]) -> dict[str, str]:
    """Paths of layers by the outputs of nodes with the same digest, in their order; none if their numbers differ."""
    outputs, paths = defaultdict[bytes, list[str]](list), defaultdict[bytes, list[str]](list)
    for output, digest in nodes:
        outputs[digest].append(output)
    for path, forms in layers:
        for digest in forms:
            paths[digest].append(path)
    return {
        output: path
        for digest, names in outputs.items()
        if len(paths[digest]) == len(names)
        for output, path in zip(names, paths[digest], strict=True)
    }


def name_nodes(model: ModelProto, layers: Mapping[str, str]) -> None:
    """Name the nodes of a graph, in place, after their layers. `layers` is the result of `layers_by_output`."""
    for node in model.graph.node:
        if node.output and node.output[0] in layers:
            node.name = layers[node.output[0]]


def tensor_ranges(ranges: TrainedRanges, model: ModelProto, layers: Mapping[str, str], where: object) -> TensorRanges:
    """Trained ranges by tensor names of an exported graph.

    Args:
        layers: the result of `layers_by_output` for this graph.

    Raises:
        ArtifactError: a layer has ranges, and no node of the graph has its weight.
    """
    outputs = {path: output for output, path in layers.items()}
    lost = [path for path in ranges.layers if path not in outputs]
    if lost:
        raise ArtifactError(
            "trained ranges cannot be placed: no node of the exported graph holds the weight of their layer",
            where=where,
            got=listed(lost),
            next="export it with the default opset, or quantize a checkpoint from before qat",
        )
    entering = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type in PRODUCTS}
    tensors: dict[str, Range] = {}
    for path, layer in ranges.layers.items():
        tensors[entering[outputs[path]]] = layer.input
        if layer.output is not None:
            tensors[outputs[path]] = layer.output
    return TensorRanges(runtime=ranges.runtime, reduce_range=ranges.reduce_range, tensors=tensors)


@torch.no_grad()
def _called_once(module: nn.Module, images: Tensor, is_asked: Callable[[nn.Module], bool]) -> Iterable[str]:
    """Paths of the layers that are called exactly once in a forward pass, in the order of the calls."""
    called: list[str] = []
    hooks = [
        layer.register_forward_pre_hook(lambda _, __, path=path: called.append(path))
        for path, layer in timm_model(module).named_modules()
        if is_asked(layer)
    ]
    try:
        module(images)
    finally:
        for hook in hooks:
            hook.remove()
    return [path for path, calls in Counter(called).items() if calls == 1]


def _digest(*weights: NDArray[Any]) -> bytes:
    digest = hashlib.blake2b()
    for weight in weights:
        unsigned_zeros = np.ascontiguousarray(weight + 0)  # exporters merge weights that differ in the sign of zeros
        digest.update(repr(weight.shape).encode() + unsigned_zeros.tobytes())
    return digest.digest()
