"""Rendered characters: pure functions of seed and id, all different, drawn from fonts that have them."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.neighbors import NearestCentroid

from edgevit.configs import Glyphs
from edgevit.data import Dataset, dataset_artifacts, open_dataset
from edgevit.data.sources.glyphs import CHARACTERS, draw_glyph, fonts_with


def opened(role: str = "glyphs.train", **options: Any) -> Dataset:
    config = Glyphs(**({"source": "glyphs", "samples_per_class": 20} | options))
    return open_dataset(dataset_artifacts({"glyphs": config}, Path(), [role])[role])


def test_there_are_enough_different_characters_and_no_digit():
    assert len(set(CHARACTERS)) == len(CHARACTERS) >= 80
    assert not any(character.isdigit() for character in CHARACTERS)
    data = opened()
    assert len(data) == 20 * len(data.classes)
    assert np.bincount(data.labels).tolist() == [20] * len(CHARACTERS)
    assert len(opened("glyphs.val")) == 2 * len(CHARACTERS)


@pytest.mark.parametrize("size", [24, 32, 96])
def test_a_sample_is_grey_and_has_the_size_asked_for(size: int):
    image = opened(size=size).image(5)
    assert (image.shape, image.dtype) == ((size, size, 3), np.uint8)  # type: ignore[comparison-overlap]
    assert (image == image[..., :1]).all()
    assert image.std() > 10


def test_a_sample_is_a_function_of_seed_and_id_alone():
    data, more, other = opened(), opened(samples_per_class=30), opened(seed=1)
    order = np.random.default_rng(0).permutation(len(data))[:50]
    alone = {index: data.image(index) for index in order}
    copy = pickle.loads(pickle.dumps(data))  # noqa: S301, as a loader's worker gets it
    for index in sorted(order):
        np.testing.assert_array_equal(copy.image(index), alone[index])
        position = more.sample_ids.index(data.sample_ids[index])
        np.testing.assert_array_equal(more.image(position), alone[index])
        assert (other.image(index) != alone[index]).any()


def test_samples_differ_within_a_class_and_between_splits():
    images = [data.image(index).tobytes() for data in (opened(), opened("glyphs.val")) for index in range(190)]
    assert len(set(images)) == 380


def test_every_character_is_in_enough_fonts_and_leaves_ink():
    for character in CHARACTERS:
        assert len(fonts_with(character)) >= 12, character
        image = draw_glyph(character, 32, np.random.default_rng(0))
        assert np.ptp(image) > 60, character


def test_classes_can_be_told_apart_even_by_nearest_centroid():
    """A hundredth would be chance; a network does far better. Guards against characters that are drawn as boxes."""
    train, val = opened(samples_per_class=30), opened("glyphs.val", samples_per_class=30)
    fitted = NearestCentroid().fit([flattened(train, i) for i in range(len(train))], train.labels)
    predicted = fitted.predict([flattened(val, i) for i in range(len(val))])
    assert (predicted == val.labels).mean() > 0.25


def flattened(data: Dataset, index: int) -> np.ndarray:
    """Pixels with the polarity taken out."""
    grey = data.image(index)[..., 0].astype(np.float32).ravel()
    grey -= np.median(grey)
    grey *= np.sign(grey.mean())
    return grey / np.linalg.norm(grey)


def test_the_fingerprint_follows_what_changes_a_sample():
    def digest(role: str = "glyphs.train", **options: Any) -> str:
        config = Glyphs(**({"source": "glyphs", "samples_per_class": 2} | options))
        return dataset_artifacts({"glyphs": config}, Path(), [role])[role].digest

    digests = [digest(), digest(seed=1), digest(size=24), digest(samples_per_class=3), digest("glyphs.val")]
    assert len(set(digests)) == len(digests)
    assert digest() == digests[0]
