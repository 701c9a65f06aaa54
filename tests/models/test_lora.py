"""LoRA: no change at first, a change of low rank after training, and plain weights in the end."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from edgevit.models import BuiltModel, create_model
from edgevit.models.lora import ALPHA, add_lora, merge_lora
from edgevit.models.timm_models import classifier_prefixes, timm_model
from tests.learning import tiny_token_vit, tiny_vit

IMAGES = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
MODELS: dict[str, Any] = {
    "vit": lambda: create_model("vit_tiny_patch16_224", 4, 64, {"depth": 1, "embed_dim": 48, "num_heads": 3}),
    "token": lambda: create_model(
        "deit_tiny_distilled_patch16_224",
        4,
        64,
        {"depth": 1, "embed_dim": 48, "num_heads": 3},
        distillation_token=True,
    ),
    "convolutions, grouped ones too": lambda: create_model(
        "repvit_m0_9", 4, 64, {"embed_dim": (8, 16, 24, 32), "depth": (1, 1, 1, 1)}
    ),
    "hybrid": lambda: create_model("efficientvit_b0", 4, 64),
}


def built(name: str) -> BuiltModel:
    return MODELS[name]()


def state_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def disturb(model: nn.Module) -> None:
    """Move all that can be trained, as a training would."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_nothing_changes_before_training_and_nothing_is_left_after_merging(name: str) -> None:
    model = built(name).module
    before, answer = state_of(model), model(IMAGES)
    add_lora(model, 2, seed=0)
    assert torch.equal(model(IMAGES), answer)
    merge_lora(model)
    after = state_of(model)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert not any("arametri" in type(module).__name__ for module in model.modules())


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_merged_model_answers_as_the_trained_one(name: str) -> None:
    model = built(name).module
    add_lora(model, 2, seed=0)
    before = model(IMAGES)
    disturb(model)
    trained = model(IMAGES)
    assert (trained - before).abs().max() > 1e-3
    merge_lora(model)
    torch.testing.assert_close(model(IMAGES), trained, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_each_dense_layer_changes_by_at_most_the_rank_and_the_rest_stays(name: str) -> None:
    model = built(name).module
    inner = timm_model(model)
    heads = classifier_prefixes(model)
    dense = {
        f"{key}.weight"
        for key, module in inner.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d)) and getattr(module, "groups", 1) == 1
    }
    before = state_of(inner)
    add_lora(model, 2, seed=0)
    disturb(model)
    merge_lora(model)
    after = state_of(inner)
    for key in before:
        change = (after[key].double() - before[key].double()).flatten(1) if before[key].ndim > 1 else None
        if key.startswith(heads):
            assert not torch.equal(before[key], after[key])
        elif key in dense:
            assert change is not None
            assert 1 <= int(torch.linalg.matrix_rank(change, atol=1e-4)) <= 2, key
        else:
            assert torch.equal(before[key], after[key]), key


def test_change_is_alpha_over_rank_times_the_product() -> None:
    model = tiny_vit().module
    plain = copy.deepcopy(model)
    add_lora(model, 3, seed=0)
    disturb(model)
    change = model.blocks[0].attn.qkv.parametrizations.weight[0]
    product = (change.b.double() @ change.a.double()) * ALPHA / 3
    expected = plain.blocks[0].attn.qkv.weight.double() + product
    torch.testing.assert_close(model.blocks[0].attn.qkv.weight.double(), expected, atol=1e-6, rtol=1e-5)


def test_seed_draws_the_start() -> None:
    def drawn(seed: int) -> torch.Tensor:
        model = tiny_token_vit().module
        add_lora(model, 2, seed)
        weights: torch.Tensor = timm_model(model).blocks[0].mlp.fc1.parametrizations.weight[0].a
        return weights

    torch.manual_seed(5)
    first = drawn(0)
    torch.manual_seed(6)
    assert torch.equal(first, drawn(0))
    assert not torch.equal(first, drawn(1))
