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
# These limits were chosen on 1,000 images of CIFAR-10, 600 of Grocery, 200 of ImageNet, 1,000 drawings of Omniglot and
# 1,000 glyphs: no two of them look nearly the same. Of 1,797 scanned digits, 28 do. Photos at half the size and photos
# saved again as JPEG of quality 50 are found, and some photos that lost 2% at each edge.
DIFFERENT_BITS = 6
DIFFERENCE = 0.2  # root mean square difference of reduced images, as a share of their contrast
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

    Without a gallery, the queries before each query are its gallery. Of several such images, it is the one with the
    nearest hash. The hashes of two such images differ in at most DIFFERENT_BITS bits, and their reduced images by at
    most DIFFERENCE of their standard deviation. The hash is the difference hash of Krawetz 2013, "Kind of Like That".
    """
    others = queries if gallery is None else gallery
    found = np.full(len(queries), -1, np.int64)
    if not queries or not others:
        return found
    query_signs, signs = _signs(queries), _signs(others)
    query_reduced, reduced = _reduced(queries), _reduced(others)
    for start in range(0, len(queries), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(queries)))
        agreement = query_signs[rows] @ signs.T  # equal bits minus different bits
        if gallery is None:
            agreement[np.arange(len(others)) >= rows[:, None]] = -np.inf
        nearest = agreement.argmax(1)
        close = agreement[np.arange(len(rows)), nearest] >= HASH_SIDE**2 - 2 * DIFFERENT_BITS
        alike = _difference(query_reduced[rows], reduced[nearest]) <= DIFFERENCE
        found[rows] = np.where(close & alike, nearest, -1)
    return found


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
    return np.stack([look.reduced for look in looks]).astype(np.float32).reshape(len(looks), -1)


def _difference(first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The root mean square difference of each pair of reduced images, as a share of the lower standard deviation."""
    contrast = np.maximum(np.minimum(first.std(1), second.std(1)), 1)
    difference: npt.NDArray[np.float32] = np.sqrt(((first - second) ** 2).mean(1)) / contrast
    return difference
