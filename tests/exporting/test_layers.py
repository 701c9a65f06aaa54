"""Which layer each node is, by its weight, against what the exporters themselves note about it."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import onnx
import pytest
import torch
from onnx import ModelProto
from torch import Tensor, nn

from edgevit.artifacts import IOSpec, Preprocess
from edgevit.errors import ArtifactError
from edgevit.exporting import onnx as exporters
from edgevit.exporting import tensor_ranges
from edgevit.exporting.layers import layers_by_output
from edgevit.models import create_model, model_from_checkpoint
from edgevit.models.creation import folded_model
from edgevit.models.ranges import LayerRanges, TrainedRanges
from edgevit.models.timm_models import timm_model
from tests.small_models import checkpoint, float_onnx

CLASSES = tuple("abc")
SMALL = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
MODELS: dict[str, Any] = {
    "vit": ("vit_tiny_patch16_224", SMALL, False),
    "token": ("deit_tiny_distilled_patch16_224", SMALL, True),
    "hybrid": ("repvit_m0_9", {"embed_dim": (8, 16, 24, 32), "depth": (1, 1, 1, 1)}, True),
    "residual": ("resnet18", {}, False),
}
both_exporters = pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])


@cache
def module(name: str) -> nn.Module:
    model, args, token = MODELS[name]
    return folded_model(create_model(model, len(CLASSES), 32, args, distillation_token=token)).module


@cache
def exported(name: str, exporter: str) -> ModelProto:
    return export(module(name), exporter, 32)


def export(model: nn.Module, exporter: str, size: int) -> ModelProto:
    spec = IOSpec.for_classifier(Preprocess(height=size, width=size), CLASSES)
    with torch.no_grad():
        made: ModelProto = getattr(exporters, f"_{exporter}")(model, spec, 20, True)
    return made


def noted_path(model: ModelProto, output: str) -> str:
    """Dynamo notes the scopes of a node; TorchScript names it by them: /blocks/blocks.0/attn/qkv/MatMul."""
    node = next(node for node in model.graph.node if output in node.output)
    scopes = {one.key: one.value for one in node.metadata_props}.get("pkg.torch.onnx.name_scopes")
    return scopes or re.sub(r"(\w+)/\1\.", r"\1.", node.name).replace("/", ".")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "exporter"),
    [
        pytest.param(name, exporter, id=f"{name}-{exporter}", marks=[] if name == "residual" else pytest.mark.slow)
        for name in MODELS
        for exporter in ("dynamo", "torchscript")
    ],
)
def test_every_layer_is_the_node_that_the_exporter_made_of_it(name: str, exporter: str) -> None:
    model, images = exported(name, exporter), torch.zeros(1, 3, 32, 32)
    found = layers_by_output(model, module(name), images)
    layers = {path for path, one in timm_model(module(name)).named_modules() if isinstance(one, nn.Conv2d | nn.Linear)}
    assert set(found.values()) == layers
    for output, path in found.items():
        assert path in noted_path(model, output)


class Twins(nn.Module):
    """Two layers with equal weights, called in another order than they are made; and one that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.pretrained_cfg = {"classifier": "late"}
        self.late, self.early, self.twice = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.late.weight = self.early.weight = nn.Parameter(torch.randn(8, 8))

    def forward(self, images: Tensor) -> Tensor:
        answer: Tensor = self.late(self.twice(self.twice(self.early(images.mean(2)).relu())))
        return answer


@pytest.mark.filterwarnings("ignore")
@both_exporters
def test_equal_weights_are_told_apart_by_order_and_a_layer_that_is_called_twice_is_none(exporter: str) -> None:
    twins = Twins().eval()
    model = export(twins, exporter, 8)
    order, image = [node.output[0] for node in model.graph.node], torch.zeros(1, 3, 8, 8)
    assert layers_by_output(model, Twins().eval(), image) == {}, "other weights"
    found = layers_by_output(model, twins, image)
    assert [found[output] for output in order if output in found] == ["early", "late"]


@pytest.mark.filterwarnings("ignore")
def test_ranges_find_their_tensors_and_a_layer_without_a_node_is_named() -> None:
    model = exported("residual", "dynamo")
    paths = layers_by_output(model, module("residual"), torch.zeros(1, 3, 32, 32))
    layers = {"conv1": LayerRanges(input=(-2, 2.5), output=(0, 4)), "fc": LayerRanges(input=(0, 1))}
    found = tensor_ranges(TrainedRanges(runtime="onnxruntime", layers=layers), model, paths, "here")
    first, last = (
        next(node for node in model.graph.node if node.op_type in kinds) for kinds in (("Conv",), ("Gemm", "MatMul"))
    )
    assert found.tensors == {first.input[0]: (-2, 2.5), first.output[0]: (0, 4), last.input[0]: (0, 1)}
    elsewhere = TrainedRanges(runtime="onnxruntime", layers={"blocks.7": LayerRanges(input=(0, 1))})
    with pytest.raises(ArtifactError, match="cannot be placed") as caught:
        tensor_ranges(elsewhere, model, paths, "here")
    assert caught.value.got == "blocks.7"


def test_exported_nodes_are_called_after_their_layers() -> None:
    graph = onnx.load(float_onnx().file("model.onnx")).graph
    modules = model_from_checkpoint(checkpoint()).named_modules()
    named = {node.name for node in graph.node if node.op_type in ("Conv", "MatMul", "Gemm")}
    layers = {path for path, layer in modules if isinstance(layer, nn.Linear | nn.Conv2d)}
    assert len(layers) == 2 * 4 + 2
    assert layers <= named
