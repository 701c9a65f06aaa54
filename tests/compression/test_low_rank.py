"""Two thin layers for one, against closed forms in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgevit.compression.low_rank import factorized_model, factors_of, ranks_for, with_factors
from edgevit.errors import ArtifactError, RecipeError
from edgevit.models.cost import macs_of
from edgevit.models.creation import build, create_model, with_new_head
from edgevit.models.description import ModelDescription
from edgevit.models.low_rank import LowRanks
from edgevit.models.structures import structures_of

ARGS = {"patch_size": 8, "depth": 3, "embed_dim": 48, "num_heads": 3}
VIT = create_model("deit_tiny_patch16_224", 5, 32, ARGS)


def numbers(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=25)
@given(inputs=st.integers(9, 40), outputs=st.integers(9, 40), rank=st.integers(1, 8), seed=st.integers(0, 99))
def test_no_other_layer_of_the_rank_is_nearer_on_the_images(inputs: int, outputs: int, rank: int, seed: int) -> None:
    layer, images = nn.Linear(inputs, outputs, bias=False).double(), numbers(300, inputs, seed=seed)
    layer.weight.data = numbers(outputs, inputs, seed=seed + 1)
    images = images * torch.linspace(0.1, 3, inputs, dtype=torch.float64)
    factors = factors_of(layer, images.T @ images, 1000)
    expected = layer(images).detach()
    torch.testing.assert_close(images @ (factors.left @ factors.right).double().T, expected, rtol=1e-4, atol=1e-3)
    error = (images @ (factors.left[:, :rank] @ factors.right[:rank]).double().T - expected).square().sum()
    best = torch.linalg.svdvals(expected)[rank:].square().sum()  # Eckart and Young: of all matrices of this rank
    torch.testing.assert_close(error, best, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(factors.energies[rank:].sum(), best, rtol=1e-3, atol=1e-3)


def moments(seed: int = 0) -> dict[str, Tensor]:
    paths = [path for path, one in VIT.module.named_modules() if isinstance(one, nn.Linear) and path != "head"]
    widths = {path: VIT.module.get_submodule(path).in_features for path in paths}
    some = {path: numbers(400, width, seed=seed + place) for place, (path, width) in enumerate(widths.items())}  # type: ignore[arg-type]
    return {path: one.T @ one for path, one in some.items()}


@settings(max_examples=10)
@given(keep=st.floats(0.35, 1.0))
def test_macs_stay_within_the_budget(keep: float) -> None:
    thinner = factorized_model(VIT, moments(), keep)
    share = macs_of(thinner.module, 32, 32) / macs_of(VIT.module, 32, 32)
    assert share <= keep
    assert share > keep - 0.08
    low_ranks = thinner.description.change(LowRanks)
    assert all(rank % 8 == 0 for rank in (low_ranks.ranks.values() if low_ranks else ()))


def test_sizes_of_channels_change_nothing_where_the_weights_make_up_for_them() -> None:
    layer, large = nn.Linear(24, 16, bias=False).double(), nn.Linear(24, 16, bias=False).double()
    layer.weight.data, images = numbers(16, 24, seed=0), numbers(300, 24, seed=1)
    images[:, 5] = 0  # a channel that is never used
    sizes = torch.where(torch.arange(24) < 3, 5000.0, 1.0).double()
    large.weight.data = layer.weight / sizes
    factors = factors_of(layer, images.T @ images, 1000)
    of_large = factors_of(large, (images * sizes).T @ (images * sizes), 1000)
    torch.testing.assert_close(of_large.energies, factors.energies, rtol=1e-6, atol=1e-6)
    products = [one.left[:, :8] @ one.right[:8] for one in (factors, of_large)]
    torch.testing.assert_close(products[1] * sizes.float(), products[0], rtol=1e-3, atol=1e-4)


def test_everything_kept_is_the_same_model_to_the_bit() -> None:
    same = factorized_model(VIT, moments(), 1.0)
    images = numbers(2, 3, 32, 32, seed=0).float()
    assert torch.equal(same.module(images), VIT.module(images))
    assert same.description == VIT.description


def test_full_rank_answers_the_same() -> None:
    images, layers = numbers(2, 3, 32, 32, seed=0).float(), ("blocks.0.attn.qkv", "blocks.1.mlp.fc2")
    factors = {path: factors_of(VIT.module.get_submodule(path), moments()[path], 1) for path in layers}  # type: ignore[arg-type]
    thinner = with_factors(VIT, dict.fromkeys(layers, 48), factors)
    torch.testing.assert_close(thinner.module(images), VIT.module(images), rtol=1e-4, atol=1e-5)
    assert thinner.module.blocks[0].attn.qkv[1].bias is not None


def test_description_builds_it_again_and_it_takes_another_head() -> None:
    thinner = factorized_model(VIT, moments(), 0.6)
    again = build(ModelDescription.model_validate_json(thinner.description.model_dump_json()))
    again.load_state_dict(thinner.module.state_dict())
    images = numbers(2, 3, 32, 32, seed=0).float()
    assert torch.equal(again(images), thinner.module(images))
    assert with_new_head(thinner, 7).module(images).shape == (2, 7)
    low_ranks = thinner.description.change(LowRanks)
    assert low_ranks
    divided = {path.rpartition(".")[0] for path in low_ranks.ranks}
    assert not divided & set(structures_of(again))  # what is two layers is not to be pruned


def test_what_cannot_be_done_is_said() -> None:
    with pytest.raises(RecipeError, match=r"(?s)low ranks cannot make.*keep_macs: 0.05.*at least 0\.\d+"):
        factorized_model(VIT, moments(), 0.05)
    with pytest.raises(RecipeError, match="no linear layers to divide"):
        factorized_model(create_model("resnet18", 5, 32), {}, 0.5)
    for ranks in ({"blocks.9.mlp.fc1": 8}, {"blocks.0.mlp.fc1": 49}, {"blocks.0.norm1": 8}):
        with pytest.raises(ArtifactError, match="is of another model"):
            build(VIT.description.with_change(LowRanks(ranks=ranks)))
    assert ranks_for({}, 100, 1.0) == {}
