"""Every kind of file that people have, and damaged ones."""

import contextlib
import os
import struct
import subprocess
import sys
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgevit.data import read_image
from edgevit.data.preprocess import (
    LARGEST_FILE,
    LARGEST_IMAGE,
    OTHER_TYPES,
    images_below,
    is_image_name,
    passed_over_notes,
)
from edgevit.errors import DataError

RGB = np.random.default_rng(0).integers(0, 256, (6, 4, 3), np.uint8)


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def test_rgb_comes_back_as_it_is():
    got = read_image(encoded(Image.fromarray(RGB)))
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, RGB)


def test_grey_fills_three_channels():
    np.testing.assert_array_equal(read_image(encoded(Image.fromarray(RGB[..., 0]))), np.stack([RGB[..., 0]] * 3, 2))


def test_one_bit():
    bits = RGB[..., 0] > 127
    np.testing.assert_array_equal(read_image(encoded(Image.fromarray(bits)))[..., 1], bits * 255)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_on_white(mode):
    image = Image.new(mode, (3, 1), (0,) * (len(mode) - 1) + (255,))
    image.putpixel((1, 0), (0,) * (len(mode) - 1) + (0,))
    image.putpixel((2, 0), (0,) * (len(mode) - 1) + (128,))
    assert read_image(encoded(image))[0, :, 0].tolist() == [0, 255, 127]


def test_palette_with_and_without_transparency():
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    assert read_image(encoded(image)).tolist() == [[[255, 0, 0], [0, 0, 255]]]
    assert read_image(encoded(image, transparency=1)).tolist() == [[[255, 0, 0], [255, 255, 255]]]


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_and_not_clipped(format):
    deep = np.array([[0, 128, 256, 32768, 65535]], np.uint16)
    got = read_image(encoded(Image.fromarray(deep), format))
    assert got[0, :, 0].tolist() == np.round(deep[0] / 257).astype(int).tolist()


def test_floating_point_pixels_are_refused():
    with pytest.raises(DataError, match="no fixed range"):
        read_image(encoded(Image.fromarray(np.ones((2, 2), np.float32)), "TIFF"))


def test_cmyk():
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    red = read_image(encoded(image, "JPEG", quality=95))[8, 8].astype(int)
    assert red[0] > 220
    assert red[1:].max() < 50


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_the_image_upright(orientation):
    """The eight stored forms of one image, as the EXIF standard defines them, read as that image."""
    stored = {
        1: RGB,
        2: RGB[:, ::-1],
        3: RGB[::-1, ::-1],
        4: RGB[::-1],
        5: RGB.transpose(1, 0, 2),
        6: np.rot90(RGB, 1),
        7: RGB[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(RGB, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    got = read_image(encoded(Image.fromarray(np.ascontiguousarray(stored)), exif=exif))
    np.testing.assert_array_equal(got, RGB)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "QOI"])
def test_every_format_reads_and_its_truncated_half_is_named(tmp_path: Path, format: str):
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8))
    content = encoded(noise, format)
    assert read_image(content).shape == (64, 64, 3)
    file = tmp_path / "half.img"
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"half\.img"):
        read_image(file)


@pytest.mark.parametrize("format", ["MPO", "GIF", "TIFF"])
def test_of_several_frames_the_first_is_read(format: str):
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "blue")]
    first = read_image(encoded(frames[0], format, save_all=True, append_images=frames[1:]))
    assert first[8, 8, 0] > 250
    assert first[8, 8, 2] < 5


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_what_is_no_image_is_refused(content: bytes):
    with pytest.raises(DataError, match="cannot be read as an image"):
        read_image(content)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"gone\.png: there is no such file"):
        read_image(tmp_path / "gone.png")


@pytest.mark.parametrize("side", [12_000, 60_000])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_decompression_bomb_is_refused_before_it_is_decoded(side: int):
    assert side**2 > LARGEST_IMAGE

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )
    with pytest.raises(DataError, match="pixels"):
        read_image(bomb)


def test_an_avif_file_without_its_image_is_refused():
    content = bytearray(encoded(Image.fromarray(np.tile(RGB, (4, 4, 1))), "AVIF"))
    content[len(content) // 4] = 0  # libavif: "Missing or empty image item", which Pillow raises as RuntimeError
    with pytest.raises(DataError, match="cannot be read as an image"):
        read_image(bytes(content))


@given(
    format=st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "QOI"]),
    damage=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8),
    kept=st.floats(0.1, 1),
)
@settings(max_examples=300)
@pytest.mark.filterwarnings("ignore::UserWarning")  # of Pillow, about damaged metadata
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_damaged_bytes_are_read_or_refused_and_never_escape(format, damage, kept):
    content = bytearray(encoded(Image.fromarray(np.tile(RGB, (4, 4, 1))), format))
    for position, value in damage:
        content[int(position * len(content))] = value
    with contextlib.suppress(DataError):
        assert read_image(bytes(content[: int(kept * len(content))])).ndim == 3


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *((name, True) for name in ("a.jpg", "A.JPEG", "a.tar.png", "a.jfif", "a.jpe", "a.avif", "a.jp2", "a.pnm")),
        *((name, False) for name in ("a.txt", "._a.jpg", "jpg", "a.HEIC", "a.eps", "a.pdf", "a.mpg", "a.h5", "a.ico")),
    ],
)
def test_images_are_known_by_their_extension(name: str, expected: bool):
    assert is_image_name(name) is expected


def test_images_below_a_folder_and_all_that_is_passed_over(tmp_path: Path):
    for name in ("b/1.jfif", "a.PNG", "b/IMG.HEIC", "Thumbs.db", "b/._1.jfif", ".thumbnails/x.png", "b/.git/x.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "linked").symlink_to(tmp_path / "b")
    found = images_below(tmp_path)
    assert found.images == [tmp_path / "a.PNG", tmp_path / "b/1.jfif"]
    assert list(passed_over_notes(found.passed_over, tmp_path)) == [
        "2 files of other types (.db 1, .heic 1) are passed over: Thumbs.db, b/IMG.HEIC",
        "3 hidden files and folders are passed over: .thumbnails, b/._1.jfif, b/.git",
        "1 links to folders are passed over: linked",
    ]


def test_of_many_files_that_are_passed_over_the_first_are_named():
    (note,) = passed_over_notes({OTHER_TYPES: [f"{number:02d}.db" for number in range(12)]})
    assert note == "12 files of other types (.db 12) are passed over: 00.db, 01.db, 02.db, 03.db, 04.db and 7 more"


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_an_image_is_the_same_however_many_bands_it_is_converted_in(mode: str, monkeypatch: pytest.MonkeyPatch):
    source = Image.fromarray(np.tile(RGB, (3, 3, 1)))
    if mode == "I;16":
        source = Image.fromarray(np.arange(18 * 12, dtype=np.uint16).reshape(18, 12) * 300)
    elif mode in ("RGBA", "LA"):
        source.putalpha(Image.fromarray(np.tile(RGB[..., 1], (3, 3))))
        source = source.convert(mode)
    content = encoded(source.convert(mode) if mode != "I;16" else source, "TIFF" if mode == "CMYK" else "PNG")
    whole = read_image(content)
    monkeypatch.setattr(sys.modules["edgevit.data.preprocess"], "_BAND", 25)
    np.testing.assert_array_equal(read_image(content), whole)


def test_a_small_file_of_a_large_image_takes_little_more_memory_than_its_pixels(tmp_path: Path):
    """Decoded, 16 million pixels with transparency take 4 bytes each, and 3 as RGB; a copy for each step took 24."""
    Image.new("RGBA", (4000, 4000), (1, 2, 3, 4)).save(tmp_path / "large.png", compress_level=1)
    code = (
        "import resource, sys; from edgevit.data.preprocess import open_image\n"
        "from edgevit.profiling.conditions import peak_bytes\n"  # ru_maxrss begins at the size of the test's process
        "peak = lambda: peak_bytes() or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak(); open_image(sys.argv[1]); print(peak() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "large.png"], capture_output=True, check=True)
    assert 3 <= float(done.stdout) / 16e6 < 11


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "link to itself", "link to nothing"])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, kind: str):
    place = tmp_path / "a.png"
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    else:
        place.symlink_to({"device": "/dev/zero", "link to itself": place, "link to nothing": tmp_path / "b"}[kind])  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"a\.png"):
        read_image(place)


def test_a_file_beyond_all_bounds_is_not_read(tmp_path: Path):
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(LARGEST_FILE + 1)
    with pytest.raises(DataError, match="more than"):
        read_image(tmp_path / "a.png")
