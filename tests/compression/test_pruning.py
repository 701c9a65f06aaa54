"""Structures taken out of real timm models, against the whole models with masks, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgevit.compression.pruning import (
    Importance,
    Removal,
    magnitude_importance,
    plan_removal,
    prunable,
    pruned_model,
    smallest_share,
    unit_counts,
)
from edgevit.errors import ArtifactError, ParityError, RecipeError
from edgevit.models import catalogue
from edgevit.models.cost import macs_of, params_of
from edgevit.models.creation import BuiltModel, build, create_model, with_new_head
from edgevit.models.description import ModelDescription
from edgevit.models.structures import Pruned, structures_of
from edgevit.models.timm_models import timm_model

VIT = {"patch_size": 8, "depth": 3, "embed_dim": 48, "num_heads": 3}
MODELS: dict[str, dict[str, Any]] = {
    "deit_tiny_patch16_224": VIT,
    "deit_tiny_distilled_patch16_224": VIT,
    "vit_tiny_patch16_224": {**VIT, "qk_norm": True, "init_values": 0.5, "global_pool": "avg"},
    "edgenext_xx_small": {},
    "tiny_vit_5m_224": {"embed_dims": (16, 32, 40, 48), "num_heads": (1, 2, 4, 4), "depths": (1, 1, 1, 1)},
    "repvit_m0_9": {"embed_dim": (8, 16, 24, 32), "depth": (1, 1, 1, 1)},
    "mobilenetv4_conv_small": {},
}


def small(name: str, **args: Any) -> BuiltModel:
    """The model in float64 with no weight near 0 or 1, so that nothing hides a mistake."""
    built = create_model(name, 5, 32 if "patch_size" in args else 64, args)
    generator = torch.Generator().manual_seed(0)
    for tensor in (*built.module.parameters(), *built.module.buffers()):
        if tensor.ndim == 1:
            tensor.data = torch.rand(tensor.shape, generator=generator) * 0.5 + 0.5
    return built._replace(module=built.module.double())


def random_removal(model: nn.Module) -> Removal:
    generator, units = torch.Generator().manual_seed(1), {}
    for path, one in structures_of(timm_model(model)).items():
        order = torch.randperm(one.units, generator=generator)
        units[path] = order[: int(torch.randint(0, one.units, (1,), generator=generator))].tolist()
    return Removal(units, [])


def random_images(built: BuiltModel) -> Tensor:
    shape = (2, 3, built.preprocess.height, built.preprocess.width)
    return torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.mark.parametrize("name", MODELS)
def test_without_units_it_answers_as_if_they_were_masked(name: str) -> None:
    built = small(name, **MODELS[name])
    removal, images = random_removal(built.module), random_images(built)
    smaller = without_checks_in_float32(built, removal)
    whole = built.module(images)
    for path, one in structures_of(built.module).items():
        channels = one.last.indices.numel()
        mask = torch.ones(one.units, channels // one.units, dtype=torch.float64)
        mask[removal.units[path]] = 0
        flat = mask.flatten() if isinstance(one.last.layer, nn.Linear) else mask.view(-1, 1, 1)
        one.last.layer.register_forward_pre_hook(lambda layer, inputs, flat=flat: (inputs[0] * flat,))
    masked = built.module(images)
    assert not torch.allclose(whole, masked, rtol=1e-3)
    torch.testing.assert_close(smaller.module(images), masked, rtol=1e-9, atol=1e-9)


def without_checks_in_float32(built: BuiltModel, removal: Removal) -> BuiltModel:
    built.module.float()
    smaller = pruned_model(built, removal)
    built.module.double()
    return smaller._replace(module=smaller.module.double())


def test_nothing_pruned_is_the_same_model_to_the_bit() -> None:
    built = create_model("deit_tiny_patch16_224", 5, 32, VIT)
    removal = plan_removal(built, magnitude_importance(structures_of(built.module)), "macs", 1.0)
    same = pruned_model(built, removal)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(same.module(images), built.module(images))
    assert same.description == built.description


UNITS, ALL = ("heads", "hidden"), ("heads", "hidden", "blocks")


def random_importance(built: BuiltModel, kinds: Any, seed: int) -> Importance:
    generator = torch.Generator().manual_seed(seed)
    structures, paths = prunable(built.module, kinds)
    units = {path: torch.rand(4, one.units, generator=generator) - 0.3 for path, one in structures.items()}
    return Importance(units, {path: torch.randn(4, generator=generator) for path in paths})


@settings(max_examples=15)
@given(
    keep=st.floats(0.4, 1.0),
    cost=st.sampled_from(["macs", "params"]),
    kinds=st.sampled_from([UNITS, ALL]),
    seed=st.integers(0, 99),
)
def test_what_is_left_of_a_vit_lies_below_its_budget_by_less_than_8_hidden_units(
    keep: float, cost: Any, kinds: Any, seed: int
) -> None:
    smaller = pruned_model(VISION, plan_removal(VISION, random_importance(VISION, kinds, seed), cost, keep))
    step = 8 * (17 * 2 * 48 if cost == "macs" else 2 * 48 + 1)
    budget = keep * costs_of(VISION.module)[cost]
    assert budget - step < costs_of(smaller.module)[cost] <= budget
    for one in structures_of(smaller.module).values():
        assert one.units >= one.min_units
        assert one.units % one.multiple == 0


@pytest.mark.parametrize("cost", ["macs", "params"])
def test_a_hybrid_keeps_its_budget_too_and_narrow_layers_stay_as_they_are(cost: Any) -> None:
    smaller = pruned_model(HYBRID, plan_removal(HYBRID, random_importance(HYBRID, UNITS, 0), cost, 0.8))
    assert 0.77 < costs_of(smaller.module)[cost] / costs_of(HYBRID.module)[cost] <= 0.8
    before = structures_of(HYBRID.module)
    for path, one in structures_of(smaller.module).items():
        assert one.units == before[path].units or one.units % 8 == 0
    assert structures_of(smaller.module)["stem"].units == 4


def costs_of(model: nn.Module) -> dict[str, int]:
    return {"macs": macs_of(model, 32, 32), "params": params_of(model)}


VISION = create_model("deit_tiny_patch16_224", 5, 32, VIT)
HYBRID = create_model("repvit_m0_9", 5, 32, MODELS["repvit_m0_9"])
UNEVEN = Removal({"blocks.0.mlp": list(range(176)), "blocks.0.attn": [0], "blocks.1.mlp": list(range(96))}, [])


def test_the_least_important_for_its_cost_goes_first() -> None:
    units = {path: torch.ones(1, one.units) for path, one in structures_of(VISION.module).items()}
    units["blocks.2.mlp"][0, 5:13] = 0.1
    units["blocks.1.attn"][0, 2] = 0.0
    importance = Importance(units, {})
    assert plan_removal(VISION, importance, "macs", 1 - 1e-3).units == {"blocks.2.mlp": list(range(5, 13))}
    head = 17 * 4 * 48 * 16 + 2 * 17 * 17 * 16
    for share, gone in ((head, {"blocks.1.attn"}), (head + 8 * 17 * 2 * 48, {"blocks.1.attn", "blocks.2.mlp"})):
        removal = plan_removal(VISION, importance, "macs", 1 - share / macs_of(VISION.module, 32, 32))
        assert {path: sorted(units) for path, units in removal.units.items()} == {
            path: [2] if path == "blocks.1.attn" else list(range(5, 13)) for path in gone
        }


def test_a_block_whose_units_cancel_goes_whole_and_its_input_goes_through() -> None:
    structures, blocks = prunable(VISION.module, ("heads", "hidden", "blocks"))
    units = {path: torch.ones(1, one.units) for path, one in structures.items()}
    importance = Importance(units, {path: torch.tensor([0.0 if path == "blocks.1" else 1e3]) for path in blocks})
    block = 17 * 12 * 48**2 + 2 * 17 * 17 * 48
    smaller = pruned_model(VISION, plan_removal(VISION, importance, "macs", 1 - block / macs_of(VISION.module, 32, 32)))
    assert smaller.description.change(Pruned) == Pruned(dropped=("blocks.1",))
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    model = VISION.module
    tokens = model._pos_embed(model.patch_embed(images))
    for block in (model.blocks[0], model.blocks[2]):  # type: ignore[assignment]
        tokens = block(tokens)
    torch.testing.assert_close(smaller.module(images), model.forward_head(model.norm(tokens)))


def test_magnitude_is_the_sum_of_squares_of_what_goes() -> None:
    structures = structures_of(VISION.module)
    scores = {path: one.square().mean(0) for path, one in magnitude_importance(structures).units.items()}
    attention, mlp = VISION.module.blocks[0].attn, VISION.module.blocks[0].mlp
    rows = torch.cat([attention.qkv.weight[start + 16 : start + 32] for start in (0, 48, 96)])
    expected = (rows**2).sum() + (attention.proj.weight[:, 16:32] ** 2).sum()
    torch.testing.assert_close(scores["blocks.0.attn"][1], expected.detach())
    expected = (mlp.fc1.weight[7] ** 2).sum() + (mlp.fc2.weight[:, 7] ** 2).sum()
    torch.testing.assert_close(scores["blocks.0.mlp"][7], expected.detach())


def test_description_builds_it_again_and_it_can_be_pruned_further_and_given_a_new_head() -> None:
    importance = random_importance(VISION, ALL, 0)
    once = pruned_model(VISION, plan_removal(VISION, importance, "macs", 0.6))
    twice = pruned_model(once, plan_removal(once, random_importance(once, UNITS, 1), "params", 0.8))
    for pruned in (once, twice):
        again = build(ModelDescription.model_validate_json(pruned.description.model_dump_json()))
        again.load_state_dict(pruned.module.state_dict())
        images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        assert torch.equal(again(images), pruned.module(images))
    headed = with_new_head(twice, 7)
    assert headed.module(images).shape == (2, 7)
    assert torch.equal(headed.module.forward_features(images), twice.module.forward_features(images))


@pytest.mark.parametrize("cost", ["macs", "params"])
@pytest.mark.parametrize("kinds", [UNITS, ALL, ("blocks",)])
@pytest.mark.parametrize("seed", range(3))
def test_the_least_share_can_be_reached_and_none_below_it(seed: int, kinds: Any, cost: Any) -> None:
    built = pruned_model(VISION, UNEVEN) if seed else VISION
    importance = random_importance(built, kinds, seed)
    least = smallest_share(built, importance, cost)
    removal = plan_removal(built, importance, cost, least)
    assert costs_of(pruned_model(built, removal).module)[cost] <= least * costs_of(built.module)[cost]
    with pytest.raises(RecipeError, match=rf"(?s)cannot make the model so small.*at least {least:g},"):
        plan_removal(built, importance, cost, least - 0.0011)


def test_what_cannot_be_pruned_is_refused() -> None:
    with pytest.raises(RecipeError, match="no structure that pruning could remove"):
        prunable(timm.create_model("resnet18"), ("heads", "hidden"))
    with pytest.raises(RecipeError, match="structures: hidden"):
        prunable(HYBRID.module, ("heads",))
    with pytest.raises(RecipeError, match=r"(?s)cannot make the model so small.*keep_macs: 0.01.*at least 0\.\d+"):
        plan_removal(VISION, magnitude_importance(structures_of(VISION.module)), "macs", 0.01)
    for fields in ({"units": {"blocks.9.mlp": 8}}, {"units": {"blocks.0.attn": 4}}, {"dropped": ("blocks.9",)}):
        with pytest.raises(ArtifactError, match="is of another model"):
            build(VISION.description.with_change(Pruned.model_validate(fields)))


class Softmaxed(nn.Module):
    """An activation that looks at all channels at once, which nothing about it shows."""

    def forward(self, values: Tensor) -> Tensor:
        return values.softmax(-1) * 100


def test_a_layer_that_mixes_the_units_is_noticed() -> None:
    built = create_model("deit_tiny_patch16_224", 5, 32, VIT)
    built.module.blocks[0].mlp.act = Softmaxed()
    with pytest.raises(ParityError, match="outputs of the pruned model differ from the whole model's"):
        pruned_model(built, Removal({"blocks.0.mlp": list(range(100))}, []))


@pytest.mark.parametrize("hybrid", [False, True])
def test_a_width_that_becomes_the_model_s_own_is_built_again(hybrid: bool) -> None:
    name = "tiny_vit_5m_224" if hybrid else "deit_tiny_patch16_224"
    built = create_model(name, 5, 64 if hybrid else 32, MODELS[name])
    path, width = ("stages.1.blocks.0.mlp", 32) if hybrid else ("blocks.0.mlp", 48)
    units = structures_of(built.module)[path].units
    removal = Removal({path: list(range(width, units))}, [])
    smaller = pruned_model(built, removal)
    assert smaller.description.change(Pruned) == Pruned(units={path: width})
    build(smaller.description).load_state_dict(smaller.module.state_dict())
    before, after = unit_counts(built.module, removal)["hidden"]
    assert before - after == units - width


@pytest.mark.slow
@pytest.mark.parametrize("entry", catalogue.read(), ids=lambda entry: entry.name)
def test_the_catalogue_can_be_pruned_but_for_a_few(entry: catalogue.Entry) -> None:
    built = create_model(entry.name, 5, 64)
    generator = torch.Generator().manual_seed(0)
    for tensor in built.module.parameters():
        if tensor.ndim == 1:  # a branch that is scaled by nearly 0 would hide a mistake in it
            tensor.data = torch.rand(tensor.shape, generator=generator) * 0.5 + 0.5
    if not structures_of(built.module):
        assert entry.name in ("starnet_s1", "efficientvit_b0", "efficientvit_b1", "ghostnetv2_100")
        return
    smaller = pruned_model(built, random_removal(built.module))
    again = build(smaller.description)
    again.load_state_dict(smaller.module.state_dict())
    assert params_of(again) < params_of(built.module)
