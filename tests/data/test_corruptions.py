"""Corruptions against independent references, and what holds for all of them: strength, draws, sizes."""

from __future__ import annotations

import colorsys
import itertools
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from sklearn.datasets import load_sample_image

from edgevit.configs import CORRUPTIONS
from edgevit.data.corruptions import (
    BLUR_SIGMA,
    BRIGHTNESS,
    COMMON_SHORT_SIDE,
    CONTRAST,
    FOG_DEPTH,
    FOG_LIGHT,
    NOISE_SIGMA,
    at_common_size,
    corrupt,
)

DRAWN = ("noise", "fog", "snow")
SEVERITIES = (1, 2, 3, 4, 5)
every_kind = pytest.mark.parametrize("kind", CORRUPTIONS)


def photo(height: int, width: int) -> np.ndarray:
    return np.asarray(Image.fromarray(load_sample_image("china.jpg")).resize((width, height), Image.Resampling.BICUBIC))


def distance(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(float) - other).mean())


@every_kind
@pytest.mark.parametrize("side", [32, 224])
def test_a_higher_severity_is_further_from_the_image(kind, side):
    image = photo(side, side)
    distances = [
        np.mean([distance(image, corrupt(image, kind, severity, f"{draw}")) for draw in range(3)])
        for severity in SEVERITIES
    ]
    assert distances[0] > 0.5
    assert all(after > before for before, after in itertools.pairwise(distances)), distances


@every_kind
def test_the_same_seed_gives_the_same_bytes_and_leaves_the_image_alone(kind):
    image = photo(40, 56)
    before = image.copy()
    one, other = (corrupt(image, kind, 3, "0/cat/1.jpg") for _ in range(2))
    assert (one == other).all()
    assert (image == before).all()


@every_kind
def test_samples_and_seeds_have_draws_of_their_own_where_there_are_draws(kind):
    image = photo(40, 56)
    found = [corrupt(image, kind, 3, seed) for seed in ("0/cat/1.jpg", "0/cat/2.jpg", "1/cat/1.jpg")]
    differ = [(found[0] != one).any() for one in found[1:]]
    assert differ == [kind in DRAWN] * 2


@pytest.mark.parametrize("kind", ["fog", "snow", "darkness", "contrast", "brightness"])
def test_a_small_and_a_large_image_are_hurt_alike(kind):
    distances = {}
    for side in (32, 224):
        image = photo(side, side)
        distances[side] = np.mean([distance(image, corrupt(image, kind, 3, f"{draw}")) for draw in range(3)])
    assert distances[32] == pytest.approx(distances[224], rel=0.1)


@every_kind
@pytest.mark.parametrize("shape", [(8, 8), (1, 1), (1, 50), (50, 1), (2, 3), (33, 9), (1, 5000)])
@pytest.mark.parametrize("severity", [1, 5])
def test_any_size_keeps_its_size(kind, shape, severity):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    found = corrupt(image, kind, severity, "0")
    assert found.dtype == np.uint8
    assert found.shape == image.shape


@every_kind
@pytest.mark.parametrize("value", [0, 255])
def test_black_and_white_images(kind, value):
    image = np.full((16, 16, 3), value, np.uint8)
    found = corrupt(image, kind, 5, "0")
    assert found.shape == image.shape
    if kind in ("contrast", "blur"):
        assert (found == value).all()


@pytest.mark.parametrize("severity", SEVERITIES)
def test_brightness_is_hsv_value_plus_a_constant(severity):
    image = np.concatenate([photo(6, 7), np.zeros((1, 7, 3), np.uint8)])
    expected = np.empty(image.shape)
    for place in np.ndindex(image.shape[:2]):
        hue, saturation, value = colorsys.rgb_to_hsv(*(image[place] / 255))
        expected[place] = colorsys.hsv_to_rgb(hue, saturation, min(1.0, value + BRIGHTNESS[severity - 1]))
    np.testing.assert_allclose(corrupt(image, "brightness", severity, "0"), 255 * expected, atol=0.51)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_darkness_halves_the_light_at_each_step(severity):
    image = photo(9, 9)
    light = (image / 255) ** 2.2 / 2**severity
    np.testing.assert_allclose(corrupt(image, "darkness", severity, "0"), 255 * light ** (1 / 2.2), atol=0.51)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_contrast_shrinks_what_differs_from_the_mean(severity):
    image = photo(20, 30)
    mean = image.astype(float).mean((0, 1))
    expected = mean + CONTRAST[severity - 1] * (image - mean)
    np.testing.assert_allclose(corrupt(image, "contrast", severity, "0"), expected, atol=0.51)


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("shape", [(96, 128), (32, 32), (3, 90)])
def test_blur_is_scipys_gaussian_filter(severity, shape):
    image = photo(*shape)
    sigma = BLUR_SIGMA[severity - 1] * min(shape)
    expected = ndimage.gaussian_filter(image.astype(float), (sigma, sigma, 0))
    np.testing.assert_allclose(corrupt(image, "blur", severity, "0"), expected, atol=0.51)


@pytest.mark.parametrize(("side", "published"), [(32, NOISE_SIGMA[32]), (224, NOISE_SIGMA[224])])
def test_noise_is_as_strong_as_in_the_published_sets(side, published):
    grey = np.full((side, side, 3), 128, np.uint8)
    for severity in (1, 2):  # little of these is cut off at black and white
        found = corrupt(grey, "noise", severity, "0") / 255
        assert found.std() == pytest.approx(published[severity - 1], rel=0.05)
        assert found.mean() == pytest.approx(128 / 255, abs=0.01)


@pytest.mark.parametrize(
    ("side", "qualities"), [(32, (80, 65, 58, 50, 40)), (300, (25, 18, 15, 10, 7)), (8, (80, 65, 58, 50, 40))]
)
def test_jpeg_is_pillows_round_trip(side, qualities):
    image = photo(side, side)
    for severity, quality in zip(SEVERITIES, qualities, strict=True):
        buffer = BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=quality)
        assert (corrupt(image, "jpeg", severity, "0") == np.asarray(Image.open(buffer))).all()


@pytest.mark.parametrize("severity", SEVERITIES)
def test_fog_takes_light_from_the_image_and_gives_its_own(severity):
    """What is left of a difference between two images is exp(-depth), whatever the fog's own light."""
    dark, light = (np.full((64, 64, 3), value, np.uint8) for value in (0, 255))
    foggy = [corrupt(one, "fog", severity, "0").astype(float) / 255 for one in (dark, light)]
    left = foggy[1] - foggy[0]
    assert -np.log(left).mean() == pytest.approx(FOG_DEPTH[severity - 1], rel=0.02)
    np.testing.assert_allclose(foggy[0], FOG_LIGHT * (1 - left), atol=0.005)


def test_snow_only_brightens():
    image = photo(60, 80)
    assert (corrupt(image, "snow", 5, "0").astype(int) >= image).all()


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((600, 800), (256, 341)),
        ((800, 600), (341, 256)),
        ((256, 900), (256, 900)),
        ((8, 8), (8, 8)),
        ((1, 9000), (1, 64)),
    ],
)
def test_the_common_size(shape, expected):
    image = np.zeros((*shape, 3), np.uint8)
    assert at_common_size(image).shape == (*expected, 3)
    assert min(expected) <= COMMON_SHORT_SIDE
