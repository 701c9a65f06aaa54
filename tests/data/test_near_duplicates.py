"""Copies that were resized, saved again or trimmed are found; other photos and drawings are not."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
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
