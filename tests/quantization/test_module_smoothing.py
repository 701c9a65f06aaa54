"""SmoothQuant in a module: the same function, and the weights that it gets in its graph."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn

from edgevit.artifacts import IOSpec
from edgevit.configs import OPSET
from edgevit.exporting import Exported, norms_by_output, onnx_from_module
from edgevit.graphs.walk import integer_attribute
from edgevit.models import create_model
from edgevit.models.creation import BuiltModel
from edgevit.models.timm_models import timm_model
from edgevit.quantization.module_smoothing import smooth_module
from edgevit.quantization.smoothing import smoothed

VIT = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
IMAGES = [np.random.default_rng(seed).standard_normal((4, 3, 32, 32)).astype(np.float32) for seed in range(2)]


def batches() -> Iterator[NDArray[np.float32]]:
    return iter(IMAGES)


def vit(name: str, **changes: object) -> BuiltModel:
    """A small ViT whose norms have weights of their own, three of them large."""
    built = create_model(name, 10, 32, {**VIT, **changes})
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for norm in (module for module in built.module.modules() if isinstance(module, nn.LayerNorm)):
            norm.weight.add_(torch.rand(norm.weight.shape, generator=generator))
            norm.bias.add_(torch.rand(norm.bias.shape, generator=generator))
            norm.weight[:3] *= 50
    return built._replace(module=built.module.eval())


def exported(built: BuiltModel) -> Exported:
    spec = IOSpec.for_classifier(built.preprocess, tuple("0123456789"))
    return onnx_from_module(built.module, spec, OPSET, dynamic_batch=True, keep_branches=True)


def smooth_copy(built: BuiltModel) -> tuple[BuiltModel, int]:
    """A smoothed copy, and the number of norms that were smoothed."""
    changed, export = built._replace(module=copy.deepcopy(built.module)), exported(built)
    norms = norms_by_output(export.model, built.module, torch.from_numpy(IMAGES[0]))
    paths = {**norms, **export.layers}
    return changed, smooth_module(changed.module, export.model, paths, batches, 0.5, 1, "test")


@torch.no_grad()
def answers(built: BuiltModel) -> torch.Tensor:
    return torch.cat([built.module(torch.from_numpy(images)) for images in IMAGES])


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("vit_tiny_patch16_224", {}),
        ("vit_tiny_patch16_224", {"class_token": False, "global_pool": "avg", "fc_norm": True}),
        ("deit_tiny_distilled_patch16_224", {}),
    ],
    ids=["class token", "mean of tokens", "distillation token"],
)
def test_the_module_gets_the_weights_of_its_smoothed_graph(name: str, changes: dict[str, object]) -> None:
    built = vit(name, **changes)
    changed, count = smooth_copy(built)
    assert count == 5  # two in each block, and the last one
    torch.testing.assert_close(answers(changed), answers(built), rtol=1e-4, atol=1e-4)
    graph = smoothed(exported(built).model, batches, 0.5, 1, "test").graph
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    layers = dict(timm_model(changed.module).named_modules())
    linear = [node for node in graph.node if isinstance(layers.get(node.name), nn.Linear)]
    assert len(linear) == sum(isinstance(layer, nn.Linear) for layer in layers.values())
    for node in linear:
        stored, weight = weights[node.input[1]], layers[node.name].weight.detach().numpy()
        expected = stored if integer_attribute(node, "transB", 0) else stored.T
        np.testing.assert_allclose(weight, expected, rtol=1e-5)
    before, after = (
        [module.weight for module in model.module.modules() if isinstance(module, nn.LayerNorm)]
        for model in (built, changed)
    )
    assert not any(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_equal_norms_of_a_new_network_are_told_apart_by_their_calls() -> None:
    built = create_model("vit_tiny_patch16_224", 10, 32, VIT)
    built = built._replace(module=built.module.eval())
    changed, count = smooth_copy(built)
    assert count == 5
    torch.testing.assert_close(answers(changed), answers(built), rtol=1e-4, atol=1e-5)


def test_layers_that_share_a_weight_stay_as_they_are_with_the_norms_before_them() -> None:
    built = vit("vit_tiny_patch16_224")
    built.module.blocks[1].mlp.fc1.weight = built.module.blocks[0].mlp.fc1.weight
    changed, count = smooth_copy(built)
    assert count == 3
    torch.testing.assert_close(answers(changed), answers(built), rtol=1e-4, atol=1e-4)
    assert torch.equal(changed.module.blocks[0].norm2.weight, built.module.blocks[0].norm2.weight)


def test_norms_without_a_bias_are_smoothed() -> None:
    built = vit("vit_tiny_patch16_224")
    for block in built.module.blocks:
        block.norm1.bias = None
    changed, count = smooth_copy(built)
    assert count == 5
    torch.testing.assert_close(answers(changed), answers(built), rtol=1e-4, atol=1e-4)
