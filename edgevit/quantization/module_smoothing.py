"""SmoothQuant in a module, as `smoothing` does it in the module's graph."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, numpy_helper
from torch import nn

from edgevit.models.timm_models import timm_model
from edgevit.quantization.calibration import Batches
from edgevit.quantization.smoothing import smoothing_scales


@torch.no_grad()
def smooth_module(
    module: nn.Module,
    model: ModelProto,
    layers: Mapping[str, str],
    batches: Batches,
    strength: float,
    threads: int,
    where: object,
) -> None:
    """Divide channels of layer norms and multiply the weights that read them, in place; the function stays.

    A norm stays as it is if its node, or that of a layer that reads it, belongs to no module for certain: a norm that
    is called twice, or that has the weights of another norm.

    Args:
        model: the ONNX export of `module`.
        layers: paths of layers in the timm model, by the output tensors of their nodes.
        batches, strength, threads, where: as for `smoothed`, which has the equation.

    Raises:
        ArtifactError: the graph has no norm that only products with stored weights read.
    """
    inner = timm_model(module)
    norm_of = _norms_by_node(model, inner)
    for normed, scale in smoothing_scales(model, batches, strength, threads, where):
        norm = norm_of.get(normed.node.output[0])
        readers = [layers[node.output[0]] for node in normed.products if node.output[0] in layers]
        if norm is None or len(readers) < len(normed.products):
            continue
        divisor = torch.from_numpy(scale)
        for parameter in norm.parameters(recurse=False):
            parameter.div_(divisor)
        for path in readers:
            weight = inner.get_submodule(path).weight  # (outputs, channels)
            assert isinstance(weight, nn.Parameter)
            weight.mul_(divisor)


def _norms_by_node(model: ModelProto, inner: nn.Module) -> dict[str, nn.LayerNorm]:
    """The layer norm of each LayerNormalization, by the node's output: the only pair with these weights."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    nodes: defaultdict[bytes, list[NodeProto]] = defaultdict(list)
    norms: defaultdict[bytes, list[nn.LayerNorm]] = defaultdict(list)
    for node in model.graph.node:
        if node.op_type == "LayerNormalization" and all(name in constants for name in node.input[1:]):
            nodes[_bytes(constants[name] for name in node.input[1:])].append(node)
    for norm in inner.modules():
        if isinstance(norm, nn.LayerNorm) and norm.elementwise_affine:
            norms[_bytes(parameter.numpy() for parameter in norm.parameters(recurse=False))].append(norm)
    return {
        found[0].output[0]: norms[weights][0]
        for weights, found in nodes.items()
        if len(found) == len(norms[weights]) == 1
    }


def _bytes(weights: Iterator[NDArray[np.float32]]) -> bytes:
    return b"".join(weight.tobytes() for weight in weights)
