"""Merging of tokens against a loop in float64, and what must not change by it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from edgevit.compression.pruning import magnitude_importance, plan_removal, prunable, pruned_model
from edgevit.errors import RecipeError
from edgevit.models.cost import macs_of
from edgevit.models.creation import BuiltModel, build, create_model, with_change, with_new_head
from edgevit.models.description import ModelDescription
from edgevit.models.structures import structures_of
from edgevit.models.token_merging import MergedTokens, MergingBlocks, attention_and_keys, merge

ARGS: dict[str, Any] = {"patch_size": 8, "depth": 3, "embed_dim": 48, "num_heads": 3}


def vit(name: str = "deit_tiny_distilled_patch16_224", **args: Any) -> BuiltModel:
    built = create_model(name, 5, 32, {**ARGS, **args})
    return built._replace(module=built.module.double())


def numbers(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def merged_by_hand(
    tokens: np.ndarray, keys: np.ndarray, sizes: np.ndarray, merged: int, prefix: int
) -> list[tuple[np.ndarray, float]]:
    """One image: the tokens after the prefix that are left, each with its size, in no order."""
    looking, others = range(prefix, len(tokens), 2), range(prefix + 1, len(tokens), 2)
    unit = keys / np.linalg.norm(keys, axis=-1, keepdims=True)
    pairs = []
    for one in looking:
        similarities = [float(unit[one] @ unit[other]) for other in others]
        pairs.append((max(similarities), one, others[int(np.argmax(similarities))]))
    groups = {one: [one] for one in (*looking, *others)}
    for _, one, other in sorted(pairs, reverse=True)[:merged]:
        groups[other] += groups.pop(one)
    return [
        (np.average(tokens[group], axis=0, weights=sizes[group]), float(sizes[group].sum()))
        for group in groups.values()
    ]


@settings(max_examples=40)
@given(patches=st.integers(2, 13), prefix=st.integers(0, 2), seed=st.integers(0, 999), data=st.data())
def test_merge_is_the_loop(patches: int, prefix: int, seed: int, data: st.DataObject) -> None:
    merged, count = data.draw(st.integers(0, patches // 2)), prefix + patches
    tokens, keys = numbers(2, count, 6, seed=seed), numbers(2, count, 4, seed=seed + 1)
    sizes = numbers(2, count, 1, seed=seed + 2).abs().ceil()
    found, found_sizes = merge(tokens, keys, sizes, merged, prefix)
    assert found.shape == (2, count - merged, 6)
    torch.testing.assert_close(found[:, :prefix], tokens[:, :prefix])
    for image in range(2):
        rows = zip(found[image, prefix:].tolist(), found_sizes[image, prefix:, 0].tolist(), strict=True)
        expected = merged_by_hand(*(one[image].squeeze(-1).numpy() for one in (tokens, keys, sizes)), merged, prefix)  # type: ignore[arg-type, call-arg]
        by_size = sorted((size, row) for row, size in rows)
        for (size, row), (right_size, right) in zip(
            by_size, sorted((size, row.tolist()) for row, size in expected), strict=True
        ):
            assert size == right_size
            np.testing.assert_allclose(row, right, rtol=1e-9, atol=1e-12)


@settings(max_examples=30)
@given(patches=st.integers(2, 12), merged=st.integers(0, 6), seed=st.integers(0, 99))
def test_nothing_is_lost_or_made(patches: int, merged: int, seed: int) -> None:
    merged = min(merged, patches // 2)
    tokens, sizes = numbers(1, patches, 5, seed=seed), numbers(1, patches, 1, seed=seed + 1).abs() + 0.5
    found, found_sizes = merge(tokens, tokens, sizes, merged, 0)
    torch.testing.assert_close(found_sizes.sum(1), sizes.sum(1))
    torch.testing.assert_close((found * found_sizes).sum(1), (tokens * sizes).sum(1))


@pytest.mark.parametrize("args", [{}, {"qk_norm": True, "init_values": 0.5}])
def test_merging_no_token_is_the_model_to_the_bit(args: dict[str, Any]) -> None:
    model = vit(**args).module.float()
    tokens = numbers(2, 18, 48, seed=0).float()
    assert torch.equal(MergingBlocks(model.blocks, 0, 2)(tokens), model.blocks(tokens))  # type: ignore[arg-type]


def test_merging_equal_tokens_changes_nothing() -> None:
    """Whichever of a patch's eight copies a token takes for its partner: each block halves the copies' number."""
    model = vit().module
    tokens = torch.cat([numbers(2, 2, 48, seed=0), numbers(2, 4, 48, seed=1).repeat_interleave(8, dim=1)], dim=1)
    found = MergingBlocks(model.blocks, 16, 2)(tokens)  # type: ignore[arg-type]
    assert found.shape[1] == 2 + 4
    torch.testing.assert_close(found[:, :2], model.blocks(tokens)[:, :2])


def test_token_that_counts_twice_is_attended_to_as_two() -> None:
    attention = vit().module.blocks[0].attn
    tokens, sizes = numbers(1, 5, 48, seed=0), torch.tensor([1, 1, 3, 1, 2], dtype=torch.float64).view(1, 5, 1)
    whole = tokens.repeat_interleave(sizes.flatten().long(), dim=1)
    found, keys = attention_and_keys(attention, tokens, sizes)
    torch.testing.assert_close(found[0], attention(whole)[0, [0, 1, 2, 5, 6]])
    qkv = attention.qkv(tokens)[0]
    torch.testing.assert_close(keys[0], (qkv[:, 48:64] + qkv[:, 64:80] + qkv[:, 80:96]) / 3)


def test_merged_model_is_described_built_again_trained_and_given_another_head() -> None:
    built = vit()
    merging = with_change(built._replace(module=built.module.float()), MergedTokens(per_block=4))
    again = build(ModelDescription.model_validate_json(merging.description.model_dump_json()))
    again.load_state_dict(built.module.state_dict())
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again(images), merging.module(images))
    assert not torch.allclose(again(images), built.module.float()(images))
    assert macs_of(again, 32, 32) < macs_of(built.module, 32, 32)
    seen: list[int] = []
    for block in again.blocks:
        block.mlp.register_forward_hook(lambda _, inputs, output: seen.append(output.shape[1]))
    again.train()(images).sum().backward()
    assert seen == [14, 10, 6]
    assert all(parameter.grad is not None for parameter in again.parameters())
    assert with_new_head(merging, 7).module(images).shape == (2, 7)


def test_few_tokens_are_halved_and_one_stays() -> None:
    model = vit().module
    assert MergingBlocks(model.blocks, 100, 2)(numbers(1, 2 + 6, 48, seed=0)).shape[1] == 2 + 1  # type: ignore[arg-type]


def test_pruned_model_merges_too_but_not_the_other_way_round() -> None:
    built = create_model("deit_tiny_patch16_224", 5, 32, ARGS)
    removal = plan_removal(built, magnitude_importance(structures_of(built.module)), "macs", 0.6)
    pruned = pruned_model(built, removal._replace(blocks=["blocks.1"], units={"blocks.0.attn": [1]}))
    merging = with_change(pruned, MergedTokens(per_block=3))
    assert merging.module(torch.zeros(1, 3, 32, 32)).shape == (1, 5)
    with pytest.raises(RecipeError, match=r"(?s)cannot be pruned.*prune it first"):
        prunable(merging.module, ("heads",))


@pytest.mark.parametrize(
    ("name", "args", "merged", "message"),
    [
        ("edgenext_xx_small", None, 4, "in plain ViTs alone"),
        ("deit_tiny_patch16_224", {"global_pool": "avg"}, 4, "reads the class token"),
        ("deit_tiny_patch16_224", {}, 9, "half of the patches at most"),
    ],
)
def test_what_cannot_merge_is_refused(name: str, args: dict[str, Any] | None, merged: int, message: str) -> None:
    built = create_model(name, 5, 32, {} if args is None else {**ARGS, **args})
    with pytest.raises(RecipeError, match=message):
        with_change(built, MergedTokens(per_block=merged))


def test_no_model_merges_twice() -> None:
    merging = with_change(create_model("deit_tiny_patch16_224", 5, 32, ARGS), MergedTokens(per_block=2))
    with pytest.raises(RecipeError, match="merges tokens already"):
        with_change(merging, MergedTokens(per_block=2))
