"""Kernels of graphs: how nodes are grouped, and that no work is lost."""

from __future__ import annotations

import pytest
import torch
from onnx import ModelProto
from torch import nn

from edgevit.checking.shapes import for_batch_of, for_one_image
from edgevit.graphs.files import onnx_file, read_onnx
from edgevit.graphs.graph import Graph
from edgevit.latency_model.kernels import Kernel, kernels_of
from tests.checking.graphs import model, node
from tests.small_models import float_onnx, int8_onnx


def kernels(of: ModelProto) -> tuple[Kernel, ...]:
    return kernels_of(Graph(for_one_image(of))).kernels


def exported(module: nn.Module, side: int, tmp_path) -> ModelProto:
    file = tmp_path / "module.onnx"
    program = torch.onnx.export(
        module.eval(), (torch.zeros(1, 3, side, side),), dynamo=True, opset_version=20, verbose=False
    )
    program.save(file)
    return read_onnx(file)


@pytest.mark.parametrize("hybrid", [False, True], ids=["vit", "hybrid"])
@pytest.mark.parametrize("made", [float_onnx, int8_onnx])
def test_no_work_is_lost(made, hybrid: bool) -> None:
    artifact = made(hybrid)
    plan = kernels_of(Graph(for_one_image(read_onnx(onnx_file(artifact)))))
    assert plan.macs == artifact.metrics["macs"]
    assert not plan.unknown
    assert not plan.unsized


def test_a_vit_has_four_products_an_attention_and_two_norms_a_block() -> None:
    found = kernels(read_onnx(onnx_file(float_onnx())))
    blocks = 2
    assert sum(kernel.kind == "attention" for kernel in found) == blocks
    assert sum(kernel.kind == "product" for kernel in found) == 4 * blocks + 1  # and the classifier
    assert sum(kernel.kind == "spatial_conv" for kernel in found) == 1  # the patches
    memory = sum(kernel.kind == "memory" for kernel in found)
    assert 2 * blocks + 1 <= memory <= 2 * blocks + 5  # norms, class token, position


def test_batch_norm_relu_and_the_residual_are_part_of_the_convolution(tmp_path) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU())
            self.second = nn.Conv2d(3, 3, 1)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.second(self.first(images)) + images)

    first, second = kernels(exported(Block(), 8, tmp_path))
    image, weights = 3 * 8 * 8, 3 * 3
    assert (first.kind, first.macs, first.depth) == ("spatial_conv", 9 * 3 * image, 27)
    assert (second.kind, second.macs) == ("pointwise_conv", 3 * image)
    assert first.activations == 2 * image  # read and written once each
    assert second.activations == 3 * image  # and the residual is read
    assert second.weights == weights + 3


def test_a_swish_behind_a_convolution_is_a_kernel_and_a_gelu_behind_a_product_is_none(tmp_path) -> None:
    swish = exported(nn.Sequential(nn.Conv2d(3, 4, 1), nn.SiLU()), 8, tmp_path)
    assert [kernel.kind for kernel in kernels(swish)] == ["pointwise_conv", "memory"]
    gelu = exported(nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.GELU()), 8, tmp_path)
    assert [kernel.kind for kernel in kernels(gelu)] == ["product"]


@pytest.mark.parametrize(("groups", "kind"), [(1, "spatial_conv"), (2, "grouped_conv"), (6, "depthwise_conv")])
def test_kinds_of_convolutions(tmp_path, groups: int, kind: str) -> None:
    module = nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, groups=groups))
    assert kernels(exported(module, 8, tmp_path))[1].kind == kind


def test_kernels_of_a_batch_are_counted_for_one_image() -> None:
    of = read_onnx(onnx_file(float_onnx()))
    assert kernels_of(Graph(for_batch_of(of, 4)), batch=4).macs == kernels_of(Graph(for_one_image(of))).macs


def test_quantized_products_ask_for_int8() -> None:
    found = kernels(read_onnx(onnx_file(int8_onnx())))
    assert {kernel.kind for kernel in found if kernel.is_int8} >= {"product"}
    assert not any(kernel.is_int8 for kernel in kernels(read_onnx(onnx_file(float_onnx()))))


def test_an_operator_without_a_rule_is_counted_and_named() -> None:
    odd = model([node("Relu", ["image"], "y"), node("Det", ["y"], "logits")], {}, (1, 3, 4, 4), (1, 3))
    assert kernels_of(Graph(for_one_image(odd))).unknown == {"Det": 1}
