"""Attention weights, read as a model runs: against softmax(q·kᵀ/√d) by hand, with outputs as they were."""

from __future__ import annotations

import math

import numpy as np
import pytest
import timm
import torch

from edgevit.models.attention import first_filters, position_similarity, recorded_attention, unfused_attention

SIDE = 32


def vit(**changes) -> torch.nn.Module:
    torch.manual_seed(0)
    options = {"img_size": SIDE, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 4}
    model = timm.create_model("vit_tiny_patch16_224", **{**options, **changes})
    for parameter in model.parameters():  # larger weights: attention is far from uniform
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def images(count: int = 3, side: int = SIDE) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def recorded(model: torch.nn.Module, batches: list[torch.Tensor]):
    with torch.no_grad(), recorded_attention(model, (batches[0].shape[2], batches[0].shape[3])) as layers:
        outputs = [model(batch) for batch in batches]
    return list(layers.values()), torch.cat(outputs)


def weights_by_hand(model: torch.nn.Module, batch: torch.Tensor) -> torch.Tensor:
    """The attention of the last block, (N, heads, tokens, tokens) float64, from its queries and keys."""
    entering: dict[str, torch.Tensor] = {}
    block = model.blocks[-1]
    hook = block.norm1.register_forward_hook(lambda _, __, output: entering.update(tokens=output))
    with torch.no_grad():
        model(batch)
    hook.remove()
    tokens = entering["tokens"].double()
    qkv = tokens @ block.attn.qkv.weight.double().T + block.attn.qkv.bias.double()
    queries, keys, _ = qkv.unflatten(-1, (3, 3, 16)).permute(2, 0, 3, 1, 4)
    return (queries @ keys.transpose(-2, -1) / math.sqrt(16)).softmax(-1).detach()


def test_maps_are_the_attention_of_the_class_token() -> None:
    model = vit()
    (first, last), _ = recorded(model, [images()])
    assert (first.name, last.name, last.grid) == ("blocks.0.attn", "blocks.1.attn", (4, 4))
    expected = weights_by_hand(model, images())[:, :, 0, 1:].unflatten(-1, (4, 4))
    torch.testing.assert_close(torch.stack(last.maps).double(), expected, atol=1e-4, rtol=1e-3)


def test_without_a_class_token_a_map_is_the_mean_over_all_patches() -> None:
    model = vit(class_token=False, global_pool="avg")
    *_, last = recorded(model, [images()])[0]
    expected = weights_by_hand(model, images()).mean(2).unflatten(-1, (4, 4))
    torch.testing.assert_close(torch.stack(last.maps).double(), expected, atol=1e-4, rtol=1e-3)
    assert torch.stack(last.maps).sum((-2, -1)) == pytest.approx(np.ones((3, 3)), abs=1e-5)


def test_distances_are_weighted_pixels_between_patches() -> None:
    model = vit()
    *_, last = recorded(model, [images()])[0]
    weights = weights_by_hand(model, images())[:, :, 1:, 1:].numpy()
    for image in range(3):
        for head in range(3):
            total = 0.0
            for query in range(16):
                row = weights[image, head, query]
                for key in range(16):
                    far = 8 * math.hypot(query // 4 - key // 4, query % 4 - key % 4)
                    total += far * row[key] / row.sum() / 16
            assert float(last.distances_px[image][head]) == pytest.approx(total, rel=1e-3)
    pairs = [8 * math.hypot(a // 4 - b // 4, a % 4 - b % 4) for a in range(16) for b in range(16)]
    assert last.uniform_px == pytest.approx(sum(pairs) / 256)


def test_outputs_are_those_of_the_fused_kernel_and_the_model_is_as_before() -> None:
    model = vit()
    before = [module.fused_attn for module in model.modules() if hasattr(module, "fused_attn")]
    with torch.no_grad():
        expected = model(images())
    layers, outputs = recorded(model, [images()[:2], images()[2:]])
    torch.testing.assert_close(outputs, expected, atol=1e-4, rtol=1e-4)
    assert len(layers[-1].maps) == 3
    assert [module.fused_attn for module in model.modules() if hasattr(module, "fused_attn")] == before == [True, True]
    assert not any(module._forward_pre_hooks for module in model.modules())
    with pytest.raises(ZeroDivisionError), unfused_attention(model):
        raise ZeroDivisionError
    assert model.blocks[0].attn.fused_attn


def test_a_hybrid_is_read_and_a_wide_image_has_a_wide_grid() -> None:
    torch.manual_seed(0)
    hybrid = timm.create_model("pit_ti_distilled_224", num_classes=4).eval()
    layers = recorded(hybrid, [images(2, 224)])[0]
    assert [layer.grid for layer in layers[:2]] == [(27, 27), (27, 27)]
    assert layers[-1].grid == (7, 7)
    wide = vit(img_size=(16, 32))
    assert recorded(wide, [images()[:, :, :16]])[0][-1].grid == (2, 4)


@pytest.mark.parametrize("name", ["resnet18", "edgenext_xx_small"])
def test_convolutions_and_attention_between_channels_are_left_out(name: str) -> None:
    model = timm.create_model(name, num_classes=4).eval()
    assert recorded(model, [images(1, 224)])[0] == []


def test_windows_are_left_out_unless_one_holds_all_patches() -> None:
    swin = timm.create_model("swin_tiny_patch4_window7_224", num_classes=4).eval()
    layers = recorded(swin, [images(1, 224)])[0]
    assert [(layer.name, layer.grid) for layer in layers] == [
        ("layers.3.blocks.0.attn", (7, 7)), ("layers.3.blocks.1.attn", (7, 7)),
    ]  # fmt: skip


def test_position_similarity_is_the_cosine_of_embeddings() -> None:
    model = vit()
    similarity = position_similarity(model)
    assert similarity.shape == (4, 4, 4, 4)
    embedding = model.pos_embed.detach()[0, 1:].double()
    expected = torch.cosine_similarity(embedding[6], embedding, dim=-1)
    torch.testing.assert_close(similarity[1, 2].flatten(), expected)
    assert position_similarity(timm.create_model("resnet18")) is None


def test_first_filters_are_those_of_the_patch_embedding() -> None:
    model = vit()
    filters = first_filters(model)
    assert filters.shape == (48, 8, 8, 3)
    torch.testing.assert_close(filters[5, 1, 2, 0], model.patch_embed.proj.weight[5, 0, 1, 2].double())
    assert first_filters(torch.nn.Linear(3, 3)) is None
