"""Bodies: networks whose weights come with edgevit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.body import RECIPE
from edgevit.artifacts import sha256_of_file
from edgevit.data.images import read_image
from edgevit.errors import ArtifactError, RecipeError
from edgevit.models import bodies, catalogue, create_model
from edgevit.models.embedding import WithEmbedding, embedding_width
from edgevit.models.pretrained import can_be_had
from edgevit.recipe import load_recipe

GROCERY = Path(__file__).parents[3] / "shared" / "data" / "grocery" / "train"
KINDS = (  # that color does not tell apart
    *("Fruit/Avocado", "Fruit/Kiwi", "Fruit/Lime", "Fruit/Pear"),
    *("Vegetables/Asparagus", "Vegetables/Cucumber", "Vegetables/Leek", "Vegetables/Zucchini"),
)
NAMES = [body.name for body in bodies.read()]
HEAD = {"head.fc.weight", "head.fc.bias"}


@pytest.mark.parametrize("body", bodies.read(), ids=NAMES)
def test_each_body_says_what_it_learned_from(body: bodies.Body) -> None:
    assert sha256_of_file(body.weights) == body.sha256
    assert body.weights.stat().st_size < 8 * 2**20
    assert body.licence
    assert body.teacher
    assert body.training["epochs"]
    assert all(pictures.images and pictures.licence for pictures in body.learned_from)
    entry = next(entry for entry in catalogue.read() if entry.name == body.name)
    assert entry.params <= 3_000_000
    assert entry.default_size == body.default_size


def test_the_kept_recipe_is_the_one_that_trained_the_body() -> None:
    (body,) = bodies.read()
    (stage,) = (stage for stage in load_recipe(RECIPE).stages if stage.id == "body")
    assert json.loads(stage.model_dump_json()) == {**json.loads(stage.model_dump_json()), **body.training}
    assert (body.architecture, body.model_args, body.image_size) == (stage.model, stage.model_args, stage.image_size)


def test_a_body_needs_no_network() -> None:
    assert all(can_be_had(name, offline=True) and can_be_had(f"{name}.edgevit", offline=True) for name in NAMES)


@pytest.mark.parametrize("size", [None, 64, 96])
@pytest.mark.parametrize("body", bodies.read(), ids=NAMES)
def test_all_but_the_classifier_is_from_the_file(body: bodies.Body, size: int | None) -> None:
    first, second = (create_model(body.name, 10, size, pretrained=True, seed=seed) for seed in (0, 1))
    assert first.description.model_args["img_size"] == (size or body.default_size)
    assert first.description.licence == body.licence
    state, other, kept = first.module.state_dict(), second.module.state_dict(), load_file(body.weights)
    assert {key for key, value in state.items() if not torch.equal(value, other[key])} == HEAD
    assert state.keys() - HEAD == kept.keys()
    assert all(torch.equal(state[key], kept[key].float()) for key in kept if size == body.image_size)
    tables = [key for key in kept if key.endswith("relative_position_bias_table")]
    assert tables
    for key in tables:  # interpolated symmetrically: the middle is the bias of a position on itself
        assert torch.allclose(state[key][len(state[key]) // 2], kept[key].float()[len(kept[key]) // 2], atol=1e-5)


def test_a_published_name_stands_for_one_shape() -> None:
    """Checkpoints hold the name and the size alone."""
    (body,) = bodies.read()
    shape = {"embed_dim": [32, 96, 192], "depths": [1, 2, 2], "block_type": ["C", "C", "T"], "stem_width": [16, 32]}
    assert (body.name, body.architecture, body.model_args) == ("coatnet_1m", "coatnet_nano_rw_224", shape)


@pytest.mark.parametrize("model_args", [{"depths": [1, 2, 3]}, {"depths": [1, 2, 1]}, {"embed_dim": [64, 96, 192]}])
def test_weights_for_another_shape_are_refused(model_args: dict[str, object]) -> None:
    with pytest.raises(RecipeError, match="a body keeps its shape"):
        create_model(NAMES[0], 10, 64, model_args, pretrained=True)


def test_a_size_that_the_windows_do_not_divide_is_refused_with_sizes_that_work() -> None:
    with pytest.raises(RecipeError, match="coatnet_1m cannot take 40 px") as caught:
        create_model("coatnet_1m", 10, 40, pretrained=True)
    assert "64, 96, 128" in str(caught.value.expected)


@pytest.mark.parametrize("name", [*NAMES, "vit_small_patch14_dinov2"])
def test_without_classes_a_model_has_one_output_and_a_linear_classifier(name: str) -> None:
    """So features are read and a classifier is fitted as for any other model."""
    built = create_model(name, None, 56 if "patch14" in name else 64)
    assert built.description.num_classes == 1
    assert embedding_width(built.module, built.preprocess) == built.module.num_features


def test_damaged_weights_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgevit.models.timm_bodies.sha256_of_file", lambda file: "0" * 64)
    with pytest.raises(ArtifactError, match="the weights of this body are damaged"):
        create_model(NAMES[0], 10, 64, pretrained=True)


@pytest.mark.skipif(not GROCERY.is_dir(), reason="the photos lie in ../shared/data, which is not here")
@pytest.mark.parametrize("name", NAMES)
def test_a_body_tells_photos_apart_that_it_has_not_seen(name: str) -> None:
    """Five photos of each kind make the centroids. Random weights of the same network get 47 to 52%, a body 63%."""
    files = [sorted((GROCERY / kind).rglob("*.jpg"))[:30] for kind in KINDS]
    photos = torch.stack([_small(file) for of_kind in files for file in of_kind])
    kinds = np.repeat(np.arange(len(KINDS)), [len(of_kind) for of_kind in files])
    learned, random = (_right(_features(name, photos, 64, pretrained), kinds) for pretrained in (True, False))
    assert learned > random + 0.06


def _features(name: str, images: Tensor, size: int, pretrained: bool = True) -> Tensor:
    module = WithEmbedding(create_model(name, None, size, pretrained=pretrained).module)
    with torch.inference_mode():
        features: Tensor = module(images)[1]
    return features


def _small(file: Path) -> Tensor:
    image = torch.tensor(read_image(file)).permute(2, 0, 1).float() / 127.5 - 1
    return torch.nn.functional.interpolate(image[None], (64, 64), mode="bilinear", antialias=True)[0]


def _right(features: Tensor, kinds: np.ndarray) -> float:
    """The share of photos whose nearest of ten draws' centroids, by cosine, is of their kind."""
    rng, shares = np.random.default_rng(0), []
    for _ in range(10):
        support = np.stack([rng.choice(np.flatnonzero(kinds == kind), 5, replace=False) for kind in range(len(KINDS))])
        centred = features - features[support.ravel()].mean(0)
        centroids = torch.stack([centred[rows].mean(0) for rows in support])
        answers = torch.cosine_similarity(centred[:, None], centroids[None], dim=2).argmax(1).numpy()
        others = np.setdiff1d(np.arange(len(kinds)), support)
        shares.append(float(np.mean(answers[others] == kinds[others])))
    return float(np.mean(shares))
