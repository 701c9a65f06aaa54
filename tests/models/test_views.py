"""Test-time views: the mean over an image and views of it, wherever the model goes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from torchvision.transforms.functional import hflip, resized_crop

from edgevit.artifacts import IOSpec
from edgevit.configs import View
from edgevit.exporting.onnx import onnx_from_module
from edgevit.models import BuiltModel, cost_of, create_model, model_from_checkpoint, open_checkpoint
from edgevit.models.checkpoints import open_to_train
from edgevit.models.creation import with_test_time_views
from edgevit.models.taps import checked_taps, forward_with_taps
from edgevit.models.timm_models import timm_model
from edgevit.models.views import MultiViewModel
from tests.learning import published_checkpoint, tiny_token_vit, tiny_vit

BOTH: tuple[View, ...] = ("flip", "zoom")
IMAGES = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def expected_logits(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    zoomed = resized_crop(images, 1, 1, 14, 14, [16, 16], antialias=False)
    logits: torch.Tensor = (model(images) + model(hflip(images)) + model(zoomed)) / 3
    return logits


@pytest.mark.parametrize("built", [tiny_vit(), tiny_token_vit()], ids=["vit", "token"])
@torch.no_grad()
def test_answer_is_the_mean_over_the_views(built: BuiltModel) -> None:
    model = with_test_time_views(built, BOTH).module
    torch.testing.assert_close(model(IMAGES), expected_logits(built.module, IMAGES), atol=1e-5, rtol=1e-5)
    assert (model(IMAGES) - built.module(IMAGES)).abs().max() > 1e-3


@torch.no_grad()
def test_odd_sizes_are_zoomed_to_the_middle() -> None:
    built = create_model("resnet18", 2, 33)
    images = torch.rand(1, 3, 33, 33, generator=torch.Generator().manual_seed(0))
    model = with_test_time_views(built, ("zoom",)).module
    zoomed = resized_crop(images, 2, 2, 29, 29, [33, 33], antialias=False)
    expected = (built.module(images) + built.module(zoomed)) / 2
    torch.testing.assert_close(model(images), expected, atol=1e-5, rtol=1e-5)


def test_in_training_the_model_answers_as_by_itself() -> None:
    built = tiny_token_vit()
    model = with_test_time_views(built, BOTH).module.train()
    expected = built.module.train()(IMAGES)
    for got, one in zip(model(IMAGES), expected, strict=True):
        assert torch.equal(got, one)


def test_no_views_leave_the_model_alone() -> None:
    built = tiny_vit()
    assert with_test_time_views(built, ()) is built


def test_each_view_costs_one_more_pass() -> None:
    built = tiny_vit()
    plain, several = (cost_of(with_test_time_views(built, views).module, built.preprocess) for views in ((), BOTH))
    assert several == {"params": plain["params"], "macs": 3 * plain["macs"]}


@pytest.mark.parametrize("token", [False, True])
def test_checkpoint_keeps_its_views_and_training_drops_them(tmp_path: Path, token: bool) -> None:
    built = tiny_token_vit() if token else tiny_vit()
    artifact = published_checkpoint(tmp_path, with_test_time_views(built, BOTH), ("a", "b", "c"))
    with torch.no_grad():
        expected = expected_logits(built.module, IMAGES)
        torch.testing.assert_close(model_from_checkpoint(artifact)(IMAGES), expected, atol=1e-5, rtol=1e-5)
        opened = open_to_train(artifact, {})
        assert torch.equal(opened.module(IMAGES), built.module(IMAGES))
    assert opened.description == built.description
    assert type(timm_model(open_checkpoint(artifact).module)) is type(timm_model(built.module))


@torch.no_grad()
def test_features_are_the_plain_images_and_the_answer_is_the_whole_models() -> None:
    built = tiny_vit()
    model = with_test_time_views(built, BOTH).module
    taps, _ = checked_taps(model, ["pooled", -1], (16, 16), "teacher")
    answer, features = forward_with_taps(model, IMAGES, taps)
    assert torch.equal(answer, model(IMAGES))  # type: ignore[arg-type]
    for got, expected in zip(features, forward_with_taps(built.module, IMAGES, taps)[1], strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", pytest.param("repvit_m0_9", marks=pytest.mark.slow)])
def test_onnx_file_of_any_batch_size_answers_alike(tmp_path: Path, name: str) -> None:
    args = {
        "vit_tiny_patch16_224": {"depth": 1, "embed_dim": 24, "num_heads": 2},
        "repvit_m0_9": {"embed_dim": (8, 16, 24, 32), "depth": (1, 1, 1, 1)},
    }[name]
    built = with_test_time_views(create_model(name, 3, 64, args), BOTH)  # type: ignore[arg-type]
    spec = IOSpec.for_classifier(built.preprocess, ("a", "b", "c"))
    exported = onnx_from_module(built.module, spec, opset=18, dynamic_batch=True)
    exported.write(tmp_path / "model.onnx")
    assert exported.dynamic_batch
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for batch in (1, 5):
        images = torch.rand(batch, 3, 64, 64, generator=torch.Generator().manual_seed(batch))
        (got,) = session.run(None, {"image": images.numpy()})
        with torch.no_grad():
            np.testing.assert_allclose(got, built.module(images).numpy(), atol=1e-4, rtol=1e-4)


def test_wrapper_is_what_the_description_says(tmp_path: Path) -> None:
    artifact = published_checkpoint(tmp_path, with_test_time_views(tiny_vit(), ("flip",)), ("a", "b", "c"))
    model = model_from_checkpoint(artifact)
    assert isinstance(model, MultiViewModel)
    assert model.views == ("flip",)
