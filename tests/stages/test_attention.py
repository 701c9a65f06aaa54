"""attention: maps, distances and filters of a checkpoint, and the models of a report beside each other."""

from __future__ import annotations

import base64
import io
import json
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from edgevit.artifacts import Artifact
from edgevit.configs import Budget
from edgevit.data import open_dataset
from edgevit.data.dataset import ArrayImages, Dataset
from edgevit.data.loading import ViewDataset
from edgevit.data.preprocess import fit_to_size
from edgevit.data.splits import sample_by_hash
from edgevit.models import model_from_checkpoint
from edgevit.models.attention import first_filters
from edgevit.report.attention import filters_picture, map_picture, positions_picture
from edgevit.report.build import write_report
from edgevit.stages.attention import write_images
from tests.small_models import checkpoint, workbench


@cache
def looked_at(hybrid: bool = False, images: int = 10) -> Artifact:
    return workbench().run(
        "attention", f"attention-{hybrid:d}-{images}", model=checkpoint(hybrid).id, data="digits.test", images=images
    )


def arrays_of(attention: Artifact) -> dict[str, np.ndarray]:
    with np.load(attention.file("attention.npz"), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def test_the_record_has_each_layer_over_all_images() -> None:
    metrics = looked_at().metrics
    assert (metrics["query"], metrics["images"], metrics["input_px"]) == ("class token", 10, [32, 32])
    assert [layer["name"] for layer in metrics["layers"]] == ["blocks.0.attn", "blocks.1.attn"]
    for layer in metrics["layers"]:
        assert layer["grid"] == [4, 4]
        assert len(layer["distances_px"]) == 3
        assert all(0 < px < 32 * 2**0.5 for px in layer["distances_px"])
    fewer = looked_at(images=3).metrics["layers"][0]["distances_px"]
    assert fewer != metrics["layers"][0]["distances_px"]


def test_the_shown_images_are_chosen_by_hash() -> None:
    record = json.loads(looked_at().file("attention.json").read_text(encoding="utf-8"))
    expected = sample_by_hash(open_dataset(workbench().made["digits.test"]), 10, 0).sample_ids[:6]
    assert [image["sample_id"] for image in record["shown"]] == list(expected)
    assert arrays_of(looked_at())["maps"].shape == (6, 3, 4, 4)


def test_the_shown_images_are_the_models_view(tmp_path: Path) -> None:
    """A map lies on its picture only if the crop of the model is in it."""
    rng = np.random.default_rng(0)
    wide = rng.integers(0, 256, (1, 48, 96, 3), np.uint8)
    dataset = Dataset("wide", (), ("wide/0",), None, ArrayImages(wide), np.arange(1))
    preprocess = checkpoint().io.preprocess
    (shown,) = write_images(ViewDataset(dataset, preprocess), tmp_path)
    with Image.open(tmp_path / shown["file"]) as picture:
        assert picture.size == (32, 32)
        expected = fit_to_size(wide[0], **preprocess.model_dump(exclude={"mean", "std", "normalised_inside"}))
        assert np.array_equal(np.asarray(picture), expected)


def test_filters_are_principal_components_of_the_patch_embedding() -> None:
    components = arrays_of(looked_at())["filters"]
    assert components.shape == (28, 8, 8, 3)
    flat = first_filters(model_from_checkpoint(checkpoint())).flatten(1)
    _, lengths, axes = torch.linalg.svd(flat - flat.mean(0), full_matrices=False)
    cosines = np.abs((components.reshape(28, -1) * axes[:28].numpy()).sum(1))  # the sign of an axis is free
    assert cosines == pytest.approx(np.ones(28), abs=1e-4)
    record = json.loads(looked_at().file("attention.json").read_text(encoding="utf-8"))
    explained = float((lengths[:28] ** 2).sum() / (lengths**2).sum())
    assert record["filters_explained"] == pytest.approx(explained)


def test_a_convolutional_model_shows_its_filters_alone() -> None:
    attention = looked_at(hybrid=True)
    assert attention.metrics["layers"] == []
    assert set(arrays_of(attention)) == {"filters"}


def test_made_again_it_is_the_same() -> None:
    again = workbench().run(
        "attention", "attention-0-10", again=True, model=checkpoint().id, data="digits.test", images=10
    )
    assert again.digest == looked_at().digest


def test_the_report_shows_both_models_beside_each_other(tmp_path: Path) -> None:
    accuracy = workbench().run("evaluate", "attention-accuracy", model=checkpoint().id, data="digits.test")
    report = write_report([accuracy, looked_at(), looked_at(hybrid=True)], Budget(), "attention", tmp_path)
    (group,) = report["attention"]
    assert [model["id"] for model in group["models"]] == [checkpoint().id, checkpoint(True).id]
    page, markdown = ((tmp_path / name).read_text(encoding="utf-8") for name in ("report.html", "report.md"))
    pictures = re.findall(r'<img src="data:image/png;base64,([^"]+)" alt="([^"]+)"', page)
    of_heads = [picture for picture, alt in pictures if alt.startswith("attention of head")]
    assert len(of_heads) == 6 * 3
    with Image.open(io.BytesIO(base64.b64decode(of_heads[0]))) as picture:
        assert picture.size == (4, 4)
    assert sum("principal components" in alt for _, alt in pictures) == 2
    assert "No layer with attention between all patches can be read." in page
    layer = group["models"][0]["layers"][1]
    assert f"{sum(layer['distances_px']) / 3 / layer['uniform_px']:.2f}" in markdown
    assert "4 × 4 patches of 32 × 32 px in all" in page
    assert max(map(len, markdown.splitlines())) <= 80


def test_stages_on_other_images_have_a_group_of_their_own(tmp_path: Path) -> None:
    report = write_report([looked_at(), looked_at(images=3)], Budget(), "attention", tmp_path)
    assert [len(group["models"]) for group in report["attention"]] == [1, 1]


def test_a_map_is_brightest_where_attention_is_largest() -> None:
    attention = np.array([[0.0, 0.1], [0.4, 0.2]], np.float32)
    brightness = map_picture(attention).astype(float) @ [0.2126, 0.7152, 0.0722]
    assert np.array_equal(np.argsort(brightness.ravel()), np.argsort(attention.ravel()))
    assert np.array_equal(map_picture(attention), map_picture(attention / 7))


def test_tiles_are_placed_row_by_row_with_a_gap() -> None:
    filters = np.zeros((8, 2, 2, 3), np.float32)
    filters[7, 0, 1] = 3.0  # the eighth: first of the second row
    picture = filters_picture(filters)
    assert picture.shape == (5, 20, 3)
    assert picture[3, 1].tolist() == [255, 255, 255]
    assert picture[0, 0].tolist() == [128, 128, 128]
    assert picture[2, 0].tolist() == [255, 255, 255]  # the gap
    similarity = np.full((2, 3, 4, 5), -1, np.float32)
    similarity[1, 2, 3, 4] = 1
    assert positions_picture(similarity).shape == (2 * 5 - 1, 3 * 6 - 1, 3)
    assert positions_picture(similarity)[-1, -1].tolist() != positions_picture(similarity)[0, 0].tolist()
