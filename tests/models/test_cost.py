"""Counts from the modules against the closed forms for a layer over L tokens of width d."""

from __future__ import annotations

import torch
from timm.layers import Mlp
from timm.models.vision_transformer import Attention
from torch import Tensor, nn

from edgevit.models.cost import macs_of, params_of

L, D, N = 784, 1024, 2048


class OverTokens(nn.Module):
    """A layer fed with L tokens of width d, whatever the image."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, images: Tensor) -> Tensor:
        tokens: Tensor = self.layer(images.new_zeros(len(images), L, D))
        return tokens


def flops(layer: nn.Module) -> int:
    return 2 * macs_of(OverTokens(layer), 8, 8)


def test_two_fully_connected_layers_of_n_neurons() -> None:
    mlp = Mlp(D, N, bias=False)
    assert params_of(mlp) == 2 * N * D
    assert flops(mlp) == 4 * N * D * L
    assert round(flops(mlp) / 1e9, 1) == 6.6


def test_self_attention() -> None:
    attention = Attention(D, num_heads=16, qkv_bias=False, proj_bias=False)
    assert params_of(attention) == 4 * D**2
    assert flops(attention) == 8 * D**2 * L + 4 * D * L**2
    assert round(flops(attention) / 1e9, 1) == 9.1


def test_counting_leaves_the_model_in_its_mode() -> None:
    layer = OverTokens(Mlp(D, 8)).train()
    macs_of(layer, 8, 8)
    assert layer.training
    assert all(parameter.grad is None for parameter in layer.parameters())
    assert torch.is_grad_enabled()


def test_counting_leaves_every_module_in_its_own_mode() -> None:
    """A wrapper may keep an inner model's flag up while its layers are in eval mode."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten()).eval()
    model.training = True
    macs_of(model, 8, 8)
    assert [module.training for module in model.modules()] == [True, False, False, False]
