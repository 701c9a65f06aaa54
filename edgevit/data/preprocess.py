"""Open a picture and turn it into a model's input. Needs only numpy and Pillow: this file also ships in bundles."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from os import PathLike
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM")
LARGEST_IMAGE = 2**27  # pixels
LONGEST_STRIP = 64  # aspect ratio beyond which a picture's far ends are cut off before it is resized

# What Pillow's decoders raise on damaged bytes, beside ValueError.
_DECODER_ERRORS = (OSError, SyntaxError, EOFError, struct.error, TypeError, LookupError, OverflowError, MemoryError)
_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


def open_image(file: str | PathLike[str] | IO[bytes]) -> npt.NDArray[np.uint8]:
    """Decode a picture to RGB, uint8, shape (height, width, 3), turned upright by its EXIF orientation.

    Transparent parts are laid on white; 16-bit grey is scaled to 8 bits; of several frames the first is taken.

    Raises:
        ValueError: it is no picture of a known format, is damaged or truncated, or has more than LARGEST_IMAGE pixels.
    """
    try:
        with Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > LARGEST_IMAGE:
                raise ValueError(f"{image.width}x{image.height} pixels are more than {LARGEST_IMAGE}")
            return np.asarray(_rgb(ImageOps.exif_transpose(image)))
    except FileNotFoundError:
        raise
    except UnidentifiedImageError as error:
        raise ValueError("cannot be read as a picture: no known format, or damaged at its beginning") from error
    except (Image.DecompressionBombError, *_DECODER_ERRORS) as error:
        raise ValueError(f"cannot be read as a picture: {error or type(error).__name__}") from error


def preprocess(
    image: npt.NDArray[np.uint8],
    *,
    height: int,
    width: int,
    resize: str,
    crop_pct: float,
    interpolation: str,
    mean: Sequence[float],
    std: Sequence[float],
    normalised_inside: bool = False,
) -> npt.NDArray[Any]:
    """An RGB picture (H, W, 3), uint8, as a model's input (3, height, width), float32: `fit`, scale to 0..1, normalise.

    For a model that scales and normalises itself (`normalised_inside`), just `fit`: (height, width, 3), uint8.
    The keywords are the fields of an IOSpec's `preprocess`. Equal to torchvision's Resize (on a PIL image),
    CenterCrop, ToTensor and Normalize.
    """
    fitted = fit(image, height=height, width=width, resize=resize, crop_pct=crop_pct, interpolation=interpolation)
    if normalised_inside:
        return fitted
    channels = fitted.transpose(2, 0, 1).astype(np.float32) / np.float32(255)
    normalised: npt.NDArray[np.float32] = (channels - _per_channel(mean)) / _per_channel(std)
    return normalised


def fit(
    image: npt.NDArray[np.uint8], *, height: int, width: int, resize: str, crop_pct: float, interpolation: str
) -> npt.NDArray[np.uint8]:
    """Resize a picture (H, W, 3) to (height, width, 3), still uint8.

    "squash" resizes both sides, whatever the aspect ratio. "crop" resizes until the picture just covers
    (height, width) / crop_pct, and cuts out the centre.
    """
    picture = Image.fromarray(np.ascontiguousarray(image))
    if resize == "squash":
        return np.asarray(_resized(picture, width, height, interpolation))
    if resize != "crop":
        raise ValueError(f"resize is {resize!r}, expected 'crop' or 'squash'")
    picture = _without_far_ends(picture)
    cover_width, cover_height = int(width / crop_pct), int(height / crop_pct)
    if cover_width * picture.height >= cover_height * picture.width:
        cover_height = cover_width * picture.height // picture.width
    else:
        cover_width = cover_height * picture.width // picture.height
    covering = _resized(picture, cover_width, cover_height, interpolation)
    left, top = round((cover_width - width) / 2), round((cover_height - height) / 2)
    return np.asarray(covering.crop((left, top, left + width, top + height)))


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _eight_bit(image).convert("RGB")
    if image.has_transparency_data:
        transparent = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, transparent).convert("RGB")
    return image.convert("RGB")


def _eight_bit(image: Image.Image) -> Image.Image:
    values: npt.NDArray[Any] = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise ValueError(f"pixels of mode {image.mode} have no fixed range; save the picture with 8 or 16 bits")
    return Image.fromarray(((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8))


def _resized(image: Image.Image, width: int, height: int, interpolation: str) -> Image.Image:
    if interpolation not in _FILTERS:
        raise ValueError(f"interpolation is {interpolation!r}, expected one of {', '.join(_FILTERS)}")
    return image if image.size == (width, height) else image.resize((width, height), _FILTERS[interpolation])


def _without_far_ends(image: Image.Image) -> Image.Image:
    """Bounds the memory that resizing a very long strip would take; no real photo is touched."""
    width = min(image.width, image.height * LONGEST_STRIP)
    height = min(image.height, image.width * LONGEST_STRIP)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _per_channel(values: Sequence[float]) -> npt.NDArray[np.float32]:
    return np.asarray(values, dtype=np.float32).reshape(3, 1, 1)
