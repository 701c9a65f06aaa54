"""Images that look nearly the same, found by a hash of their brightness: copies that were resized or saved again."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from io import BytesIO
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from edgevit.data.preprocess import LARGEST_IMAGE, open_image

HASH_SIDE = 8  # a hash has HASH_SIDE × HASH_SIDE bits
SIDE = 16  # pixels of a reduced image
DECODED_SIDE = 64  # pixels; JPEG files are decoded at a fraction of their size that has at least this side
# These limits were chosen on 50 photos of ImageNet and on drawn scenes under a fixed camera. No two of 200 photos of
# ImageNet, 600 of Grocery, 1,000 images of CIFAR-10 and 1,797 glyphs look nearly the same. Of 1,797 scanned digits, 72
# do. Many photos of one textured scene do where their object has a tenth of its side or less. Photos at half the size
# and photos saved again as JPEG of quality 50 are found; most photos that lost 2% at each edge are not.
DIFFERENT_BITS = 6
DIFFERENCE = 0.2  # root mean square difference of reduced images, as a share of their contrast
LOCAL_DIFFERENCE = 0.6  # the largest such difference of a tile: photos of one scene differ where its object is
TILE = 2  # pixels of a reduced image on each side of a tile
_BLOCK = 512  # rows that are compared at a time
_ORIENTATION, _FIRST_ON_ITS_SIDE = 0x0112, 5  # EXIF's tag; its values from 5 exchange width and height


class Look(NamedTuple):
    """The look of an image.

    Attributes:
        size: height and width in pixels.
        hash: whether each pixel of the reduced gray image is brighter than its left neighbor, as 64 bits.
        reduced: the image at SIDE × SIDE pixels, (SIDE, SIDE, 3) uint8.
    """

    size: tuple[int, int]
    hash: int
    reduced: npt.NDArray[np.uint8]


def look_of(content: bytes) -> Look:
    """The look of an encoded image. A JPEG file is decoded at a fraction of its size.

    Raises ValueError or OSError as `open_image`.
    """
    size, pixels = _small(content)
    return look_of_image(pixels)._replace(size=size)


def look_of_image(pixels: npt.NDArray[np.uint8]) -> Look:
    """The look of an RGB image (height, width, 3), uint8."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    gray = np.asarray(image.convert("L").resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.BOX), np.int16)
    bits = np.packbits(gray[:, 1:] > gray[:, :-1])
    reduced = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX))
    return Look((pixels.shape[0], pixels.shape[1]), int.from_bytes(bits.tobytes(), "big"), reduced)


def near_duplicates(queries: Sequence[Look], gallery: Sequence[Look] | None = None) -> npt.NDArray[np.int64]:
    """For each query, the position of an image of the gallery that looks nearly the same, (queries,); −1 for none.

    Without a gallery, the queries before each query are its gallery. Of several such images, it is the first. The
    hashes of two such images differ in at most DIFFERENT_BITS bits. The difference of their reduced images is at most
    DIFFERENCE of their contrast, and at most LOCAL_DIFFERENCE of it in each tile. The contrast is the standard
    deviation of each channel over the pixels, of the image with less of it; a background of one color has none. The
    hash is the difference hash of Krawetz 2013, "Kind of Like That".
    """
    others = queries if gallery is None else gallery
    originals = np.full(len(queries), -1, np.int64)
    if not queries or not others:
        return originals
    query_signs, signs = _signs(queries), _signs(others)
    query_reduced, reduced = _reduced(queries), _reduced(others)
    for start in range(0, len(queries), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(queries)))
        agreement = query_signs[rows] @ signs.T  # equal bits minus different bits
        candidates = agreement >= HASH_SIDE**2 - 2 * DIFFERENT_BITS
        if gallery is None:
            candidates &= np.arange(len(others)) < rows[:, None]
        of_rows, of_columns = candidates.any(1), candidates.any(0)
        if not of_rows.any():
            continue
        alike = candidates[np.ix_(of_rows, of_columns)] & _are_alike(query_reduced[rows[of_rows]], reduced[of_columns])
        positions = np.flatnonzero(of_columns)[alike.argmax(1)]
        originals[rows[of_rows]] = np.where(alike.any(1), positions, -1)
    return originals


def _small(content: bytes) -> tuple[tuple[int, int], npt.NDArray[np.uint8]]:
    """The size (height, width) of an image, and its pixels, of a JPEG file reduced."""
    if not content.startswith(b"\xff\xd8"):
        pixels = open_image(BytesIO(content))
        return (pixels.shape[0], pixels.shape[1]), pixels
    try:
        return _small_jpeg(content)
    except (OSError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError):
        pixels = open_image(BytesIO(content))  # names the problem, or reads what the fast way does not
        return (pixels.shape[0], pixels.shape[1]), pixels


def _small_jpeg(content: bytes) -> tuple[tuple[int, int], npt.NDArray[np.uint8]]:
    with Image.open(BytesIO(content), formats=("JPEG",)) as image:
        height, width = image.height, image.width
        if height * width > LARGEST_IMAGE:
            raise ValueError(f"{width}x{height} pixels are more than {LARGEST_IMAGE}")
        on_its_side = image.getexif().get(_ORIENTATION, 1) >= _FIRST_ON_ITS_SIDE
        image.draft("RGB", (DECODED_SIDE, DECODED_SIDE))
        return (width, height) if on_its_side else (height, width), np.asarray(image.convert("RGB"))


def _signs(looks: Sequence[Look]) -> npt.NDArray[np.float32]:
    """The bits of hashes as +1 and −1, (looks, 64)."""
    hashes = np.array([look.hash for look in looks], ">u8")
    bits = np.unpackbits(hashes.view(np.uint8)).reshape(len(looks), -1)
    return 2 * bits.astype(np.float32) - 1


def _reduced(looks: Sequence[Look]) -> npt.NDArray[np.float32]:
    return np.stack([look.reduced for look in looks]).astype(np.float32)


def _are_alike(first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Whether reduced images (n, SIDE, SIDE, 3) and (m, SIDE, SIDE, 3) differ little as a whole and in each tile."""
    contrast = np.minimum(_contrast(first)[:, None], _contrast(second))
    center = second.mean(0)  # differences stay; float32 keeps more of their digits
    first_tiles, second_tiles = _tiles(first - center), _tiles(second - center)
    alike = np.ones(contrast.shape, np.bool_)
    total = np.zeros(contrast.shape, np.float32)
    largest_local, largest_total = (LOCAL_DIFFERENCE * contrast) ** 2, (DIFFERENCE * contrast) ** 2 * len(first_tiles)
    for first_tile, second_tile in zip(first_tiles, second_tiles, strict=True):
        difference = _mean_squares(first_tile)[:, None] + _mean_squares(second_tile)
        difference -= first_tile @ second_tile.T * np.float32(2 / first_tile.shape[1])
        total += difference
        alike &= difference <= largest_local
        if not alike.any():
            break
    return alike & (total <= largest_total)


def _contrast(reduced: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The standard deviation of channels over the pixels, (n,), at least one gray value."""
    contrast: npt.NDArray[np.float32] = np.maximum(np.sqrt(reduced.var((1, 2)).mean(1)), 1)
    return contrast


def _tiles(reduced: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The tiles of reduced images (n, SIDE, SIDE, 3): (tiles, n, values of a tile)."""
    tiled = reduced.reshape(len(reduced), SIDE // TILE, TILE, SIDE // TILE, TILE, 3).transpose(1, 3, 0, 2, 4, 5)
    return np.ascontiguousarray(tiled).reshape((SIDE // TILE) ** 2, len(reduced), TILE * TILE * 3)


def _mean_squares(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    squares: npt.NDArray[np.float32] = (values**2).mean(1)
    return squares
