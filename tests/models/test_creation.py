"""timm models by name: what is built, what is refused, and in which words."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch

from edgevit.errors import RecipeError
from edgevit.models import create_model, macs_of, params_of, preprocess_of, with_new_head
from edgevit.models.creation import build
from edgevit.models.description import ModelDescription

TINY_VIT: dict[str, Any] = {"patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2}


def test_weights_are_those_timm_draws_from_the_same_seed() -> None:
    built = create_model("vit_tiny_patch16_224", 5, 32, TINY_VIT, seed=3)
    torch.manual_seed(3)
    reference = timm.create_model("vit_tiny_patch16_224", num_classes=5, img_size=32, **TINY_VIT)
    for key, value in reference.state_dict().items():
        assert torch.equal(built.module.state_dict()[key], value), key


def test_making_a_model_leaves_the_callers_random_state_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    create_model("vit_tiny_patch16_224", 5, 32, TINY_VIT, seed=3)
    assert torch.equal(torch.rand(1), expected)


def test_description_builds_the_same_model_again() -> None:
    built = create_model("vit_tiny_patch16_224", 5, 32, TINY_VIT)
    again = ModelDescription.model_validate_json(built.description.model_dump_json())
    assert {key: value.shape for key, value in build(again).state_dict().items()} == {
        key: value.shape for key, value in built.module.state_dict().items()
    }


def test_size_of_a_convnet_is_in_its_preprocess() -> None:
    built = create_model("resnet18", 5, 64)
    assert (built.preprocess.height, built.preprocess.width) == (64, 64)
    assert built.description.model_args == {}


@pytest.mark.parametrize(
    ("name", "nearest"), [("deit_tny", "deit_tiny_patch16_224"), ("resnet50.a1_in1kk", "resnet50.a1_in1k")]
)
def test_unknown_name_is_answered_with_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(RecipeError) as caught:
        create_model(name, 5)
    assert caught.value.got == name
    assert nearest in str(caught.value.expected)


@pytest.mark.parametrize(
    ("name", "size", "args", "said"),
    [
        ("deit_tiny_patch16_224", 50, {}, "a multiple of 16"),
        ("ghostnetv2_100", 32, {}, "64, 96"),
        ("deit_tiny_patch16_224", 32, {"img_size": 64}, "one of them"),
        ("deit_tiny_patch16_224", 32, {"bogus": 1}, "bogus"),
        ("deit_tiny_patch16_224", 32, {"num_heads": 5}, "divisible"),
        ("test_resnet", 32, {"global_pool": False}, "look at model_args"),
        ("test_vit", 32, {"pretrained_cfg": 1}, "'pretrained_cfg'"),
        ("test_convnext", 32, {"features_only": True}, "'features_only'"),
    ],
)
def test_what_cannot_be_built_says_what_works(name: str, size: int, args: dict[str, int], said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        create_model(name, 5, size, args)
    assert name in str(caught.value)
    assert said in str(caught.value)


def test_model_without_distillation_head_is_refused_as_a_token_student() -> None:
    with pytest.raises(RecipeError, match="no distillation head"):
        create_model("vit_tiny_patch16_224", 5, 32, TINY_VIT, distillation_token=True)


def test_preprocess_is_timms_own_at_its_own_size_and_whole_elsewhere() -> None:
    model = timm.create_model("deit_tiny_patch16_224")
    config = timm.data.resolve_model_data_config(model)
    own = preprocess_of(model)
    assert (own.height, own.crop_pct) == (224, config["crop_pct"])
    assert (own.mean, own.std, own.interpolation) == (config["mean"], config["std"], config["interpolation"])
    assert preprocess_of(model, 64).crop_pct == 1.0


def test_new_head_keeps_all_other_weights() -> None:
    built = create_model("deit_tiny_distilled_patch16_224", 5, 32, TINY_VIT, distillation_token=True, seed=1)
    fresh = with_new_head(built, 7, seed=2)
    before, after = built.module.state_dict(), fresh.module.state_dict()
    assert fresh.description.num_classes == 7
    assert {key for key in after if not torch.equal(after[key], before[key])} <= {
        key for key in after if ".head." in key or ".head_dist." in key
    }
    assert after["model.head.weight"].shape == (7, 24)
    assert fresh.module(torch.zeros(1, 3, 32, 32)).shape == (1, 7)


def test_macs_of_a_linear_and_a_convolution_are_counted_by_hand() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.Flatten(), torch.nn.Linear(4 * 64, 5))
    assert macs_of(model, 8, 8) == 3 * 9 * 4 * 64 + 4 * 64 * 5
    assert params_of(model) == 3 * 9 * 4 + 4 + 4 * 64 * 5 + 5


def test_macs_of_a_vit_follow_the_formula() -> None:
    """Patches, then per block 4d²L (projections) + 2dL² (attention) + 2·4d·dL (MLP), then the head."""
    built = create_model("vit_tiny_patch16_224", 5, 32, TINY_VIT)
    width, patches = 24, 16
    tokens = patches + 1
    block = 4 * width**2 * tokens + 2 * width * tokens**2 + 8 * width**2 * tokens
    assert macs_of(built.module, 32, 32) == patches * 3 * 64 * width + block + width * 5
