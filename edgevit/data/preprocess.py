"""Find and decode images, and preprocess them into a model's input.

Bundles hold this file, and devices run it, as it is. It needs numpy and Pillow alone, Python 3.8 or later.
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
from functools import lru_cache
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

# Formats of still images that are recognized by their first bytes. Pillow's other formats run programs (PostScript),
# hold videos, icons or measurements, or accept any bytes.
FORMATS = ("JPEG", "MPO", "JPEG2000", "PNG", "WEBP", "AVIF", "TIFF", "GIF", "BMP", "PPM", "QOI")
LARGEST_FILE = 2**28  # bytes
LARGEST_IMAGE = 2**27  # pixels
ONE_AT_A_TIME = 2**24  # pixels; threads decode larger images one after the other
LONGEST_STRIP = 64  # aspect ratio; the far ends of longer strips are cut off before resizing

HIDDEN = "hidden files and folders"
OTHER_TYPES = "files of other types"
LINKED_FOLDERS = "links to folders"
SYSTEM_FOLDERS = "folders of thumbnails or of the system"
SHOWN = 5  # file names in a note
_SYSTEM_NAMES = ("@eadir", "#recycle", "$recycle.bin", "__macosx", "thumbnails", "lost+found")

# Errors of Pillow's decoders on damaged bytes, besides ValueError.
_DECODER_ERRORS = (OSError, SyntaxError, EOFError, struct.error, TypeError, LookupError, OverflowError, RuntimeError)
_BAND = 2**20  # pixels that are converted at a time
_ORIENTATION = 0x0112  # EXIF's tag
_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")  # modes of Pillow
_large_image_lock = threading.Lock()
_Resampling = getattr(Image, "Resampling", Image)  # Pillow 9.0 has the filters in the module
_FILTERS = {"nearest": _Resampling.NEAREST, "bilinear": _Resampling.BILINEAR, "bicubic": _Resampling.BICUBIC}


def _new_lock_after_fork() -> None:
    """Replace the lock after a fork: a lock held by a thread of the parent process would never be released."""
    global _large_image_lock
    _large_image_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_lock_after_fork)


class FolderContent(NamedTuple):
    """The content of a folder and its subfolders.

    Attributes:
        images: files with the name of an image, sorted.
        passed_over: the other files and folders, by category (HIDDEN, OTHER_TYPES, LINKED_FOLDERS, SYSTEM_FOLDERS).
        unreadable: the errors of folders that cannot be listed.
    """

    images: list[Path]
    passed_over: dict[str, list[Path]]
    unreadable: list[OSError]


@lru_cache
def image_suffixes() -> frozenset[str]:
    """The file name suffixes, in lower case, that the installed Pillow registers for FORMATS."""
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS)


def images_below(folder: Path) -> FolderContent:
    """All images below a folder.

    Hidden files, hidden folders, links to folders, and folders such as `@eaDir` and `thumbnails` are passed over.
    """
    content = FolderContent([], {}, [])
    for where, subfolders, files in os.walk(folder, onerror=content.unreadable.append):
        kept = []
        for name in sorted(subfolders):
            category = _reason_to_pass_over(where, name)
            if category is None:
                kept.append(name)
            else:
                content.passed_over.setdefault(category, []).append(Path(where, name))
        subfolders[:] = kept
        for name in files:
            if is_image_name(name):
                content.images.append(Path(where, name))
            else:
                category = HIDDEN if name.startswith(".") else OTHER_TYPES
                content.passed_over.setdefault(category, []).append(Path(where, name))
    content.images.sort()
    return content


def is_image_name(name: str) -> bool:
    """Whether a file name has the suffix of a readable image and is not hidden (as macOS's `._photo.jpg` is)."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in image_suffixes()


def is_system_folder(name: str) -> bool:
    """Whether a folder's name is one that photo programs, network storage or archives give to folders of their own."""
    return name.lower() in _SYSTEM_NAMES


def _reason_to_pass_over(where: str, name: str) -> str | None:
    """The category of a folder that is passed over, or None."""
    if name.startswith("."):
        return HIDDEN
    if is_system_folder(name):
        return SYSTEM_FOLDERS
    return LINKED_FOLDERS if os.path.islink(Path(where, name)) else None


def passed_over_notes(passed_over: Mapping[str, Sequence[str | Path]], folder: Path | None = None) -> Iterator[str]:
    """A line for each category of passed-over files: their number, and the first names, relative to `folder`."""
    for category, files in sorted(passed_over.items()):
        names = sorted(printable_path(os.path.relpath(file, folder) if folder else file) for file in files)
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        types = ""
        if category == OTHER_TYPES:
            counts = Counter(os.path.splitext(name)[1].lower() or "no suffix" for name in names)
            types = f" ({', '.join(f'{suffix} {count}' for suffix, count in sorted(counts.items()))})"
        yield f"{len(names)} {category}{types} are passed over: {', '.join(names[:SHOWN])}{more}"


def printable_path(path: str | PathLike[str]) -> str:
    r"""A path as text that can be printed and written to a file: bytes that are not UTF-8 become \xNN."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def file_content(path: str | PathLike[str]) -> bytes:
    """The bytes of a file.

    Raises:
        ValueError: the file has more than LARGEST_FILE bytes.
        OSError: the file cannot be read, or is not a regular file (a pipe would block the reader).
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "is a folder, a pipe or a device, not a file", os.fspath(path))
    if status.st_size > LARGEST_FILE:
        raise ValueError(f"it has {status.st_size} bytes, more than {LARGEST_FILE}")
    with open(path, "rb") as opened:
        return _bounded(opened)


def open_image(file: str | PathLike[str] | IO[bytes]) -> npt.NDArray[np.uint8]:
    """Decode an image to RGB, uint8, shape (height, width, 3), turned upright by its EXIF orientation.

    Transparent parts are blended with white; 16-bit gray is scaled to 8 bits; only the first of several frames is read.

    Raises:
        ValueError: the image has no known format, is damaged or truncated, or has more than LARGEST_FILE bytes or
            LARGEST_IMAGE pixels. Another attempt will give the same error.
        OSError: the image cannot be read now: the file, the permission or memory is missing.
    """
    content = file_content(file) if isinstance(file, (str, PathLike)) else _bounded(file)
    try:
        pixels, orientation = _decoded(content)
    except MemoryError:
        raise OSError(errno.ENOMEM, "there is not enough memory to decode it") from None
    except UnidentifiedImageError as error:
        raise ValueError("cannot be read as an image: no known format, or damaged at its beginning") from error
    except (Image.DecompressionBombError, *_DECODER_ERRORS) as error:
        raise ValueError(f"cannot be read as an image: {error or type(error).__name__}") from error
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
    """Preprocess an RGB image (H, W, 3), uint8, into a model's input (3, height, width), float32.

    The steps are `fit_to_size` and `normalized`, as torchvision's Resize (on a PIL image), CenterCrop, ToTensor and
    Normalize. A model with `normalised_inside` scales and normalizes by itself: its input is the output of
    `fit_to_size`, (height, width, 3), uint8. The keywords are the fields of an IOSpec's `preprocess`.
    """
    fitted = fit_to_size(
        image, height=height, width=width, resize=resize, crop_pct=crop_pct, interpolation=interpolation
    )
    return fitted if normalised_inside else normalized(fitted, mean, std)


def fit_to_size(
    image: npt.NDArray[np.uint8], *, height: int, width: int, resize: str, crop_pct: float, interpolation: str
) -> npt.NDArray[np.uint8]:
    """Resize an image (H, W, 3), uint8, to (height, width, 3), uint8.

    "squash" resizes both sides and ignores the aspect ratio. "crop" keeps the aspect ratio: the image is resized
    until it just covers (height, width) / crop_pct, then the center is cut out.
    """
    whole = Image.fromarray(np.ascontiguousarray(image))
    if resize == "squash":
        return np.asarray(_resized(whole, width, height, interpolation))
    if resize != "crop":
        raise ValueError(f"resize is {resize!r}, expected 'crop' or 'squash'")
    whole = _without_far_ends(whole)
    cover_width, cover_height = int(width / crop_pct), int(height / crop_pct)
    if cover_width * whole.height >= cover_height * whole.width:
        cover_height = cover_width * whole.height // whole.width
    else:
        cover_width = cover_height * whole.width // whole.height
    covering = _resized(whole, cover_width, cover_height, interpolation)
    left, top = round((cover_width - width) / 2), round((cover_height - height) / 2)
    return np.asarray(covering.crop((left, top, left + width, top + height)))


def normalized(image: npt.NDArray[np.uint8], mean: Sequence[float], std: Sequence[float]) -> npt.NDArray[np.float32]:
    """An image (H, W, 3), uint8, scaled to 0..1 and normalized by the mean and std of each channel: (3, H, W)."""
    channels = image.transpose(2, 0, 1).astype(np.float32) / np.float32(255)
    values: npt.NDArray[np.float32] = (channels - _per_channel(mean)) / _per_channel(std)
    return values


def _bounded(opened: IO[bytes]) -> bytes:
    content = opened.read(LARGEST_FILE + 1)
    if len(content) > LARGEST_FILE:
        raise ValueError(f"it has more than {LARGEST_FILE} bytes")
    return content


@lru_cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _decoded(content: bytes) -> tuple[npt.NDArray[np.uint8], int]:
    """The pixels (height, width, 3) as stored, and the EXIF orientation."""
    with Image.open(BytesIO(content), formats=_formats()) as image:
        num_pixels = image.width * image.height
        if num_pixels > LARGEST_IMAGE:
            raise ValueError(f"{image.width}x{image.height} pixels are more than {LARGEST_IMAGE}")
        with _large_image_lock if num_pixels > ONE_AT_A_TIME else nullcontext():
            image.load()
            return _pixels(image), image.getexif().get(_ORIENTATION, 1)


def _pixels(image: Image.Image) -> npt.NDArray[np.uint8]:
    """The pixels in RGB, converted in bands, so that no further copy of the whole image takes memory."""
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
    if _has_transparency(image):
        transparent = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, transparent).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _has_transparency(image: Image.Image) -> bool:
    """Pillow's `has_transparency_data`, which versions before 10.1 lack."""
    is_in_palette = image.palette is not None and image.mode == "P" and image.palette.mode.endswith("A")
    return is_in_palette or image.mode in _WITH_ALPHA or "transparency" in image.info


def _eight_bit(image: Image.Image) -> Image.Image:
    values: npt.NDArray[Any] = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise ValueError(f"pixels of mode {image.mode} have no fixed range; save the image with 8 or 16 bits")
    return Image.fromarray(((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8))


def _upright(pixels: npt.NDArray[np.uint8], orientation: int) -> npt.NDArray[np.uint8]:
    """The image upright: the rotation or reflection of its EXIF orientation is undone."""
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
    """Cut off the far ends of a very long strip, which bounds the memory of resizing. Photos are not changed."""
    width = min(image.width, image.height * LONGEST_STRIP)
    height = min(image.height, image.width * LONGEST_STRIP)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _per_channel(values: Sequence[float]) -> npt.NDArray[np.float32]:
    return np.asarray(values, dtype=np.float32).reshape(3, 1, 1)
