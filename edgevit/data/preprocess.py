"""Find and open pictures and turn them into a model's input.

Needs only numpy and Pillow: this file also ships in bundles.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import cache
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

# Types of still pictures that their first bytes tell. Others that Pillow knows run programs (PostScript), are videos,
# icons or measurements, or would take any bytes for a picture.
FORMATS = ("JPEG", "MPO", "JPEG2000", "PNG", "WEBP", "AVIF", "TIFF", "GIF", "BMP", "PPM", "QOI")
LARGEST_FILE = 2**28  # bytes
LARGEST_IMAGE = 2**27  # pixels
ONE_AT_A_TIME = 2**24  # pixels beyond which threads decode one picture after the other
LONGEST_STRIP = 64  # aspect ratio beyond which a picture's far ends are cut off before it is resized

HIDDEN = "hidden files and folders"
OTHER_TYPES = "files of other types"
LINKED_FOLDERS = "links to folders"
SHOWN = 5  # names of a kind

# What Pillow's decoders raise on damaged bytes, beside ValueError.
_DECODER_ERRORS = (OSError, SyntaxError, EOFError, struct.error, TypeError, LookupError, OverflowError)
_BAND = 2**20  # pixels that are converted at once
_ORIENTATION = 0x0112  # EXIF's tag
_large = threading.Lock()
_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


def _free_large() -> None:
    """A lock that another thread held when this process was forked would never be released."""
    global _large
    _large = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_free_large)


class FolderContent(NamedTuple):
    """The content of a folder, its subfolders included.

    Attributes:
        pictures: files whose names are those of pictures, sorted.
        passed_over: the other files and folders, by what they are.
        unreadable: folders that cannot be listed, and why.
    """

    pictures: list[Path]
    passed_over: dict[str, list[Path]]
    unreadable: list[OSError]


@cache
def picture_suffixes() -> frozenset[str]:
    """The endings of pictures' names, in lower case: those that this Pillow registers for FORMATS."""
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS)


def pictures_below(folder: Path) -> FolderContent:
    """Every picture below a folder. Hidden files and folders are passed over, and folders that are links."""
    found = FolderContent([], {}, [])
    for where, subfolders, files in os.walk(folder, onerror=found.unreadable.append):
        kept = []
        for name in sorted(subfolders):
            kind = HIDDEN if name.startswith(".") else LINKED_FOLDERS if os.path.islink(Path(where, name)) else None
            if kind is None:
                kept.append(name)
            else:
                found.passed_over.setdefault(kind, []).append(Path(where, name))
        subfolders[:] = kept
        for name in files:
            kind = HIDDEN if name.startswith(".") else None if is_picture_name(name) else OTHER_TYPES
            files_of_kind = found.pictures if kind is None else found.passed_over.setdefault(kind, [])
            files_of_kind.append(Path(where, name))
    found.pictures.sort()
    return found


def is_picture_name(name: str) -> bool:
    """Whether a file's name is that of a picture that can be read. Hidden files (macOS's `._photo.jpg`) are none."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in picture_suffixes()


def passed_over_notes(passed_over: Mapping[str, Sequence[str | Path]], folder: Path | None = None) -> Iterator[str]:
    """A line for each kind of files that are passed over: how many, and the names of the first, from `folder` on."""
    for kind, files in sorted(passed_over.items()):
        names = sorted(shown(os.path.relpath(file, folder) if folder else file) for file in files)
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        types = Counter(os.path.splitext(name)[1].lower() or "no suffix" for name in names)
        told = f" ({', '.join(f'{suffix} {count}' for suffix, count in sorted(types.items()))})"
        what = f"{kind}{told if kind == OTHER_TYPES else ''}"
        yield f"{len(names)} {what} are passed over: {', '.join(names[:SHOWN])}{more}"


def shown(path: str | PathLike[str]) -> str:
    r"""A path as text that can be printed and written to a file: bytes that are no UTF-8 become \xNN."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def file_content(path: str | PathLike[str]) -> bytes:
    """The bytes of a file.

    Raises:
        ValueError: there are more than LARGEST_FILE of them.
        OSError: it cannot be read, or is no file: a pipe would keep its reader waiting.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "is a folder, a pipe or a device, and no file", os.fspath(path))
    if status.st_size > LARGEST_FILE:
        raise ValueError(f"it has {status.st_size} bytes, more than {LARGEST_FILE}")
    with open(path, "rb") as opened:
        return _bounded(opened)


def open_image(file: str | PathLike[str] | IO[bytes]) -> npt.NDArray[np.uint8]:
    """Decode a picture to RGB, uint8, shape (height, width, 3), turned upright by its EXIF orientation.

    Transparent parts are laid on white; 16-bit grey is scaled to 8 bits; of several frames the first is taken.

    Raises:
        ValueError: it is no picture of a known format, is damaged or truncated, or has more than LARGEST_FILE bytes or
            LARGEST_IMAGE pixels. Reading it again will not help.
        OSError: it cannot be read now: it is missing, or rights or memory are.
    """
    content = file_content(file) if isinstance(file, (str, PathLike)) else _bounded(file)
    try:
        pixels, orientation = _decoded(content)
    except MemoryError:
        raise OSError(errno.ENOMEM, "there is not enough memory to decode it") from None
    except UnidentifiedImageError as error:
        raise ValueError("cannot be read as a picture: no known format, or damaged at its beginning") from error
    except (Image.DecompressionBombError, *_DECODER_ERRORS) as error:
        raise ValueError(f"cannot be read as a picture: {error or type(error).__name__}") from error
    return _upright(pixels, orientation)


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
    """An RGB picture (H, W, 3), uint8, as a model's input (3, height, width), float32: `fit_to_size`, scale to 0..1, normalize.

    For a model that scales and normalises itself (`normalised_inside`), just `fit_to_size`: (height, width, 3), uint8.
    The keywords are the fields of an IOSpec's `preprocess`. Equal to torchvision's Resize (on a PIL image),
    CenterCrop, ToTensor and Normalize.
    """
    fitted = fit_to_size(
        image, height=height, width=width, resize=resize, crop_pct=crop_pct, interpolation=interpolation
    )
    if normalised_inside:
        return fitted
    channels = fitted.transpose(2, 0, 1).astype(np.float32) / np.float32(255)
    normalised: npt.NDArray[np.float32] = (channels - _per_channel(mean)) / _per_channel(std)
    return normalised


def fit_to_size(
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


def _bounded(opened: IO[bytes]) -> bytes:
    content = opened.read(LARGEST_FILE + 1)
    if len(content) > LARGEST_FILE:
        raise ValueError(f"it has more than {LARGEST_FILE} bytes")
    return content


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _decoded(content: bytes) -> tuple[npt.NDArray[np.uint8], int]:
    """The pixels (height, width, 3) as they are stored, and the EXIF orientation."""
    with Image.open(BytesIO(content), formats=_formats()) as image:
        count = image.width * image.height
        if count > LARGEST_IMAGE:
            raise ValueError(f"{image.width}x{image.height} pixels are more than {LARGEST_IMAGE}")
        with _large if count > ONE_AT_A_TIME else nullcontext():
            image.load()
            return _pixels(image), image.getexif().get(_ORIENTATION, 1)


def _pixels(image: Image.Image) -> npt.NDArray[np.uint8]:
    """RGB, converted band by band: beside the decoded picture and the result no large copy takes memory."""
    rows = max(1, _BAND // image.width)
    if rows >= image.height:
        return np.asarray(_rgb(image))
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        pixels[top:bottom] = np.asarray(_rgb(image.crop((0, top, image.width, bottom))))
    return pixels


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _eight_bit(image).convert("RGB")
    if image.has_transparency_data:
        transparent = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, transparent).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bit(image: Image.Image) -> Image.Image:
    values: npt.NDArray[Any] = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise ValueError(f"pixels of mode {image.mode} have no fixed range; save the picture with 8 or 16 bits")
    return Image.fromarray(((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8))


def _upright(pixels: npt.NDArray[np.uint8], orientation: int) -> npt.NDArray[np.uint8]:
    """Undo what the EXIF orientation says was done to the picture."""
    turned = {
        2: lambda: pixels[:, ::-1],
        3: lambda: pixels[::-1, ::-1],
        4: lambda: pixels[::-1],
        5: lambda: pixels.transpose(1, 0, 2),
        6: lambda: np.rot90(pixels, -1),
        7: lambda: pixels[::-1, ::-1].transpose(1, 0, 2),
        8: lambda: np.rot90(pixels),
    }.get(orientation)
    return pixels if turned is None else np.ascontiguousarray(turned())


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
