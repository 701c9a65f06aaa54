"""Copies that were resized or saved again are found; other photos, drawings and photos of one scene are not."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from edgevit.configs import Glyphs
from edgevit.data.near_duplicates import look_of, look_of_image, near_duplicates
from edgevit.data.roles import read_source


@pytest.fixture(scope="module")
def photos(shared_data: Path) -> list[Image.Image]:
    files = sorted((shared_data / "imagenet_samples").glob("*.jpg"))[::8]
    return [Image.open(file).convert("RGB") for file in files]


def encoded(image: Image.Image, **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, **{"format": "JPEG", **options})
    return buffer.getvalue()


def test_copies_are_found_and_photos_are_apart(photos: list[Image.Image]):
    looks = [look_of(encoded(photo)) for photo in photos]
    assert (near_duplicates(looks) == -1).all()
    half = [photo.resize((photo.width // 2, photo.height // 2)) for photo in photos]
    for copies in ([encoded(photo, quality=50) for photo in photos], [encoded(photo, format="PNG") for photo in half]):
        np.testing.assert_array_equal(near_duplicates([look_of(copy) for copy in copies], looks), np.arange(len(looks)))


def test_an_earlier_image_is_the_original(photos: list[Image.Image]):
    first, second = photos[:2]
    looks = [look_of(encoded(image, quality=quality)) for image, quality in ((first, 90), (second, 90), (first, 60))]
    assert near_duplicates(looks).tolist() == [-1, -1, 0]
    assert near_duplicates([], looks).tolist() == []
    assert near_duplicates(looks, []).tolist() == [-1, -1, -1]


def test_drawings_of_one_character_are_apart():
    source = read_source("glyphs", Glyphs(source="glyphs", samples_per_class=3), Path())
    count = len(source.ids)
    looks = [look_of_image(source.images.decoded(source.images.content(i), i)) for i in range(count)]
    assert (near_duplicates(looks) >= 0).sum() <= count // 100


def test_an_image_of_the_same_hash_hides_no_copy():
    dark, bright = np.full((32, 32, 3), 100, np.uint8), np.full((32, 32, 3), 200, np.uint8)
    looks = [look_of_image(image) for image in (dark, bright, bright)]
    assert len({look.hash for look in looks}) == 1
    assert near_duplicates(looks).tolist() == [-1, -1, 1]
    assert near_duplicates(looks[1:], looks[:2]).tolist() == [1, 1]


SIDE, COUNT = 128, 60  # pixels and images of a scene under a fixed camera


def with_disc(background: tuple[int, int, int], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """A flat background with a dark disc of 4 to 12 pixels radius at a random place."""
    radius = int(rng.integers(4, 13))
    row, column = rng.integers(radius, SIDE - radius, 2)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    image = np.full((SIDE, SIDE, 3), background, np.uint8)
    image[(rows - row) ** 2 + (columns - column) ** 2 <= radius**2] = np.array(background) // 3
    return image


@pytest.mark.parametrize("background", [(60, 160, 70), (150, 110, 70), (128, 128, 128)])
def test_objects_on_a_mat_are_apart_and_their_copies_are_found(background: tuple[int, int, int]):
    rng = np.random.default_rng(0)
    images = [with_disc(background, rng) for _ in range(COUNT)]
    looks = [look_of_image(image) for image in images]
    assert (near_duplicates(looks) >= 0).sum() <= COUNT // 20
    copies = [look_of_image(np.array(Image.fromarray(image).resize((SIDE // 2, SIDE // 2)))) for image in images]
    assert (near_duplicates(copies, looks) >= 0).sum() >= COUNT * 9 // 10


def test_patches_in_a_fixed_scene_are_apart():
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 12, 3), np.uint8))
    scene = np.array(coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    images = []
    for _ in range(COUNT):
        row, column = rng.integers(0, SIDE - 24, 2)
        images.append(scene.copy())
        images[-1][row : row + 24, column : column + 24] = rng.integers(0, 256, 3)
    looks = [look_of_image(image) for image in images]
    assert (near_duplicates(looks) >= 0).sum() <= COUNT // 20
    again = [look_of(encoded(Image.fromarray(image), quality=50)) for image in images]
    assert (near_duplicates(again, looks) >= 0).sum() >= COUNT * 9 // 10


def test_the_size_is_that_of_the_upright_image():
    image = Image.new("RGB", (80, 40), "red")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    assert look_of(encoded(image)).size == (40, 80)
    assert look_of(encoded(image, exif=exif)).size == (80, 40)
    assert look_of(encoded(image, format="PNG")).size == (40, 80)


@pytest.mark.parametrize("content", [b"", b"no image", encoded(Image.new("RGB", (90, 90)))[:200], b"\xff\xd8\xff\xe0"])
def test_damaged_content_is_a_value_error(content: bytes):
    with pytest.raises(ValueError, match="cannot be read as an image"):
        look_of(content)
