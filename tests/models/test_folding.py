"""Batch norm folded into layers: the same function, and nothing folded where it would be another."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from edgevit.errors import RecipeError
from edgevit.models import create_model
from edgevit.models.creation import BuiltModel, build, folded_model
from edgevit.models.folding import BatchNorm, fold_batch_norms

IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
SMALL_HYBRID: dict[str, Any] = {"embed_dim": (8, 16, 24, 32), "depth": (1, 1, 1, 1)}


def with_statistics(module: nn.Module) -> nn.Module:
    """Batch norms as after training, so that leaving one out shows."""
    generator = torch.Generator().manual_seed(1)
    for norm in module.modules():
        if isinstance(norm, BatchNorm):
            for values, low, high in (
                (norm.running_mean, -0.5, 0.5),
                (norm.running_var, 0.5, 2.0),
                (norm.weight, 0.5, 2.0),
                (norm.bias, -0.5, 0.5),
            ):
                values.data.uniform_(low, high, generator=generator)
    return module.eval()


def norms(module: nn.Module) -> int:
    return sum(isinstance(child, BatchNorm) for child in module.modules())


class SharedConvolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.first, self.second = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, images: Tensor) -> Tensor:
        second: Tensor = self.second(self.conv(self.first(self.conv(images))))
        return second


class Beside(nn.Module):
    """A convolution and its norm, and something else that reads the output or the weight of the convolution."""

    def __init__(self, reads: str) -> None:
        super().__init__()
        self.conv, self.norm, self.reads = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), reads
        self.pretrained_cfg = {"classifier": "head", "input_size": (3, 32, 32)}

    def forward(self, images: Tensor) -> Tensor:
        seen = self.conv(images)
        if self.reads == "a change in place":
            seen.mul_(2)
        beside = {"the output": seen, "the weight": self.conv.weight.mean()}.get(self.reads, 0)
        return (beside + self.norm(seen)).mean((2, 3))


@pytest.mark.parametrize(
    ("module", "left"),
    [
        (nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU()), 0),
        (nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), timm.layers.BatchNormAct2d(6)), 0),
        (nn.Sequential(nn.Flatten(), nn.Linear(3072, 5), nn.BatchNorm1d(5)), 0),
        (nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 8, 3)), 1),
        (nn.Sequential(timm.layers.StdConv2d(3, 8, 3), nn.BatchNorm2d(8)), 1),
        (SharedConvolution(), 2),
        (Beside("the output"), 1),
        (Beside("a change in place"), 1),
    ],
    ids=[
        *("conv", "depthwise and activation", "linear", "norm first", "standardised weight", "shared"),
        *("read beside the norm", "changed in place"),
    ],
)
def test_folding_changes_no_answer(module: nn.Module, left: int) -> None:
    with_statistics(module)
    with torch.no_grad():
        expected = module(IMAGES)
        fold_batch_norms(module, IMAGES)
        torch.testing.assert_close(module(IMAGES), expected, atol=1e-4, rtol=1e-4)
    assert norms(module) == left


@pytest.mark.parametrize("token", [False, True])
def test_a_folded_hybrid_is_built_again_from_its_description(token: bool) -> None:
    built = create_model("repvit_m0_9", 3, 32, SMALL_HYBRID, distillation_token=token)
    with_statistics(built.module)
    folded = folded_model(built)
    assert norms(folded.module) == 2 < norms(built.module)  # the norm of either classifier, which is no layer's
    again = build(folded.description)
    again.load_state_dict(folded.module.state_dict())
    with torch.no_grad():
        expected = built.module(IMAGES)
        torch.testing.assert_close(folded.module(IMAGES), expected, atol=1e-4, rtol=1e-4)
        assert torch.equal(again(IMAGES), folded.module(IMAGES))
    assert folded_model(folded) is folded


def test_a_plain_vit_has_nothing_to_fold() -> None:
    built = create_model("vit_tiny_patch16_224", 3, 16, {"patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2})
    state = folded_model(built).module.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in built.module.state_dict().items())


def test_a_hybrid_whose_convolutions_are_read_beside_their_norms_folds_the_other_norms() -> None:
    args = {"embed_dim": (8, 32, 32), "depths": (1, 1, 1), "block_type": ("C", "C", "T"), "stem_width": (4, 8)}
    built = create_model("coatnet_nano_rw_224", 3, 64, args)
    with_statistics(built.module)
    folded = folded_model(built)
    assert 0 < norms(folded.module) < norms(built.module)
    with torch.no_grad():
        images = nn.functional.interpolate(IMAGES, 64)
        torch.testing.assert_close(folded.module(images), built.module(images), atol=1e-4, rtol=1e-4)
        again = build(folded.description)  # with other weights, the same norms are folded
        again.load_state_dict(folded.module.state_dict())
        assert torch.equal(again(images), folded.module(images))


def test_a_model_that_folding_would_change_is_refused() -> None:
    like = create_model("vit_tiny_patch16_224", 3, 32, {"patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2})
    with pytest.raises(RecipeError, match="cannot be folded"):
        folded_model(BuiltModel(with_statistics(Beside("the weight")), like.description, like.preprocess))
