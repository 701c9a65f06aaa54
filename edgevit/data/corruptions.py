"""Pictures hurt in known ways at five severities, after Hendrycks and Dietterich 2019 (arXiv:1903.12261).

Only the kinds and the idea of five severities are theirs: figures taken with these pictures are not ImageNet-C's or
CIFAR-10-C's. What is a length is a share of the picture's short side, so that a picture of 32 pixels and one of 224
are hurt alike. Noise and JPEG, whose effect hangs on the number of pixels, are as strong as in CIFAR-10-C at 32 pixels
and as in ImageNet-C at 224 pixels, and in geometric proportion between. Darkness, which they do not have, is the night.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image as Pictures
from PIL import ImageDraw, ImageFilter

from edgevit.configs import Corruption
from edgevit.data.images import Image
from edgevit.data.preprocess import LONGEST_STRIP

COMMON_SHORT_SIDE = 256  # pixels

# One number for each severity.
BRIGHTNESS = (0.1, 0.2, 0.3, 0.4, 0.5)  # added to HSV's value
DARKNESS_STOPS = (1, 2, 3, 4, 5)  # each halves the light
CONTRAST = (0.4, 0.3, 0.2, 0.1, 0.05)  # what is left of it
BLUR_SIGMA = (0.0125, 0.0175, 0.0225, 0.0275, 0.035)  # of the short side
NOISE_SIGMA = {32: (0.04, 0.06, 0.08, 0.09, 0.10), 224: (0.08, 0.12, 0.18, 0.26, 0.38)}  # by short side
JPEG_QUALITY = {32: (80, 65, 58, 50, 40), 224: (25, 18, 15, 10, 7)}
FOG_DEPTH = (0.4, 0.7, 1.0, 1.4, 1.9)  # mean optical depth: exp(-depth) of the picture is left
SNOW_FLAKES = (150, 300, 500, 750, 1000)  # on a square of the short side

DISPLAY_GAMMA = 2.2
FOG_LIGHT = 0.9
FOG_CELLS = (2, 4, 8, 16)  # of the cloud's octaves, along the short side
BLUR_TRUNCATE = 4.0  # sigmas, as in scipy
SNOW_CANVAS = 256  # short side of the canvas that flakes are drawn on
LONGEST_SNOW_CANVAS = 4096

Unit: TypeAlias = npt.NDArray[np.float32]  # (height, width, 3), 0 to 1


def corrupt(image: Image, kind: Corruption, severity: int, seed: str) -> Image:
    """A hurt copy of an RGB picture, uint8 (H, W, 3), of any size.

    Args:
        severity: 1 to 5.
        seed: beside kind and severity, what the random draw is a function of: it should name the sample.
    """
    draw = hashlib.sha256(f"{seed}/{kind}/{severity}".encode()).digest()
    generator = np.random.default_rng(int.from_bytes(draw[:16], "big"))
    return _uint8(_CORRUPTIONS[kind](image.astype(np.float32) / np.float32(255), severity - 1, generator))


def at_common_size(image: Image) -> Image:
    """A picture whose short side is longer than 256 pixels, reduced to that; far ends of long strips are cut off."""
    rows, columns = image.shape[:2]
    height, width = min(rows, columns * LONGEST_STRIP), min(columns, rows * LONGEST_STRIP)
    top, left = (rows - height) // 2, (columns - width) // 2
    image = image[top : top + height, left : left + width]
    short = min(height, width)
    if short <= COMMON_SHORT_SIDE:
        return image
    size = (width * COMMON_SHORT_SIDE // short, height * COMMON_SHORT_SIDE // short)
    return np.asarray(Pictures.fromarray(np.ascontiguousarray(image)).resize(size, Pictures.Resampling.BICUBIC))


def _brightness(image: Unit, level: int, _: np.random.Generator) -> Unit:
    value = image.max(-1, keepdims=True)
    brighter = np.minimum(value + BRIGHTNESS[level], 1)
    scaled = image * (brighter / np.where(value > 0, value, 1))
    return np.asarray(np.where(value > 0, scaled, brighter), np.float32)


def _darkness(image: Unit, level: int, _: np.random.Generator) -> Unit:
    return image * np.float32(2 ** (-DARKNESS_STOPS[level] / DISPLAY_GAMMA))


def _contrast(image: Unit, level: int, _: np.random.Generator) -> Unit:
    mean = image.mean((0, 1))
    return np.asarray(mean + np.float32(CONTRAST[level]) * (image - mean))


def _blur(image: Unit, level: int, _: np.random.Generator) -> Unit:
    """Gaussian; the picture is mirrored at its edges. A sigma below a third of a pixel does nothing."""
    sigma = BLUR_SIGMA[level] * _short_side(image)
    radius = int(BLUR_TRUNCATE * sigma + 0.5)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel = (kernel / kernel.sum()).astype(np.float32)
    return _convolved(_convolved(image, kernel, axis=0), kernel, axis=1)


def _convolved(image: Unit, kernel: npt.NDArray[np.float32], axis: int) -> Unit:
    radius, size = len(kernel) // 2, image.shape[axis]
    around = [(radius, radius) if one == axis else (0, 0) for one in range(image.ndim)]
    padded = np.moveaxis(np.pad(image, around, mode="symmetric"), axis, 0)
    total = np.zeros_like(padded[:size])
    for offset, weight in enumerate(kernel):
        total += weight * padded[offset : offset + size]
    return np.moveaxis(total, 0, axis)


def _noise(image: Unit, level: int, generator: np.random.Generator) -> Unit:
    """Gaussian, drawn for each pixel and channel."""
    sigma = _for_size(NOISE_SIGMA, level, image)
    return image + np.float32(sigma) * generator.standard_normal(image.shape, dtype=np.float32)


def _jpeg(image: Unit, level: int, _: np.random.Generator) -> Unit:
    buffer = BytesIO()
    Pictures.fromarray(_uint8(image)).save(buffer, "JPEG", quality=round(_for_size(JPEG_QUALITY, level, image)))
    with Pictures.open(buffer) as decoded:
        return np.asarray(decoded, np.float32) / np.float32(255)


def _fog(image: Unit, level: int, generator: np.random.Generator) -> Unit:
    """Koschmieder's law, J·t + A·(1 - t) with t = exp(-depth), the depth varying as clouds do."""
    height, width = image.shape[:2]
    short, cloud = _short_side(image), np.zeros((height, width), np.float32)
    for octave, cells in enumerate(FOG_CELLS):
        rows, columns = (min(side, math.ceil(side * cells / short)) for side in (height, width))
        grid = Pictures.fromarray(generator.random((rows, columns), dtype=np.float32))
        cloud += 0.5**octave * np.asarray(grid.resize((width, height), Pictures.Resampling.BILINEAR))
    depth = FOG_DEPTH[level] * (0.5 + 0.5 * cloud / cloud.mean())
    left = np.exp(-depth)[..., np.newaxis]
    return np.asarray(image * left + FOG_LIGHT * (1 - left), np.float32)


def _snow(image: Unit, level: int, generator: np.random.Generator) -> Unit:
    """Bright streaks that fall in one direction, laid over the picture by their opacity."""
    height, width = image.shape[:2]
    scale = SNOW_CANVAS / _short_side(image)
    canvas_width, canvas_height = (min(LONGEST_SNOW_CANVAS, round(side * scale)) for side in (width, height))
    canvas = Pictures.new("L", (canvas_width, canvas_height))
    pencil, direction = ImageDraw.Draw(canvas), generator.uniform(np.pi / 4, 3 * np.pi / 4)
    count = round(SNOW_FLAKES[level] * canvas_width * canvas_height / SNOW_CANVAS**2)
    places = generator.random((count, 2)) * (canvas_width, canvas_height)
    streaks = generator.uniform(0.01, 0.05, (count, 1)) * SNOW_CANVAS * (np.cos(direction), np.sin(direction))
    widths = generator.integers(2, 6, count)
    opacities = generator.integers(150, 256, count)
    for place, streak, thickness, opacity in zip(places, streaks, widths, opacities, strict=True):
        pencil.line((*place, *(place + streak)), fill=int(opacity), width=int(thickness))
    layer = canvas.filter(ImageFilter.GaussianBlur(1)).resize((width, height), Pictures.Resampling.BILINEAR)
    opacity = np.asarray(layer, np.float32)[..., np.newaxis] / np.float32(255)
    return image + (1 - image) * opacity


_CORRUPTIONS: dict[Corruption, Callable[[Unit, int, np.random.Generator], Unit]] = {
    "brightness": _brightness,
    "darkness": _darkness,
    "contrast": _contrast,
    "blur": _blur,
    "noise": _noise,
    "jpeg": _jpeg,
    "fog": _fog,
    "snow": _snow,
}


def _for_size(strengths: Mapping[int, Sequence[float]], level: int, image: Unit) -> float:
    """The strength for a picture of this size: in geometric proportion between two sizes, level beyond them."""
    (small, at_small), (large, at_large) = sorted(strengths.items())
    place = math.log(_short_side(image) / small) / math.log(large / small)
    return float(at_small[level] * (at_large[level] / at_small[level]) ** min(1.0, max(0.0, place)))


def _short_side(image: Unit) -> int:
    return int(min(image.shape[:2]))


def _uint8(image: Unit) -> Image:
    return np.clip(np.rint(image * 255), 0, 255).astype(np.uint8)
