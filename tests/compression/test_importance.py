"""Taylor scores against central differences in float64, image by image."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgevit.compression.importance import known_labels, taylor_importance
from edgevit.compression.pruning import prunable
from edgevit.data.dataset import ArrayImages, Dataset
from edgevit.data.loading import ViewDataset
from edgevit.data.transforms import normalize
from edgevit.errors import DataError
from edgevit.models.creation import BuiltModel, create_model
from edgevit.models.structures import structures_of
from edgevit.models.timm_models import timm_model
from edgevit.progress import SilentProgress

CPU, CLASSES, IMAGES = torch.device("cpu"), ("a", "b", "c"), 18
VIT = {"patch_size": 8, "depth": 2, "embed_dim": 24, "num_heads": 2, "mlp_ratio": 1.5}
HYBRID: dict[str, Any] = {"embed_dim": (8, 16, 24, 32), "depth": (1, 1, 1, 1)}


def random_images(labelled: bool = True, count: int = IMAGES) -> Dataset:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, 16, 16, 3), np.uint8)
    labels = rng.integers(0, 3, count) if labelled else None
    return Dataset("noise", CLASSES, tuple(map(str, range(count))), labels, ArrayImages(pixels), np.arange(count))


def model_of(name: str) -> BuiltModel:
    token = "distilled" in name
    args = HYBRID if name.startswith("repvit") else VIT
    built = create_model(name, 3, 16 if args is VIT else 32, args, distillation_token=token, seed=1)
    torch.manual_seed(0)
    for parameter in built.module.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return built


def losses(built: BuiltModel, model: nn.Module, dataset: Dataset) -> Tensor:
    canvases = torch.stack([ViewDataset(dataset, built.preprocess)[0, 0, index][0] for index in range(len(dataset))])
    assert dataset.labels is not None
    with torch.no_grad():
        logits = model.double()(normalize(canvases, built.preprocess).double())
    return F.cross_entropy(logits, torch.from_numpy(dataset.labels), reduction="none")


@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "repvit_m0_9"])
def test_score_is_the_derivative_of_each_image_s_loss_by_a_gate(name: str) -> None:
    built, dataset = model_of(name), random_images()
    structures, blocks = prunable(built.module, ("heads", "hidden", "blocks"))
    labels = known_labels(dataset, CLASSES)
    found = taylor_importance(built, structures, blocks, dataset, labels, CPU, 0, SilentProgress())
    step, generator = 1e-4, torch.Generator().manual_seed(0)
    for path, one in structures.items():
        unit = int(torch.randint(one.units, (1,), generator=generator))
        up, down = (with_gate(built, path, unit, 1 + sign * step, dataset) for sign in (1, -1))
        expected = (up - down) / (2 * step)
        torch.testing.assert_close(found.units[path][:, unit].double(), expected, rtol=1e-3, atol=1e-5)
    for path in blocks:
        up, down = (with_block_gate(built, path, 1 + sign * step, dataset) for sign in (1, -1))
        torch.testing.assert_close(found.blocks[path].double(), (up - down) / (2 * step), rtol=1e-3, atol=1e-5)
    assert bool(blocks) == (name != "repvit_m0_9")


def with_gate(built: BuiltModel, path: str, unit: int, gate: float, dataset: Dataset) -> Tensor:
    model = copy.deepcopy(built.module).double()
    last = structures_of(timm_model(model))[path].last
    last.layer.weight.data[:, last.indices[unit]] *= gate
    return losses(built, model, dataset)


def with_block_gate(built: BuiltModel, path: str, gate: float, dataset: Dataset) -> Tensor:
    model = copy.deepcopy(built.module).double()
    block = timm_model(model).get_submodule(path)
    for layer in (block.attn.proj, block.mlp.fc2):
        layer.weight.data *= gate
        layer.bias.data *= gate
    return losses(built, model, dataset)


def test_without_labels_the_model_s_own_answers_count_and_the_seed_decides() -> None:
    built, dataset = model_of("deit_tiny_patch16_224"), random_images(labelled=False)
    structures, _ = prunable(built.module, ("heads",))
    first, again, other = (
        taylor_importance(built, structures, [], dataset, None, CPU, seed, SilentProgress()).units["blocks.0.attn"]
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    labels = drawn_by_hand(built, dataset, seed=0)
    assert torch.equal(
        first,
        taylor_importance(built, structures, [], dataset, labels, CPU, 5, SilentProgress()).units["blocks.0.attn"],
    )


def drawn_by_hand(built: BuiltModel, dataset: Dataset, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    canvases = torch.stack([ViewDataset(dataset, built.preprocess)[0, 0, index][0] for index in range(len(dataset))])
    with torch.no_grad():
        shares = [built.module(normalize(some, built.preprocess)).softmax(-1) for some in canvases.split(16)]
    return torch.cat([torch.multinomial(one, 1, generator=generator)[:, 0] for one in shares])


def test_labels_are_matched_by_name() -> None:
    dataset = random_images()
    assert dataset.labels is not None
    renamed = known_labels(dataset, ("z", "c", "b", "a"))
    assert renamed is not None
    assert renamed.tolist() == [(3, 2, 1)[label] for label in dataset.labels]
    assert known_labels(dataset, ("a", "b")) is None
    assert known_labels(random_images(labelled=False), CLASSES) is None


def test_the_model_is_left_as_it_was_and_no_image_is_an_error() -> None:
    built = model_of("deit_tiny_patch16_224")
    structures, blocks = prunable(built.module, ("heads", "hidden", "blocks"))
    before = {key: value.clone() for key, value in built.module.state_dict().items()}
    taylor_importance(built, structures, blocks, random_images(), None, CPU, 0, SilentProgress())
    assert all(torch.equal(value, before[key]) for key, value in built.module.state_dict().items())
    assert all(parameter.grad is None for parameter in built.module.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in built.module.modules())
    with pytest.raises(DataError, match="the scores need images"):
        taylor_importance(built, structures, blocks, random_images(count=0), None, CPU, 0, SilentProgress())
