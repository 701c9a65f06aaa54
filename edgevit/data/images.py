"""Reading images as arrays, with errors that name the file."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgevit.data.preprocess import open_image
from edgevit.errors import DataError

Image = npt.NDArray[np.uint8]  # (height, width, 3), RGB
NO_TEXT = "images whose names are not UTF-8"


def is_utf8_name(name: str) -> bool:
    """Whether a file name can be written as UTF-8. Python marks the bytes of other names with lone surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_image(source: Path | bytes, where: str = "the bytes given") -> Image:
    """Decode a file, or the bytes of one, to RGB uint8 (height, width, 3), upright; see `open_image` for the modes.

    Args:
        source: the file, or its bytes.
        where: the name of the bytes in an error.

    Raises:
        DataError: the file is missing, not an image, damaged, truncated or too large, or cannot be read now.
    """
    place = source if isinstance(source, Path) else where
    try:
        return open_image(source if isinstance(source, Path) else BytesIO(source))
    except FileNotFoundError:
        raise DataError("there is no such file", where=place, expected="an image") from None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", where=place) from None
    except ValueError as error:
        raise DataError(str(error), where=place, expected="a whole JPEG, PNG, WebP, AVIF, TIFF, GIF, …") from None


def as_rgb(image: npt.NDArray[np.uint8]) -> Image:
    """An image of shape (H, W), (H, W, 1) or (H, W, 3) as (H, W, 3)."""
    channels = image[..., np.newaxis] if image.ndim == 2 else image
    return np.repeat(channels, 3, axis=2) if channels.shape[2] == 1 else channels
