"""SmoothQuant in a module, as `smoothing` does it in the module's graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import torch
from onnx import ModelProto
from torch import nn

from edgevit.models.timm_models import timm_model
from edgevit.quantization.calibration import Batches
from edgevit.quantization.smoothing import smoothing_scales


@torch.no_grad()
def smooth_module(
    module: nn.Module,
    model: ModelProto,
    paths: Mapping[str, str],
    batches: Batches,
    strength: float,
    threads: int,
    where: object,
) -> int:
    """Divide channels of layer norms and multiply the weights that read them, in place; the function stays.

    A norm stays as it is if `paths` lacks it or a layer that reads it, or if a layer shares its weight with another.

    Args:
        model: the ONNX export of `module`.
        paths: paths of norms and layers in the timm model, by the output tensors of their nodes.
        batches, strength, threads, where: as for `smoothed`, which has the equation.

    Returns:
        The number of norms that are smoothed.

    Raises:
        ArtifactError: the graph has no norm that only products with stored weights read.
    """
    inner, count = timm_model(module), 0
    owners = Counter(id(weight) for layer in inner.modules() for weight in layer.parameters(recurse=False))
    for normed, scale in smoothing_scales(model, batches, strength, threads, where):
        names = [normed.node.output[0], *(node.output[0] for node in normed.products)]
        if not all(name in paths for name in names):
            continue
        norm, *readers = (inner.get_submodule(paths[name]) for name in names)
        weights = [*norm.parameters(recurse=False), *(reader.get_parameter("weight") for reader in readers)]
        if any(owners[id(weight)] > 1 for weight in weights):
            continue
        divisor = torch.from_numpy(scale)
        for weight in norm.parameters(recurse=False):
            weight.div_(divisor)
        for reader in readers:
            reader.get_parameter("weight").mul_(divisor)  # (outputs, channels)
        count += 1
    return count
