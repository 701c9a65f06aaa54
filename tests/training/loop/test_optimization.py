"""What is trained, how fast, and when the rate falls."""

from __future__ import annotations

import math

import pytest
import timm
from torch import nn

from edgevit.configs import Training
from edgevit.errors import RecipeError
from edgevit.training.loop.optimization import freeze, optimizer_for, scheduler_for
from tests.learning import tiny_token_vit, tiny_vit, train_config


def rates(config: Training, steps: int, steps_per_epoch: float = 10) -> list[float]:
    optimizer = optimizer_for(tiny_vit().module, config)
    scheduler = scheduler_for(optimizer, config, steps, steps_per_epoch)
    found = []
    for step in range(steps):
        scheduler.step_update(step)
        found.append(optimizer.param_groups[0]["lr"])
    return found


def test_rate_rises_then_follows_half_a_cosine() -> None:
    found = rates(train_config(learning_rate=1.0, warmup_fraction=0.1), 100)
    assert found[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert found[10:] == pytest.approx([0.5 * (1 + math.cos(math.pi * step / 90)) for step in range(90)])


@pytest.mark.parametrize("warmup_fraction", [0.0, 0.5, 1.0])
def test_shortest_training_has_a_rate(warmup_fraction: float) -> None:
    assert all(math.isfinite(rate) for rate in rates(train_config(warmup_fraction=warmup_fraction), 1))


def test_constant_rate_stays() -> None:
    assert set(rates(train_config(schedule="constant", warmup_fraction=0, learning_rate=0.3), 50)) == {0.3}


def test_steps_fall_by_the_epoch() -> None:
    found = rates(train_config(schedule="step", decay_epochs=(2,), warmup_fraction=0, learning_rate=1.0), 50)
    assert [found[step] for step in (0, 19, 20, 39, 40)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])


@pytest.mark.parametrize("schedule", ["tanh", "poly"])
def test_other_schedules_of_timm_fall(schedule: str) -> None:
    found = rates(train_config(schedule=schedule, learning_rate=1.0), 50)
    assert max(found) <= 1.0 + 1e-9
    assert found[-1] < 0.05
    assert found[5] > 0.8


def test_poly_falls_by_its_power() -> None:
    found = rates(train_config(schedule="poly", power=2.0, warmup_fraction=0, learning_rate=1.0), 50)
    assert found == pytest.approx([(1 - step / 50) ** 2 for step in range(50)])


def test_rate_of_a_step_depends_on_nothing_before_it() -> None:
    config = train_config()
    optimizer = optimizer_for(tiny_vit().module, config)
    scheduler = scheduler_for(optimizer, config, 40, 10)
    scheduler.step_update(33)
    assert optimizer.param_groups[0]["lr"] == rates(config, 40)[33]


def test_rate_is_scaled_by_the_batch() -> None:
    assert train_config(learning_rate=5e-4, learning_rate_batch=512, batch_size=128).peak_learning_rate == 1.25e-4


def test_each_layers_rate_is_a_share_of_the_next_ones() -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=3, depth=3, embed_dim=24, num_heads=2)
    config = train_config(layer_decay=0.5, schedule="constant", warmup_fraction=0, learning_rate=1.0)
    optimizer = optimizer_for(model, config)
    scheduler_for(optimizer, config, 10, 10).step_update(3)
    rate_of = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rate_of[id(model.head.weight)] == 1.0
    assert rate_of[id(model.blocks[2].attn.qkv.weight)] == 0.5 * rate_of[id(model.head.weight)]
    assert rate_of[id(model.blocks[1].attn.qkv.weight)] == 0.5 * rate_of[id(model.blocks[2].attn.qkv.weight)]
    assert rate_of[id(model.patch_embed.proj.weight)] < rate_of[id(model.blocks[0].attn.qkv.weight)]


def test_norms_and_biases_have_no_weight_decay() -> None:
    model = tiny_vit().module
    decayed = {
        id(p)
        for group in optimizer_for(model, train_config()).param_groups
        if group["weight_decay"]
        for p in group["params"]
    }
    assert {name for name, p in model.named_parameters() if id(p) in decayed} == {
        name for name, p in model.named_parameters() if p.ndim > 1 and name not in ("cls_token", "pos_embed")
    }


def test_what_a_token_student_names_has_no_weight_decay_either() -> None:
    model = tiny_token_vit().module
    groups = optimizer_for(model, train_config()).param_groups
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    named = dict(model.named_parameters())
    assert not {id(named[f"model.{name}"]) for name in ("pos_embed", "cls_token", "dist_token")} & decayed


def test_frozen_layers_are_out_of_reach_and_stay_in_eval_mode() -> None:
    model = timm.create_model("resnet18", num_classes=3)
    frozen = freeze(model, train_config(freeze=5))
    trained = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"layer3", "layer4", "fc"}
    assert model.layer1[0].bn1 in frozen
    assert model.layer4[0].bn1 not in frozen
    assert model not in frozen


def test_frozen_batch_norm_stays_in_eval_mode_and_its_weights_are_trained() -> None:
    model = timm.create_model("resnet18", num_classes=3)
    frozen = freeze(model, train_config(freeze_batch_norm=True))
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 20
    assert {id(module) for module in frozen} == {id(module) for module in norms}
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_backbone_means_all_but_the_classifier() -> None:
    model = tiny_vit().module
    freeze(model, train_config(freeze="backbone"))
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {"head.weight", "head.bias"}


def test_freezing_everything_is_refused() -> None:
    with pytest.raises(RecipeError, match="nothing would be left"):
        freeze(tiny_vit().module, train_config(freeze=50))


def test_model_without_a_grouping_of_its_own_is_frozen_too() -> None:
    model = timm.create_model("pit_ti_224", num_classes=3)
    freeze(model, train_config(freeze=1))
    assert not all(parameter.requires_grad for parameter in model.parameters())
    assert model.head.weight.requires_grad


def test_optimizer_that_needs_second_derivatives_is_refused() -> None:
    with pytest.raises(RecipeError, match="second derivatives"):
        optimizer_for(tiny_vit().module, train_config(optimizer="adahessian"))


def test_unknown_optimizer_is_named() -> None:
    with pytest.raises(RecipeError) as caught:
        optimizer_for(tiny_vit().module, train_config(optimizer="adamv"))
    assert "adam" in str(caught.value.next)
