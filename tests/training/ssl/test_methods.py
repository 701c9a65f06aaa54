"""What is special to a method: masks of FCMAE, tiles, rotations, regions, memories, corrupted patches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional

from edgevit.configs import Pretrain
from edgevit.errors import RecipeError
from edgevit.models import create_model
from edgevit.models.embedding import WithEmbedding
from edgevit.training.loop.batches import Batch
from edgevit.training.ssl.esvit import EsVitLearner
from edgevit.training.ssl.fcmae import FcmaeLearner, masked_windows
from edgevit.training.ssl.feature_maps import blank_features, features_of
from edgevit.training.ssl.learners import learner_for
from edgevit.training.ssl.method_choice import suited_method, with_method
from edgevit.training.ssl.pirl import PirlLearner
from edgevit.training.ssl.rotation import rotated
from edgevit.training.ssl.sit import SitLearner
from edgevit.training.ssl.tiles import distant_permutations, tile_side, tiles_of
from tests.learning import tiny_vit
from tests.training.ssl.test_learners import config_of, start_for, tiny_resnet

SWIN: dict[str, Any] = {"embed_dim": 12, "depths": [1, 1], "num_heads": [1, 1]}
MAPS = {
    "vit": ("vit_tiny_patch16_224", 16, {"patch_size": 4, "embed_dim": 24, "depth": 1, "num_heads": 2}),
    "swin": ("swin_tiny_patch4_window7_224", 56, SWIN),
    "resnet": ("resnet10t", 64, {"layers": (1, 1, 1, 1), "channels": (8, 8, 8, 16), "stem_width": 8}),
    "mobilenet": ("mobilenetv3_small_050", 64, {}),
}


@pytest.mark.parametrize("name", MAPS)
def test_regions_are_the_last_feature_map_row_by_row(name: str) -> None:
    model, size, args = MAPS[name]
    module = create_model(model, 3, size, args, seed=0).module
    images = torch.randn(2, 3, size, size)
    features = features_of(module, images)
    last = module.forward_intermediates(images, indices=1, norm=True, output_fmt="NCHW", intermediates_only=True)[-1]
    torch.testing.assert_close(features.regions, last.flatten(2).transpose(1, 2))
    logits = module.get_classifier()(features.embedding)
    torch.testing.assert_close(logits, module(images))
    assert blank_features(module, (size, size)).regions.shape[1:] == features.regions.shape[1:]


def test_masked_windows_are_sparse_convolutions_at_visible_places() -> None:
    """A sparse convolution sums over the visible neighbors alone, and gives nothing at masked places."""
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, 4, 3, padding=1).double(), nn.Conv2d(4, 5, 3, padding=1).double()
    image = torch.randn(1, 3, 4, 4, dtype=torch.float64)
    shown = torch.tensor([[1.0, 0], [0, 1]], dtype=torch.float64).view(1, 1, 2, 2)
    visible = shown[0, 0].repeat_interleave(2, 0).repeat_interleave(2, 1).bool()

    def sparse(layer: nn.Conv2d, features: Tensor) -> Tensor:
        result = torch.zeros(layer.out_channels, 4, 4, dtype=torch.float64)
        for row, column in visible.nonzero().tolist():
            total = layer.bias.clone()
            for i in range(3):
                for j in range(3):
                    y, x = row + i - 1, column + j - 1
                    if 0 <= y < 4 and 0 <= x < 4 and visible[y, x]:
                        total = total + layer.weight[:, :, i, j] @ features[:, y, x]
            result[:, row, column] = total
        return result

    expected = sparse(second, sparse(first, image[0]))
    layers = nn.Sequential(first, second)
    with masked_windows(layers, shown) as mask:
        result = layers(mask(image))[0]
    torch.testing.assert_close(result[:, visible], expected[:, visible])
    assert not torch.allclose(layers(image)[0][:, visible], expected[:, visible])  # the masks are gone


def test_batch_normalization_sees_visible_places_alone() -> None:
    torch.manual_seed(0)
    convolution, norm, pooled = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4, momentum=1), nn.BatchNorm2d(4)
    model = nn.Sequential(convolution, norm, nn.Sequential(nn.AdaptiveAvgPool2d(1), pooled))
    images, shown = torch.randn(2, 3, 4, 4), torch.tensor([[1.0, 0, 0, 1], [0, 1.0, 0, 0]]).view(2, 1, 2, 2)
    visible = shown[:, 0].repeat_interleave(2, 1).repeat_interleave(2, 2).bool()
    values = convolution(images * visible.unsqueeze(1)).permute(0, 2, 3, 1)[visible]
    with masked_windows(model, shown) as mask:
        normalized = norm(convolution(mask(images)))
        assert model(images).shape == (2, 4, 1, 1)  # a pooled map has no places
    torch.testing.assert_close(norm.running_mean, values.mean(0))
    torch.testing.assert_close(norm.running_var, values.var(0))
    standard = (values - values.mean(0)) / (values.var(0, unbiased=False) + norm.eps).sqrt()
    torch.testing.assert_close(normalized.permute(0, 2, 3, 1)[visible], standard, atol=1e-5, rtol=1e-4)
    assert not normalized.permute(0, 2, 3, 1)[~visible].any()
    assert norm(images.repeat(1, 2, 1, 1)[:, :4]).all()  # the masks are gone


@pytest.mark.parametrize("start", ["resnet", "hybrid"])
def test_fcmaes_encoder_sees_no_masked_pixel(start: str) -> None:
    hybrid = {"embed_dim": (8, 16, 24, 32), "depth": (1, 1, 1, 1)}
    built = tiny_resnet(64) if start == "resnet" else create_model("repvit_m0_9", 3, 64, hybrid, seed=0)
    learner = learner_for(config_of("fcmae"), built, 24)
    assert isinstance(learner, FcmaeLearner)
    assert learner.patch == (32, 32)
    assert learner.visible == 2
    learner.eval()
    images, other = torch.randn(2, 2, 3, 64, 64)
    shown = torch.tensor([[1.0, 0, 0, 1], [0, 1.0, 1, 0]])
    pixels = shown.view(2, 1, 2, 2).repeat_interleave(32, 2).repeat_interleave(32, 3)
    mixed = images * pixels + other * (1 - pixels)
    torch.testing.assert_close(learner.encoded(images, shown), learner.encoded(mixed, shown))
    everything = torch.ones(2, 4)
    torch.testing.assert_close(learner.encoded(images, everything), features_of(learner.model, images).regions)


@pytest.mark.parametrize(
    ("model", "size", "args", "said"),
    [
        ("vit_tiny_patch16_224", 32, {"depth": 1}, r"(?s)attention alone.*VisionTransformer.*mae for a plain ViT"),
        ("swin_tiny_patch4_window7_224", 56, SWIN, r"(?s)attention alone.*SwinTransformer.*esvit for Swin"),
        ("vit_tiny_r_s16_p8_224", 64, {"depth": 1}, r"(?s)tokens beside the map.*dino or simclr"),
        ("resnet18", 32, {}, r"(?s)got: 1 places at 32 px.*image_size: 96"),
        (
            "efficientvit_m0",
            128,
            {},
            r"(?s)windows or heads.*an input of 8 × 16 × 7 × 7 for 2 images",
        ),
        ("mvitv2_tiny", 64, {}, r"(?s)windows or heads.*MultiScaleVit"),
        ("coat_tiny", 64, {}, r"(?s)several maps.*CoaT.*simclr"),
    ],
)
def test_fcmae_names_alternatives(model: str, size: int, args: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        learner_for(config_of("fcmae"), create_model(model, 1, size, args), 24)


def test_methods_of_embeddings_take_models_that_end_in_several_maps() -> None:
    built = create_model("coat_tiny", 3, 64)
    learner = learner_for(config_of("simclr"), built, 24)
    views = [torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8) for _ in range(2)]
    embeddings = learner.eval().embeddings(learner.model, views)
    expected = [WithEmbedding(learner.model)(learner.images_of(view))[1] for view in views]
    torch.testing.assert_close(embeddings, torch.stack(expected))
    with pytest.raises(RecipeError, match=r"(?s)several maps.*CoaT.*dino"):
        learner_for(config_of("esvit"), built, 24)


def test_esvit_needs_regions() -> None:
    with pytest.raises(RecipeError, match=r"(?s)last feature map has one region.*method: dino"):
        learner_for(config_of("esvit"), create_model("resnet18", 1, 32), 24)


def test_the_center_of_regions_moves_with_the_teachers_regions() -> None:
    seen: list[Tensor] = []
    learner = learner_for(config_of("esvit", {"center_momentum": 0.5}), tiny_vit(patch_size=4), 24)
    assert isinstance(learner, EsVitLearner)
    learner.teacher_region_head.register_forward_hook(lambda *call: seen.append(call[2].mean((0, 1))))
    views = tuple(torch.randint(0, 256, (3, 16, 16, 3), dtype=torch.uint8) for _ in range(3))
    none = torch.zeros(3, dtype=torch.int64)
    learner(Batch(views, none, none, torch.arange(3), none, none, none, torch.ones(3), none))
    learner.after_step(1, 10)
    torch.testing.assert_close(learner.region_center, 0.5 * torch.stack(seen).mean(0))
    assert len(seen) == learner.global_views == 2


def test_rotated_turns_each_image_by_its_own_quarters() -> None:
    images = torch.randn(4, 3, 5, 5)
    for turns in ([0, 1, 2, 3], [3, 3, 0, 1]):
        expected = [image.rot90(turn, (1, 2)) for image, turn in zip(images, turns, strict=True)]
        assert torch.equal(rotated(images, torch.tensor(turns)), torch.stack(expected))


def test_a_tile_is_a_normalized_part_of_its_own_cell() -> None:
    image = torch.arange(9.0).view(3, 3).repeat_interleave(10, 0).repeat_interleave(10, 1)
    image = image * 100 + torch.rand(30, 30)  # each cell has values of its own
    tiles = tiles_of(image.expand(2, 3, 30, 30), grid=3, side=9)  # round(64 / 75 · 10) = 9: no resampling
    assert tiles.shape == (2, 9, 3, 9, 9)
    torch.testing.assert_close(tiles.mean((-2, -1)), torch.zeros(2, 9, 3), atol=1e-3, rtol=0)
    for number in range(9):
        cell = image[number // 3 * 10 :, number % 3 * 10 :][:10, :10]
        cuts = [cell[y : y + 9, x : x + 9] for y in range(2) for x in range(2)]
        cuts = [(cut - cut.mean()) / cut.std() for cut in cuts]
        assert any(torch.allclose(tiles[0, number, 0], cut, atol=1e-2) for cut in cuts)


def test_the_side_of_a_tile_suits_the_backbone() -> None:
    assert tile_side(tiny_vit(patch_size=4).module, 2, 16) == 8  # 64 / 75 · 8 = 6.8
    assert tile_side(tiny_resnet().module, 3, 224) == 64


def test_permutations_are_far_from_each_other() -> None:
    chosen = distant_permutations(9, 30, seed=1)
    assert all(sorted(row) == list(range(9)) for row in chosen.tolist())
    distances = (chosen.unsqueeze(0) != chosen.unsqueeze(1)).sum(-1) + 9 * torch.eye(30, dtype=torch.int64)
    random = torch.rand(30, 9, generator=torch.Generator().manual_seed(2)).argsort(1)
    of_random = (random.unsqueeze(0) != random.unsqueeze(1)).sum(-1) + 9 * torch.eye(30, dtype=torch.int64)
    assert distances.min() > of_random.min()
    assert len({tuple(row) for row in distant_permutations(4, 24, seed=0).tolist()}) == 24
    assert torch.equal(chosen, distant_permutations(9, 30, seed=1))


def test_memories_are_moving_averages_of_the_outputs_for_their_images() -> None:
    config = config_of("pirl", {"memory_momentum": 0.75}, epochs=1, batch_size=24, learning_rate=0)
    learner = learner_for(config, start_for(config), 24)
    assert isinstance(learner, PirlLearner)
    assert not learner.memory.any()
    learner._samples, learner._outputs = torch.tensor([2, 7]), functional.normalize(torch.randn(2, 8), dim=1)
    learner.after_step(1, 2)
    torch.testing.assert_close(learner.memory[learner._samples], learner._outputs)  # it begins with the first output
    before = learner.memory.clone()
    learner._samples, learner._outputs = torch.tensor([5, 2, 5]), functional.normalize(torch.randn(3, 8), dim=1)
    learner.after_step(2, 2)
    for sample, row in ((5, 0), (2, 1)):  # of an image that comes twice, the first output
        expected = functional.normalize(0.75 * before[sample] + 0.25 * learner._outputs[row], dim=0)
        torch.testing.assert_close(learner.memory[sample], expected)
    kept = [row for row in range(24) if row not in (5, 2)]
    assert torch.equal(learner.memory[kept], before[kept])


def test_before_a_memory_has_begun_a_puzzle_finds_the_output_for_its_image() -> None:
    config = config_of("pirl", {"negatives": 10})
    learner = learner_for(config, start_for(config), 24)
    assert isinstance(learner, PirlLearner)
    outputs = torch.randn(3, 8, requires_grad=True)
    learner.memory[7] = functional.normalize(torch.randn(8), dim=0)
    memories = learner._memories(torch.tensor([4, 7, 9]), outputs)
    expected = functional.normalize(outputs.detach(), dim=1)
    expected[1] = learner.memory[7]
    torch.testing.assert_close(memories, expected)
    assert not memories.requires_grad
    assert not learner._negatives(torch.tensor([7])).any()  # the only memory that has begun is its own


def test_the_own_memory_is_no_negative() -> None:
    config = config_of("pirl", {"negatives": 10})
    learner = learner_for(config, start_for(config), 24)
    assert isinstance(learner, PirlLearner)
    samples = torch.arange(24)
    learner.memory.normal_()
    for _ in range(5):
        negatives = learner._negatives(samples)
        assert not (negatives == learner.memory.unsqueeze(1)).all(-1).any()
        assert negatives.shape == (24, 10, 8)


def test_sit_replaces_groups_of_patches_by_noise_and_by_the_image_before() -> None:
    learner = learner_for(config_of("sit", {"corrupted": 0.5}), tiny_vit(patch_size=4), 24)
    assert isinstance(learner, SitLearner)
    images = torch.randn(3, 3, 16, 16)
    corrupted = learner.corrupted(images)
    groups = [(slice(y, y + 8), slice(x, x + 8)) for y in (0, 8) for x in (0, 8)]
    for number in range(3):
        same = [torch.equal(corrupted[number][:, y, x], images[number][:, y, x]) for y, x in groups]
        before = [torch.equal(corrupted[number][:, y, x], images[number - 1][:, y, x]) for y, x in groups]
        assert (sum(same), sum(before)) == (2, 1)  # the fourth is noise


def test_auto_depends_on_backbone_images_batch_and_device() -> None:
    vit, resnet = tiny_vit(patch_size=4).module, tiny_resnet().module
    assert suited_method(vit, 1_000, 64, "cuda").method == "dino"
    assert suited_method(vit, 1_000, 64, "cpu").method == "simclr"
    assert suited_method(resnet, 1_000, 64, "cuda").method == "simclr"
    assert suited_method(resnet, 20_000, 64, "cuda").method == "moco"
    assert suited_method(resnet, 20_000, 256, "cpu").method == "simclr"


def test_each_option_that_auto_takes_suits_each_method_that_it_may_choose() -> None:
    given = {"stage": "pretrain", "id": "body", "model": "m", "data": "d", "method": "auto"}
    tried: dict[str, Any] = {
        "ema_decay": 0.9, "accumulation": 2, "grad_checkpointing": True, "compile": True, "freeze": 2,
        "image_size": 64, "init": "other", "model_args": {"depth": 1}, "augmentation": {"mixup": 0.2},
        "views": [{"count": 2, "scale": [0.5, 1]}], "label_smoothing": 0.1,
    }  # fmt: skip
    taken = []
    for option, value in tried.items():
        try:
            config = Pretrain.model_validate({**given, option: value})
        except ValidationError:
            continue
        taken.append(option)
        for method in ("dino", "moco", "simclr"):
            assert with_method(config, method).method.type == method
    assert {"grad_checkpointing", "freeze", "image_size"} <= set(taken)
    with pytest.raises(ValidationError, match="auto may take a method whose teacher is a moving average"):
        Pretrain.model_validate({**given, "ema_decay": 0.9})


def test_the_method_of_auto_brings_its_views_and_keeps_given_changes() -> None:
    given = {"stage": "pretrain", "id": "body", "model": "m", "data": "d", "method": "auto", "epochs": 3}
    assert with_method(Pretrain.model_validate(given), "moco") == Pretrain.model_validate({**given, "method": "moco"})
    changed = {**given, "augmentation": {"grayscale": 0}}
    expected = Pretrain.model_validate({**changed, "method": "simclr"})
    assert with_method(Pretrain.model_validate(changed), "simclr") == expected
    assert expected.augmentation.blur == 0.5
