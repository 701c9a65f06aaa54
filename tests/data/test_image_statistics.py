"""Images that cannot calibrate a model are refused, doubtful ones are named, and real sets are neither."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from edgevit.artifacts import Preprocess
from edgevit.data.dataset import ArrayImages, Dataset
from edgevit.data.image_statistics import (
    ALIKE,
    FAINT,
    _far_from_normal,
    _refuse_uniform,
    check_images,
    image_statistics,
)
from edgevit.data.preprocess import open_image
from edgevit.errors import DataError

RULE = Preprocess(height=32, width=32)
PHOTOS = np.clip(
    np.kron(np.random.default_rng(0).integers(0, 256, (32, 4, 4, 3)), np.ones((1, 8, 8, 1))), 0, 255
).astype(np.uint8)


def doubts(
    images: NDArray[np.uint8],
    labels: Sequence[int] | None = None,
    ids: Sequence[str] | None = None,
    rule: Preprocess = RULE,
) -> list[str]:
    dataset = Dataset(
        name="photos",
        classes=("cat", "dog"),
        sample_ids=tuple(ids or map(str, range(len(images)))),
        labels=None if labels is None else np.array(labels),
        images=ArrayImages(images),
        indices=np.arange(len(images)),
    )
    return check_images(dataset, rule, ("cat", "dog"), "int8")


def as_rgb(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(grey[..., None], 3, axis=-1)


def with_contrast(share: float) -> NDArray[np.uint8]:
    return (128 + share * (PHOTOS.astype(np.float32) - 128)).astype(np.uint8)


def lit(spread: float) -> NDArray[np.uint8]:
    """One image under light that changes, in grey levels."""
    light = np.random.default_rng(1).normal(0, spread, (32, 1, 1, 1))
    return np.clip(PHOTOS[:1] * 0.5 + 64 + light, 0, 255).astype(np.uint8)


def test_different_images_of_two_classes_raise_no_doubt() -> None:
    assert doubts(PHOTOS, [0, 1] * 16) == []
    assert doubts(PHOTOS, ids=[f"{name}/{index}.png" for index in range(16) for name in ("cat", "dog")]) == []


@pytest.mark.parametrize(
    ("images", "got"),
    [
        (np.zeros_like(PHOTOS), "images of a single color"),
        (np.full_like(PHOTOS, 90), "images of a single color"),
        (np.broadcast_to(PHOTOS[:, :1, :1], PHOTOS.shape), "images of a single color"),
        (np.repeat(PHOTOS[:1], 32, axis=0), "32 copies of one image"),
    ],
    ids=["black", "grey", "a colour each", "copies"],
)
def test_images_that_calibrate_nothing_are_refused(images: NDArray[np.uint8], got: str) -> None:
    with pytest.raises(DataError, match="cannot calibrate or score a model") as caught:
        doubts(images)
    assert str(caught.value.got).startswith(got)
    assert caught.value.where == "int8, photos"


@pytest.mark.parametrize(
    ("images", "labels", "said"),
    [
        (with_contrast(0.3), [0, 1] * 16, "their contrast is 0.0"),
        (with_contrast(0.12), [0, 1] * 16, "their contrast is 0.03"),
        (lit(5), [0, 1] * 16, "they are nearly alike"),
        (np.concatenate([PHOTOS[:30], np.zeros_like(PHOTOS[:2])]), [0, 1] * 16, "6% of them have a single color"),
        (PHOTOS, [1] * 32, "all of them are of class 'dog'"),
    ],
    ids=["faint", "fog", "alike", "some black", "one class"],
)
def test_doubtful_images_are_named(images: NDArray[np.uint8], labels: list[int], said: str) -> None:
    (doubt,) = doubts(images, labels)
    assert doubt.startswith(said)


def test_folders_tell_the_class_where_labels_are_not_read() -> None:
    assert doubts(PHOTOS, ids=[f"dog/{index}.png" for index in range(32)]) == ["all of them are of class 'dog'"]
    assert doubts(PHOTOS, ids=[f"photos/{index}.png" for index in range(32)]) == []


def test_a_mean_and_std_of_other_images_are_noticed() -> None:
    (doubt,) = doubts(PHOTOS, [0, 1] * 16, rule=RULE.model_copy(update={"std": (0.01, 0.01, 0.01)}))
    assert doubt.endswith("not about 0 and 1: check the model's mean and std")
    scaled = RULE.model_copy(update={"mean": (0.0, 0.0, 0.0), "std": (1 / 255, 1 / 255, 1 / 255)})
    assert doubts(PHOTOS, [0, 1] * 16, rule=scaled) == [], "only scaled, to 0 to 255"


def test_no_real_set_raises_a_doubt_nor_a_single_class_of_one(shared_data: Path) -> None:
    """Beside the class itself: 20 drawings of a letter are as alike as real images come here."""
    sets: dict[str, list[NDArray[np.uint8]]] = {}
    folders = {"ImageNet": "imagenet_samples/*.jpg", "apples": "grocery/train/Fruit/Apple/Golden-Delicious/*.jpg"}
    for name, pattern in folders.items():
        files = sorted(shared_data.glob(pattern))[::4]
        sets[name] = [open_image(file) for file in files]
    bits = np.load(shared_data / "omniglot" / "omniglot.npz")["background_bits"]
    ink = 255 * np.unpackbits(bits[:640], axis=-1)[..., :105]
    sets |= {
        "letters": list(as_rgb(ink[::20])),
        "one letter": list(as_rgb(ink[:20])),
        "white": list(as_rgb(255 - ink[:20])),
    }
    strip = next(iter(sorted((shared_data / "cifar10").glob("test_batch*.webp"))))
    sets["CIFAR-10"] = list(open_image(strip).reshape(-1, 32, 32, 3)[:64])
    digits = load_digits()
    sets["digits"] = list(as_rgb((digits.images[:64] * 15.9).astype(np.uint8)))
    sets["zeros"] = list(as_rgb((digits.images[digits.target == 0][:64] * 15.9).astype(np.uint8)))
    for name, images in sets.items():
        assert len(images) >= 8, name
        _refuse_uniform(found := image_statistics(images), name)
        assert found.contrast > 1.2 * FAINT, name
        assert found.spread > 1.9 * ALIKE, name
        assert found.one_color == 0, name
        assert _far_from_normal(found, RULE) == [], name


def test_a_single_image_is_no_set_of_copies() -> None:
    assert doubts(PHOTOS[:1], [0]) == []


def test_dark_images_of_a_uniform_surface_are_doubtful_and_not_refused() -> None:
    grain = np.random.default_rng(2).normal(25, 5, (32, 64, 64, 1))
    dark = as_rgb(np.clip(grain, 0, 255).astype(np.uint8)[..., 0])
    found = doubts(dark, [0, 1] * 16)
    assert [doubt.split(" ")[1] for doubt in found] == ["contrast", "are"], found
